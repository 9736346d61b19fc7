"""The tables of a study as a zip within the page, so that a page that was mailed alone is whole."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class Parcel(NamedTuple):
    """The download of a page."""

    source: str
    """``data:`` URI of the zip."""
    names: list[str]
    """Files in it."""
    left_out: list[str]
    """Files for which the page had no room."""


def parcel(files: Iterable[Path], most_bytes: int) -> Parcel:
    """Files whose zip takes at most ``most_bytes`` in a page: small ones first, as many as there is room for."""
    packed = {path.name: _packed(path) for path in files}
    room = most_bytes * 3 // 4  # of base64
    buffer, names = io.BytesIO(), []
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(packed, key=lambda name: len(packed[name])):
            if buffer.tell() + len(packed[name]) + 500 > room:
                break
            # With the time that it has by default, a page is equal on rewriting.
            archive.writestr(zipfile.ZipInfo(name), packed[name], zipfile.ZIP_DEFLATED)
            names.append(name)
    source = f"data:application/zip;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Parcel(source, names, [name for name in packed if name not in names])


def _packed(path: Path) -> bytes:
    """The content of a file; of a Parquet table in a form a quarter smaller, which splits the bytes of numbers."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    table, buffer = pq.read_table(path, partitioning=None), io.BytesIO()
    split = [field.name for field in table.schema if pa.types.is_floating(field.type)]
    others = [name for name in table.column_names if name not in split]
    pq.write_table(table, buffer, compression="zstd", use_dictionary=others, use_byte_stream_split=split)
    return buffer.getvalue()
