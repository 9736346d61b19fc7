"""Parquet records of single runs, in the schemas of the tables they are collected into."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ncpipe.files import ALTERED, replacing, unreadable
from ncpipe.tables.schemas import HISTORY, SCHEMA_VERSION, TIMINGS

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
        unaltered = is_unaltered(table.schema)
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise unreadable(path, reason) from None
    if not unaltered:
        raise unreadable(path, ALTERED)
    return table


CHECKSUM = b"ncpipe_checksum"


def marked(schema: pa.Schema, metadata: Mapping[str, str]) -> pa.Schema:
    """The schema with metadata: the schema version, ``metadata``, and a checksum of the columns and all of these."""
    versioned = schema.with_metadata({"ncpipe_schema_version": str(SCHEMA_VERSION), **metadata})
    return versioned.with_metadata({**versioned.metadata, CHECKSUM: _checksum(versioned)})


def is_unaltered(schema: pa.Schema) -> bool:
    """Whether a schema as read agrees with its checksum, or has none."""
    known = (schema.metadata or {}).get(CHECKSUM)
    return known is None or known == _checksum(schema)


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
