"""Arrays to measure from files: safetensors or NumPy's npz, never pickles; features that a study has kept."""

from __future__ import annotations

import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.collapse import class_means
from ncpipe.collapse.arguments import number_classes
from ncpipe.data.places import check_memory
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors, tensor_names

BROKEN = (zipfile.BadZipFile, zlib.error, KeyError, TypeError, SyntaxError, NotImplementedError, UnicodeError)
"""What NumPy and zipfile raise for damaged files."""
NAMES = ("features", "labels", "weight", "bias", "train_means", "ood_features")


KEPT = re.compile(r"(?P<epoch>\d+)/(?P<layer>.+)/(?P<split>\w+)")
"""Names of features that a study has kept, beside labels/<split>."""


def read_arrays(path: Path, of: str | None = None) -> dict[str, Any]:
    """Arguments of ``ncpipe.measure`` by name; of other entries one line on stderr says that they are not read.

    Of features that a study has kept these are those ``of`` an epoch, layer and split, by default the last epoch's
    last layer on training images; on others with the means of the training classes, where these are kept.
    """
    arrays = _read_npz(path) if path.suffix == ".npz" else _read_safetensors(path, of)
    missing = {"features", "labels"} - set(arrays)
    if missing:
        raise UserError(
            f"{path} holds no {' and no '.join(sorted(missing))}; it holds {', '.join(arrays) or 'nothing'}"
        )
    if unread := sorted(set(arrays) - set(NAMES)):
        print(f"{path}: not read: {', '.join(unread)}; known are {', '.join(NAMES)}", file=sys.stderr)
    return {name: arrays[name] for name in NAMES if name in arrays}


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            check_memory(str(path), sum(info.file_size for info in file.zip.infolist()), "measure fewer samples")
            return {name: _entry(path, file, name) if name in NAMES else None for name in file.files}
    except (OSError, EOFError, ValueError, AttributeError, MemoryError, RuntimeError, *BROKEN) as error:
        raise UserError(f"cannot read {path}: {error or 'an array is larger than the memory'}") from None


def _read_safetensors(path: Path, of: str | None) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a .safetensors or .npz file; numpy.savez or safetensors write them")
    with _legible(path):
        names = tensor_names(path)
    kept = [name for name in names if (found := KEPT.fullmatch(name)) and f"labels/{found['split']}" in names]
    if not kept and of is None:
        with _legible(path):
            return dict(read_tensors(path)[0])
    chosen = _chosen(path, kept, of)
    place, split = chosen.rsplit("/", 1)
    training = f"{place}/train"
    with _legible(path):
        tensors = read_tensors(path, {chosen, training, f"labels/{split}", "labels/train"}.__contains__)[0]
    print(f"{path}: {chosen}, of {len(kept)} kept; --of names another", file=sys.stderr)
    arrays: dict[str, Any] = {"features": tensors[chosen], "labels": tensors[f"labels/{split}"]}
    if split != "train" and training in tensors:
        labels = tensors["labels/train"]
        arrays["train_means"] = class_means(tensors[training], labels, int(labels.max()) + 1)[1]
    return arrays


@contextmanager
def _legible(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise UserError(f"cannot read {path}: it is missing, truncated or not a safetensors file") from None


def _chosen(path: Path, kept: list[str], of: str | None) -> str:
    """The kept features that are asked for, or the last epoch's of the layer 'features' on training images."""
    listed = ", ".join(kept[:8]) + (", ..." if len(kept) > 8 else "")
    if of is not None:
        if of not in kept:
            raise UserError(f"{path} holds no kept features {of!r}; it holds {listed or 'none'}")
        return of

    def rank(name: str) -> tuple[int, bool, bool]:
        epoch, layer, split = KEPT.fullmatch(name).groups()  # type: ignore[union-attr]
        return int(epoch), layer == "features", split == "train"

    best = max(kept, key=rank)
    if [rank(name) for name in kept].count(rank(best)) > 1:
        raise UserError(f"{path} holds features of several layers: name one with --of, of {listed}")
    return best


def _entry(path: Path, file: Any, name: str) -> Any:
    try:
        return file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
    remedy = number_classes(None) if name == "labels" else f"save {name}.astype(np.float64)"
    raise UserError(f"cannot read {path}: {name} holds Python objects, {remedy}")
