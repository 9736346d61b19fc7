"""Tables written as a stream: one Parquet file, or above a number of runs a folder of parts."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ncpipe.records.writing import PARQUET, marked
from ncpipe.system.files import beside, remove, remove_leftovers, replacing, unwritable

GROUP_ROWS = 1 << 20
"""Rows of a row group, as pyarrow has it: what a writer holds in memory."""
PART_GROUP_ROWS = 122_880
"""Rows of a row group in a folder of parts, as DuckDB has it: a third of a GB less in memory."""
Rows = Mapping[str, Any]


def write_stream(
    path: Path,
    schema: pa.Schema,
    tables: Iterable[pa.Table],
    metadata: Mapping[str, str],
    group_rows: int = GROUP_ROWS,
) -> None:
    """Write tables one after the other into one file, as ``write_rows`` would write all of their rows at once.

    Not more than one row group and one of the tables are in memory at once.
    """
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, marked(schema, metadata), **PARQUET) as file:
            for group in row_groups(chain([schema.empty_table()], tables), group_rows):
                file.write_table(group, row_group_size=group_rows)
        if path.is_dir():  # the parts of a larger study
            shutil.rmtree(path)


def row_groups(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of ``rows`` rows each with the rows of these, the last one shorter; at least one table."""
    waiting: list[pa.Table] = []
    count, written = 0, False
    for table in tables:
        waiting.append(table)
        count += len(table)
        while count >= rows:
            whole = pa.concat_tables(waiting)
            yield whole.slice(0, rows).combine_chunks()
            waiting, count, written = [whole.slice(rows)], count - rows, True
    if count or not written:
        yield pa.concat_tables(waiting).combine_chunks()


def write_parts(
    folder: Path, schema: pa.Schema, parts: Iterable[Iterable[pa.Table]], metadata: Mapping[str, str]
) -> None:
    """Write ``part-00000.parquet``, .. into a folder that takes the place of ``folder`` when it is whole."""
    with replacing_folder(folder) as temporary:
        for number, tables in enumerate(parts):
            write_stream(temporary / f"part-{number:05d}.parquet", schema, tables, metadata, PART_GROUP_ROWS)


def in_tables(rows: Iterable[Rows], schema: pa.Schema, size: int) -> Iterator[pa.Table]:
    """Rows as tables of ``size`` rows."""
    waiting: list[Rows] = []
    for row in rows:
        waiting.append(row)
        if len(waiting) == size:
            yield pa.Table.from_pylist(waiting, schema=schema)
            waiting = []
    yield pa.Table.from_pylist(waiting, schema=schema)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success it takes the place of ``folder``, on failure it is removed.

    What stood there, folder or file, is moved away first: between the two there is nothing, never a half.
    """
    temporary = beside(folder)
    try:
        remove_leftovers(folder)
        temporary.mkdir(parents=True)
        yield temporary
        _sync(temporary)
        while not _moved(temporary, folder):  # another writer was faster
            pass
        _sync(folder.parent)
    except OSError as error:
        raise unwritable(folder, error) from error
    finally:
        remove(temporary)


def _moved(temporary: Path, folder: Path) -> bool:
    """Whether the temporary folder could take the place, from which what stood there is taken away first."""
    old = beside(folder)
    try:
        with suppress(FileNotFoundError):
            folder.rename(old)
        temporary.rename(folder)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False
    finally:
        remove(old)
    return True


def _sync(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
