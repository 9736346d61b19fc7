"""Features (N, d) in files, read a piece at a time: safetensors, NumPy's npy and npz, Parquet; and their progress."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ncpipe.collapse.arguments import as_tensor
from ncpipe.collapse.rows import Rows
from ncpipe.system.errors import UserError
from ncpipe.system.files import ALTERED, read_tensors, stored_checksum, unreadable
from ncpipe.system.progress import progress, silent

TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
"""Types of features in safetensors; others are read whole, and refused by ``ncpipe.measure``."""
PASSES = 2
BROKEN = (zipfile.BadZipFile, zlib.error, KeyError, TypeError, SyntaxError, NotImplementedError, UnicodeError)
"""What NumPy and zipfile raise for damaged files."""

Opened = Callable[[], AbstractContextManager[BinaryIO]]
"""The stream of a file, at the first row."""


def of_safetensors(path: Path, name: str) -> Rows | Tensor:
    """Rows of a tensor of a file that has been found to be one; itself where it is no matrix of floats.

    They are read from the file itself: pages of a map would count as memory of the process.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        entry = json.loads(stream.read(length))[name]
    if entry["dtype"] not in TYPES or len(entry["shape"]) != 2 or 0 in entry["shape"]:
        return read_tensors(path, name.__eq__)[0][name]
    dtype, start = TYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0]
    like = torch.zeros(1, dtype=dtype).expand(entry["shape"])
    known, kind = stored_checksum(path, name), zlib.crc32(f"{dtype} {tuple(entry['shape'])}".encode())

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with path.open("rb") as stream:
            stream.seek(start)
            yield stream

    def read(size: int) -> Iterator[Tensor]:
        found = kind
        for data in _raw(path, opened, like, size):
            found = zlib.crc32(data, found) if known else found
            yield torch.frombuffer(data, dtype=dtype).view(-1, like.shape[1])
        if known and known != f"{found:08x}":
            raise unreadable(path, ALTERED)

    return _shown(path, Rows(like, read))


def of_npy(path: Path, opened: Opened) -> Rows | None:
    """Rows of an array of ``np.save``; None where it is no matrix of floats in rows."""
    with opened() as stream:
        shape, by_columns, dtype = _npy_header(stream)
    if by_columns or dtype.kind != "f" or dtype.itemsize > 8 or len(shape) != 2 or min(shape) < 1:
        return None
    native = dtype.newbyteorder("=")
    like = torch.from_numpy(np.zeros(1, native)).expand(shape)

    @contextmanager
    def after_header() -> Iterator[BinaryIO]:
        with opened() as stream:
            _npy_header(stream)
            yield stream

    def read(size: int) -> Iterator[Tensor]:
        for data in _raw(path, after_header, like, size):
            yield torch.from_numpy(np.frombuffer(data, dtype).astype(native, copy=False).reshape(-1, shape[1]))

    return _shown(path, Rows(like, read))


def of_parquet(path: Path, name: str) -> Rows:
    """Rows of a column of lists of numbers, all of one length."""
    from pyarrow import parquet

    def read(size: int) -> Iterator[Tensor]:
        with parquet.ParquetFile(path) as file:
            for group in range(file.num_row_groups):  # all at once would stay in memory
                for batch in file.iter_batches(size, row_groups=[group], columns=[name]):
                    yield _listed(path, name, batch.column(0))

    with parquet.ParquetFile(path) as file:
        first = next(read(1), torch.zeros(0, 0))
        return _shown(path, Rows(first[:1, :1].expand(file.metadata.num_rows, first.shape[1]), read))


def _listed(path: Path, name: str, column: Any) -> Tensor:
    from pyarrow import compute, types

    kind = column.type
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        raise UserError(f"{path}: {name} must hold lists of numbers, got {kind}")
    values = column.flatten()
    if column.null_count + values.null_count or len(compute.list_value_length(column).unique()) != 1:
        raise UserError(f"{path}: {name} must be lists of numbers of one length, without nulls")
    return as_tensor(name, values.to_numpy(zero_copy_only=False)).view(len(column), -1)


def _npy_header(stream: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return header(stream)


def _raw(path: Path, opened: Opened, like: Tensor, size: int) -> Iterator[memoryview]:
    """Bytes of at most ``size`` rows at a time, in memory that the next overwrite."""
    width = like.shape[1] * like.element_size()
    buffer = memoryview(bytearray(min(size, len(like)) * width))
    with opened() as stream:
        for start in range(0, len(like), size):
            data = buffer[: min(size, len(like) - start) * width]
            filled = 0
            while filled < len(data):
                if not (count := stream.readinto(data[filled:])):  # type: ignore[attr-defined]
                    raise UserError(f"cannot read {path}: it is truncated")
                filled += count
            yield data


def _shown(path: Path, rows: Rows) -> Rows:
    """The same with a bar for each pass over more than one piece."""
    passes = iter(range(1, 1 + PASSES))

    def read(size: int) -> Iterator[Tensor]:
        number, done = next(passes, PASSES), 0
        show = progress if size < len(rows.like) else silent
        with legible(path), show(f"{path.name}, pass {number} of {PASSES}", len(rows.like)) as update:
            for piece in rows.read(size):
                yield piece
                done += len(piece)
                update(done, "rows")

    return Rows(rows.like, read)


@contextmanager
def legible(path: Path) -> Iterator[None]:
    """``UserError`` for what is raised of a file that is damaged, or no file of that kind."""
    from pyarrow import ArrowException

    try:
        yield
    except (
        OSError,
        EOFError,
        ValueError,
        AttributeError,
        MemoryError,
        RuntimeError,
        ArrowException,
        *BROKEN,
    ) as error:
        raise UserError(f"cannot read {path}: {error or 'an array is larger than the memory'}") from None
