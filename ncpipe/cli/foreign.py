"""Arrays to measure from files, of which features are read a piece at a time; features that a study has kept.

Files of safetensors, NumPy's npz or Parquet, or a folder of NumPy's npy, never pickles.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ncpipe.cli.stored_rows import legible, of_npy, of_parquet, of_safetensors
from ncpipe.collapse.arguments import number_classes
from ncpipe.collapse.arrays import stored_means
from ncpipe.data.places import check_memory
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors, tensor_names

NAMES = ("features", "labels", "weight", "bias", "train_means", "ood_features")


KEPT = re.compile(r"(?P<epoch>\d+)/(?P<layer>.+)/(?P<split>\w+)")
"""Names of features that a study has kept, beside labels/<split>."""


def read_arrays(path: Path, of: str | None = None) -> dict[str, Any]:
    """Arguments of ``ncpipe.measure`` by name; of other entries one line on stderr says that they are not read.

    Of features that a study has kept these are those ``of`` an epoch, layer and split, by default the last epoch's
    last layer on training images; on others with the means of the training classes, where these are kept.
    """
    if path.is_dir():
        arrays = _read_folder(path)
    elif path.suffix in (".npz", ".parquet"):
        arrays = (_read_npz if path.suffix == ".npz" else _read_parquet)(path)
    else:
        arrays = _read_safetensors(path, of)
    missing = {"features", "labels"} - set(arrays)
    if missing:
        raise UserError(
            f"{path} holds no {' and no '.join(sorted(missing))}; it holds {', '.join(arrays) or 'nothing'}"
        )
    if unread := sorted(set(arrays) - set(NAMES)):
        print(f"{path}: not read: {', '.join(unread)}; known are {', '.join(NAMES)}", file=sys.stderr)
    return {name: arrays[name] for name in NAMES if name in arrays}


def _read_npz(path: Path) -> dict[str, Any]:
    with legible(path), np.load(path, allow_pickle=False) as file:
        rows = of_npy(path, partial(_member, path)) if "features" in file.files else None
        held = {*NAMES} - ({"features"} if rows else set())
        sizes = {info.filename.removesuffix(".npy"): info.file_size for info in file.zip.infolist()}
        check_memory(str(path), sum(size for name, size in sizes.items() if name in held), "measure fewer samples")
        return {name: _entry(path, file, name) if name in held else rows for name in file.files}


@contextmanager
def _member(path: Path) -> Iterator[Any]:
    with zipfile.ZipFile(path) as file, file.open("features.npy") as stream:
        yield stream


def _stream(path: Path) -> BinaryIO:
    return path.open("rb")


def _read_folder(path: Path) -> dict[str, Any]:
    """Arrays of ``np.save`` by the names of their files."""
    files = {file.stem: file for file in sorted(path.glob("*.npy"))}
    arrays: dict[str, Any] = dict.fromkeys(files)
    for name in files.keys() & {*NAMES}:
        with legible(files[name]):
            rows = of_npy(files[name], partial(_stream, files[name])) if name == "features" else None
            arrays[name] = rows or _entry(files[name], {name: files[name]}, name)
    return arrays


def _read_parquet(path: Path) -> dict[str, Any]:
    """Arrays of columns: ``features``, lists of numbers, and ``labels``."""
    from pyarrow.parquet import ParquetFile

    with legible(path), ParquetFile(path) as file:
        arrays: dict[str, Any] = dict.fromkeys(file.schema_arrow.names)
        if "labels" in arrays:
            arrays["labels"] = file.read(columns=["labels"])["labels"].to_numpy()
        return arrays | ({"features": of_parquet(path, "features")} if "features" in arrays else {})


def _read_safetensors(path: Path, of: str | None) -> dict[str, Any]:
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: expected a .safetensors, .npz or .parquet file, or a folder of .npy files")
    with _legible(path):
        names = tensor_names(path)
        kept = [name for name in names if (found := KEPT.fullmatch(name)) and f"labels/{found['split']}" in names]
        if not kept and of is None:
            whole = read_tensors(path, ({*NAMES} - {"features"}).__contains__)[0]
            features = {"features": of_safetensors(path, "features")} if "features" in names else {}
            return dict.fromkeys(names) | whole | features
    chosen = _chosen(path, kept, of)
    place, split = chosen.rsplit("/", 1)
    training = f"{place}/train"
    with _legible(path):
        labels = read_tensors(path, {f"labels/{split}", "labels/train"}.__contains__)[0]
        arrays: dict[str, Any] = {"features": of_safetensors(path, chosen), "labels": labels[f"labels/{split}"]}
        trained = of_safetensors(path, training) if split != "train" and training in names else None
    print(f"{path}: {chosen}, of {len(kept)} kept; --of names another", file=sys.stderr)
    if trained is not None:
        of_train = labels["labels/train"]
        arrays["train_means"] = stored_means(trained, of_train, int(of_train.max()) + 1)[1]
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
        return np.load(file[name], allow_pickle=False) if isinstance(file[name], Path) else file[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
    remedy = number_classes(None) if name == "labels" else f"save {name}.astype(np.float64)"
    raise UserError(f"cannot read {path}: {name} holds Python objects, {remedy}")
