"""What a run has left on disk: the rows of its folder, and what made them."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from ncpipe.compare.sources import completed
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import read_table
from ncpipe.study.layout import Layout
from ncpipe.system.provenance import Origin

FILES = {"history": "history.parquet", "collapse": "collapse.parquet", "ufm": "fits.parquet"}
"""Files of a run's folder, by the table that they are collected into."""


def tables_of(folder: Path) -> dict[str, pa.Table]:
    """The rows in a run's folder as tables; those of ``runs`` stand in the study's table alone."""
    empty = {name: TABLES[name].empty_table() for name in (*FILES, "runs")}
    paths = {name: folder / file for name, file in FILES.items()}
    return empty | {name: completed(name, read_table(path)) for name, path in paths.items() if path.exists()}


def origin_of_run(results: Path, run_id: str) -> Origin | None:
    """Code, packages and hardware that made a run, by the table ``runs``; None where they were not recorded yet."""
    table = read_table(Layout(results).tables / "runs.parquet")
    known = json.loads((table.schema.metadata or {}).get(b"provenance", b"{}"))
    if "provenance" not in table.column_names:
        return None
    keys = dict(zip(table["run_id"].to_pylist(), table["provenance"].to_pylist()))
    return known.get(keys[run_id])
