"""Arrays from files that others wrote: safetensors or NumPy's npz, never pickles."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.errors import UserError
from ncpipe.files import read_tensors

NAMES = ("features", "labels", "weight", "bias", "train_means", "ood_features")


def read_arrays(path: Path) -> dict[str, Any]:
    """Arguments of ``ncpipe.measure`` by name; of other entries one line on stderr says that they are not read."""
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays: dict[str, Any] = {name: file[name] for name in file.files}
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise UserError(f"cannot read {path}: {error}") from None
    elif path.suffix == ".safetensors":
        try:
            arrays = dict(read_tensors(path)[0])
        except UserError:
            raise UserError(f"cannot read {path}: it is missing, truncated or not a safetensors file") from None
    else:
        raise UserError(f"{path}: expected a .safetensors or .npz file; numpy.savez or safetensors write them")
    missing = {"features", "labels"} - set(arrays)
    if missing:
        raise UserError(
            f"{path} holds no {' and no '.join(sorted(missing))}; it holds {', '.join(arrays) or 'nothing'}"
        )
    if unread := sorted(set(arrays) - set(NAMES)):
        print(f"{path}: not read: {', '.join(unread)}; known are {', '.join(NAMES)}", file=sys.stderr)
    return {name: arrays[name] for name in NAMES if name in arrays}
