"""A folder of recorded runs: the records of every run, and the tables made of them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

import ncpipe
from ncpipe.claims import claim_rows
from ncpipe.records.parts import write_stream
from ncpipe.records.reading import LONG, StoredTables
from ncpipe.records.schemas import RUNS, TABLES
from ncpipe.records.writing import read_table, write_rows
from ncpipe.stages.collapse import collapse_rows, gram_rows
from ncpipe.stages.tables import records
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, write_json, write_text
from ncpipe.system.provenance import git_commit, in_json, key
from ncpipe.tables.ends import network_ends, zero_error_epochs
from ncpipe.tables.labels import labelled
from ncpipe.tables.selection import compared

__all__ = ["add_epoch", "check", "collapse_rows", "gram_rows", "write_tables"]

Row = dict[str, Any]

FIGURES = ("collapse_curves", "collapse_depth", "collapse_map", "frames", "gram_heatmaps", "training_curves")
"""Figures that ``ncpipe report`` draws unless ``recording.json`` lists others."""
SETTINGS = ("dataset", "model", "width", "depth", "batch_norm", "loss", "loss_scaling", "bias", "head", "fixed_etf",
            "optimizer", "learning_rate", "momentum", "weight_decay", "feature_decay", "schedule", "epochs",
            "batch_size", "precision", "gpus", "seed")  # fmt: skip
"""Columns of ``runs`` that settings of these names fill."""


def add_epoch(layout: Layout, run_id: str, about: Row, rows: Mapping[str, Iterable[Row]], epoch: int) -> None:
    """Put the rows of one epoch into the records of a run, in place of those that it has, and make the tables anew.

    Other processes that record into the folder wait. Every file is whole at any moment.

    Args:
        layout: of the folder.
        run_id: the run.
        about: its record: ``label``, ``settings``, ``layers``, ``columns`` of the table ``runs``, ``provenance``.
        rows: rows of the long tables by name.
        epoch: their time.

    Raises:
        UserError: the run was recorded with other settings or layers, or what ``check`` raises.
    """
    check(layout, run_id, about["settings"])
    layout.results.mkdir(parents=True, exist_ok=True)
    with FileLock(layout.results / ".recording.lock"):
        if not layout.recording.exists():
            info = {"study": {"name": _plain_name(layout.results)}, "figures": FIGURES}
            write_text(layout.recording, json.dumps(info, indent=2) + "\n")
        _check_same(layout, run_id, "layers", about["layers"])
        for name in LONG:
            path, schema = layout.run(run_id) / f"{name}.parquet", TABLES[name]
            added = pa.Table.from_pylist(list(rows.get(name, ())), schema=schema)
            if path.exists():
                before = read_table(path).cast(schema)
                added = pa.concat_tables([before.filter(pc.field("time") != epoch), added])
            if name == "grams" and len(added):
                added = added.filter(pc.field("time") == pc.max(added["time"]))
            write_stream(path, schema, [added.sort_by("time")], {})
        write_json(layout.run(run_id) / "run.json", about)
        write_tables(layout)


def check(layout: Layout, run_id: str, settings: Mapping[str, Any]) -> None:
    """``UserError`` where the folder is of a study, the run had other settings, or these do not fit their columns."""
    columns_of(settings)
    if not layout.recording.exists() and (layout.tables.exists() or (layout.results / "study.json").exists()):
        raise UserError(f"{layout.results} holds the results of a study; record into a folder of its own")
    _check_same(layout, run_id, "settings", settings)


def _plain_name(folder: Path) -> str:
    """A name of a study as like that of the folder as may be."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "_-") else "-" for c in folder.resolve().name)
    return plain.lstrip("_-")[:64] or "recorded"


def _check_same(layout: Layout, run_id: str, what: str, value: Any) -> None:
    path = layout.run(run_id) / "run.json"
    if path.exists() and (before := read_json(path)[what]) != value:
        raise UserError(
            f"run {run_id!r} in {layout.results} was recorded with the {what} {before}, not {value}: give the run"
            f" another name, or delete {path.parent}"
        )


def write_tables(layout: Layout) -> None:
    """Collect the records of all runs into the tables."""
    study = Study.read(layout.results)
    ids = sorted(path.parent.name for path in layout.results.glob("runs/*/run.json"))
    found = {run_id: read_json(layout.run(run_id) / "run.json") for run_id in ids}
    origins = {key(record["provenance"]): record["provenance"] for record in found.values()}
    about = {"ncpipe_version": ncpipe.__version__, "git_commit": git_commit(), "study": study.config.study.name}
    about |= {"scale": "", "provenance": in_json(origins)}
    for name in LONG:
        tables = records([layout.run(run_id) for run_id in ids], name)
        write_stream(layout.tables / f"{name}.parquet", TABLES[name], tables, about)
    write_rows(layout.tables / "runs.parquet", RUNS, labelled(list(_rows(layout, found))), about)
    for name in ("ufm", "claims"):
        write_rows(layout.tables / f"{name}.parquet", TABLES[name], [], about)
    if study.config.claims:
        claims = claim_rows(compared(StoredTables(layout.tables)), study.config.claims)
        write_rows(layout.tables / "claims.parquet", TABLES["claims"], claims, about)


def _rows(layout: Layout, found: Mapping[str, Row]) -> Iterator[Row]:
    """Rows of the ``runs`` table."""
    history, collapse = (layout.tables / f"{name}.parquet" for name in ("history", "collapse"))
    zero, ends = zero_error_epochs(history), network_ends(collapse)
    for run_id, record in found.items():
        times = read_table(layout.run(run_id) / "collapse.parquet")["time"]
        last = pc.max(times).as_py()
        row = {"source": "net", "run_id": run_id, "kind": "network", "status": "done", "label": record["label"]}
        row |= {"epochs": last, **record["columns"], **columns_of(record["settings"])}
        row |= {"settings": json.dumps(record["settings"], sort_keys=True), "final_epoch": last}
        row |= {"zero_error_epoch": zero.get(run_id), "provenance": key(record["provenance"])}
        yield row | ends.get(run_id, {})


def columns_of(settings: Mapping[str, Any]) -> Row:
    """Columns of the ``runs`` table that settings of their names fill; a weight decay may be one number or several.

    Raises:
        UserError: a value is of another type than the column.
    """
    found = {name: settings[name] for name in SETTINGS if settings.get(name) is not None}
    if isinstance(found.get("weight_decay"), int | float):
        found["weight_decay"] = [found["weight_decay"]]
    for name, value in found.items():
        kind = RUNS.field(name).type
        try:
            pa.scalar(value, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            raise UserError(f"settings: {name!r} fills a column of type {kind}, got {value!r}") from None
    return found
