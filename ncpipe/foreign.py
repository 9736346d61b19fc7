"""Arrays from files that others wrote: safetensors or NumPy's npz, never pickles."""

from __future__ import annotations

import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.collapse.arguments import number_classes
from ncpipe.data.storage import check_memory
from ncpipe.errors import UserError
from ncpipe.files import read_tensors

BROKEN = (zipfile.BadZipFile, zlib.error, KeyError, TypeError, SyntaxError, NotImplementedError, UnicodeError)
"""What NumPy and zipfile raise for damaged files."""
NAMES = ("features", "labels", "weight", "bias", "train_means", "ood_features")


def read_arrays(path: Path) -> dict[str, Any]:
    """Arguments of ``ncpipe.measure`` by name; of other entries one line on stderr says that they are not read."""
    if path.suffix == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                check_memory(str(path), sum(info.file_size for info in file.zip.infolist()), "measure fewer samples")
                arrays: dict[str, Any] = {n: _entry(path, file, n) if n in NAMES else None for n in file.files}
        except (OSError, EOFError, ValueError, AttributeError, MemoryError, RuntimeError, *BROKEN) as error:
            raise UserError(f"cannot read {path}: {error or 'an array is larger than the memory'}") from None
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


def _entry(path: Path, file: Any, name: str) -> Any:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
    remedy = number_classes(None) if name == "labels" else f"save {name}.astype(np.float64)"
    raise UserError(f"cannot read {path}: {name} holds Python objects, {remedy}")
