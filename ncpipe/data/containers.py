"""Files of named arrays: what is in them without reading it, and how it is read.

Imports no torch but for files of ``torch.save``: a study is planned without it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ncpipe.system.errors import UserError

TABLES = {".csv": "csv", ".parquet": "parquet", ".arrow": "ipc", ".feather": "ipc"}
"""Kinds of tables, with pyarrow's names for them."""
CLASS_NAMES = "class_names"


class Member(NamedTuple):
    """An array of a file, not yet read."""

    shape: tuple[int, ...]
    read: Callable[[], Any]
    """Gives the array, of an opened file with errors in a line."""
    is_uint8: bool = False


def open_members(path: Path, label: str | None = None) -> dict[str, Member]:
    """The arrays of a file by name.

    A table has 'vectors' (N, d), its numeric columns in their order, and 'labels' (N,), the column ``label``.
    The names of classes are 'class_names' (K,); safetensors hold them as a JSON list in the metadata. Raises
    ``UserError`` for a file that is damaged or of another kind; so may reading.
    """
    ending = path.suffix.lower()
    if label is not None and ending not in TABLES:
        raise UserError(f"{path} is no table and has no column {label!r}: leave dataset.label out")
    if ending not in (*TABLES, *OPENERS):
        raise UserError(f"{path}: arrays are read from {', '.join((*OPENERS, *TABLES))}; save them as one of these")
    with _whole(path):
        found = _of_table(path, TABLES[ending], label) if ending in TABLES else OPENERS[ending](path)
    return {name: member._replace(read=partial(_read, path, member)) for name, member in found.items()}


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Say in a line what a file does not let itself be read for."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of foreign files raise anything at damaged ones
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        reason = reason.rpartition("file?: ")[2]  # pyarrow's advice
        raise UserError(f"cannot read {path}: {reason}; give a whole file of plain arrays or tensors") from None


def _read(path: Path, member: Member) -> np.ndarray:
    with _whole(path):
        return np.asarray(member.read())


def _of_npz(path: Path) -> dict[str, Member]:
    headers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    members = {}
    with zipfile.ZipFile(path) as archive:
        for file in archive.namelist():
            with archive.open(file) as stream:
                shape, _, dtype = headers[np.lib.format.read_magic(stream)](stream)
            name = file.removesuffix(".npy")
            if dtype.hasobject:
                raise UserError(f"{path}: {name!r} holds Python objects: save plain numbers or text")
            members[name] = Member(shape, partial(_npz_array, path, name), dtype == np.uint8)
    return members


def _npz_array(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        array: np.ndarray = archive[name]
        return array


def _of_safetensors(path: Path) -> dict[str, Member]:
    from safetensors import safe_open

    def tensor(name: str) -> np.ndarray:
        with safe_open(path, framework="numpy") as file:
            array: np.ndarray = file.get_tensor(name)
            return array

    with safe_open(path, framework="numpy") as file:
        parts = {name: file.get_slice(name) for name in sorted(file.keys())}
        members = {
            name: Member(tuple(part.get_shape()), partial(tensor, name), part.get_dtype() == "U8")
            for name, part in parts.items()
        }
        names = (file.metadata() or {}).get(CLASS_NAMES)
    if names is not None:
        members[CLASS_NAMES] = Member((len(json.loads(names)),), partial(json.loads, names))
    return members


def read_torch(path: Path) -> Any:
    """What ``torch.save`` wrote, of which nothing but plain data is read; ``UserError`` where that is not all."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # of a damaged file anything
        foreign = "can still be loaded" in str(error) or "TorchScript" in str(error)
        why = "it holds objects beside plain data" if foreign else "it is damaged or was not written by torch.save"
        raise UserError(f"cannot read {path}: {why}; save plain tensors by name, as model.state_dict()") from None


def _of_torch(path: Path) -> dict[str, Member]:
    import torch

    found = read_torch(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}: save a dict of tensors by name")
    members = {}
    for name, value in found.items():
        if isinstance(value, torch.Tensor):
            tensor = value.detach().float() if value.dtype == torch.bfloat16 else value.detach()
            members[str(name)] = Member(tuple(value.shape), tensor.numpy, value.dtype == torch.uint8)
        elif isinstance(value, list):
            members[str(name)] = Member((len(value),), partial(np.asarray, value))
    return members


OPENERS: dict[str, Callable[[Path], dict[str, Member]]] = {
    ".npz": _of_npz,
    ".safetensors": _of_safetensors,
    ".pt": _of_torch,
    ".pth": _of_torch,
}


def _of_table(path: Path, kind: str, label: str | None) -> dict[str, Member]:
    import pyarrow as pa
    import pyarrow.dataset as ds

    table = ds.dataset(path, format=kind)
    if label is None or label not in table.schema.names:
        wanted = f"no column {label!r}" if label is not None else "labels in one of its columns"
        there = ", ".join(table.schema.names)
        raise UserError(f"{path} has {wanted}: name it in dataset.label; there are {there}")
    columns = [name for name in table.schema.names if name != label]
    for name in columns:
        if not _is_number(table.schema.field(name).type):
            raise UserError(f"{path}: column {name!r} holds no numbers: encode it or leave it out")
    if kind == "csv":  # whose types are guessed from its first lines
        fields = [field.with_type(pa.float64()) if field.name in columns else field for field in table.schema]
        table = ds.dataset(path, format=kind, schema=pa.schema(fields))

    def read(names: list[str]) -> list[np.ndarray]:
        whole = table.to_table(names)
        return [_column(path, whole, name) for name in names]

    rows = table.count_rows()
    return {
        "vectors": Member((rows, len(columns)), lambda: np.column_stack(read(columns))),
        "labels": Member((rows,), lambda: read([label])[0]),
    }


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind) or types.is_null(kind)
    )  # a column that begins with empty cells is of no type


def _column(path: Path, table: Any, name: str) -> np.ndarray:
    column = table[name]
    if column.null_count:
        raise UserError(f"{path}: column {name!r} has {column.null_count} empty cells: fill them or drop the rows")
    array: np.ndarray = column.to_numpy()
    return array
