"""Parquet records of single runs, in the schemas of the tables they are collected into."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ncpipe.records.schemas import HISTORY, SCHEMA_VERSION, TABLES, TIMINGS
from ncpipe.system.files import ALTERED, replacing, unreadable

PARQUET = {"compression": "zstd", "write_page_checksum": True}
"""How every Parquet file is written: every page has its CRC-32."""
PERFECT = 1
"""Value of ``train_accuracy`` in a history from which on a time counts as one without training error."""


def write_rows(
    path: Path, schema: pa.Schema, rows: Iterable[Mapping[str, Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write rows as Parquet under ``schema``; the file carries the schema version and ``metadata``."""
    table = pa.Table.from_pylist(list(rows), schema=marked(schema, metadata or {}))
    with replacing(path) as temporary:
        pq.write_table(table, temporary, **PARQUET)


def read_table(path: Path) -> pa.Table:
    """Read a Parquet file; a missing or damaged one is a ``UserError``."""
    try:
        table = pq.read_table(path, partitioning=None, page_checksum_verification=True)
        unaltered = is_unaltered(table.schema, path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise unreadable(path, error) from None
    if not unaltered:
        raise unreadable(path, ALTERED)
    return table


CHECKSUM = b"ncpipe_checksum"


def marked(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema with metadata: the schema version, ``metadata``, and a checksum of the columns and all of these."""
    versioned = schema.with_metadata({"ncpipe_schema_version": str(SCHEMA_VERSION), **metadata})
    return versioned.with_metadata({**versioned.metadata, CHECKSUM: _checksum(versioned)})


def is_unaltered(schema: pa.Schema, file: Path) -> bool:
    """Whether the schema of a file as read agrees with its checksum, or has none that is of this file.

    Other tools may keep the metadata when they write a table again, with further columns, in other types of Arrow for
    the same ones of Parquet, or in another compression.
    """
    known = (schema.metadata or {}).get(CHECKSUM)
    if known in (None, _checksum(schema)):
        return True
    ours = ([name for name in table.names if name in schema.names] for table in TABLES.values())
    metadata = {key: value for key, value in schema.metadata.items() if key != b"pandas"}
    stored = (pa.schema([(n, _stored(schema.field(n).type)) for n in names], metadata) for names in ours)
    if known in map(_checksum, stored):
        return True
    groups = pq.read_metadata(file)
    chunks = (groups.row_group(i).column(j) for i in range(groups.num_row_groups) for j in range(len(schema)))
    return groups.num_row_groups > 0 and all(chunk.compression != "ZSTD" for chunk in chunks)


def _stored(kind: pa.DataType) -> pa.DataType:
    """The type that ncpipe has for what stands in Parquet as this one does."""
    if pa.types.is_dictionary(kind):
        return _stored(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    return pa.list_(_stored(kind.value_type)) if pa.types.is_large_list(kind) else kind


def _checksum(schema: pa.Schema) -> bytes:
    """CRC-32 of the names and types of the columns and of the metadata."""
    # Parquet has a name of its own for what is in a list.
    columns = [(field.name, str(field.type).replace("item: ", "element: ")) for field in schema]
    metadata = sorted(item for item in (schema.metadata or {}).items() if item[0] != CHECKSUM)
    return b"%08x" % zlib.crc32(repr((columns, metadata)).encode())


def write_history(path: Path, source: str, history: Mapping[str, Iterable[Mapping[str, float]]]) -> None:
    """Histories by run id, rows of ``time`` and quantities, in long form."""
    rows = (
        {"source": source, "run_id": run_id, "time": int(row["time"]), "quantity": quantity, "value": value}
        for run_id, records in history.items()
        for row in records
        for quantity, value in row.items()
        if quantity != "time"
    )
    write_rows(path, HISTORY, rows)


def write_timings(path: Path, stage: str, timings: Mapping[str, Iterable[Mapping[str, float]]]) -> None:
    """Wall-clock times by run id; ``finished_at`` is in seconds since the epoch."""
    rows = (
        {"run_id": run_id, "stage": stage, **row, "finished_at": datetime.fromtimestamp(row["finished_at"], UTC)}
        for run_id, records in timings.items()
        for row in records
    )
    write_rows(path, TIMINGS, rows)
