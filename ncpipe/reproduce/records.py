"""What a run has left on disk: the rows of its folder, and what made them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from ncpipe.compare.sources import Frames
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import read_table
from ncpipe.study.layout import Layout
from ncpipe.system.provenance import Origin

FILES = {"history": "history.parquet", "collapse": "collapse.parquet", "ufm": "fits.parquet"}
"""Files of a run's folder, by the table that they are collected into."""


def frames(folder: Path) -> Frames:
    """The rows in a run's folder as tables; those of ``runs`` stand in the study's table alone."""
    paths = {table: folder / name for table, name in FILES.items()}
    found = {table: read_table(path).to_pandas() for table, path in paths.items() if path.exists()}
    return {
        table: found.get(table, pd.DataFrame()).reindex(columns=TABLES[table].names) for table in (*FILES, "runs")
    }


def origin_of_run(results: Path, run_id: str) -> Origin | None:
    """Code, packages and hardware that made a run, by the table ``runs``; None where they were not recorded yet."""
    table = read_table(Layout(results).tables / "runs.parquet")
    known = json.loads((table.schema.metadata or {}).get(b"provenance", b"{}"))
    if "provenance" not in table.column_names:
        return None
    keys = dict(zip(table["run_id"].to_pylist(), table["provenance"].to_pylist()))
    return known.get(keys[run_id])
