"""A folder of recorded runs: the records of every run, and the tables made of them all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
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
from ncpipe.records.writing import PERFECT, read_table, write_rows
from ncpipe.stages.collapse import collapse_rows, gram_rows
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, write_json, write_text
from ncpipe.system.provenance import git_commit, in_json, key
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

    Other processes that record into the folder wait. Every file is whole at any moment; of a long table a run has one
    of its own.

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
        parts = {name: _with_epoch(layout, run_id, name, rows.get(name, ()), epoch) for name in LONG}
        for name, part in parts.items():
            write_stream(_part(layout, name, run_id), TABLES[name], [part], metadata(layout))
        write_json(layout.run(run_id) / "run.json", {**about, "ended": _ended(parts["collapse"], parts["history"])})
        write_tables(layout)


def _part(layout: Layout, name: str, run_id: str) -> Path:
    """The rows of a run in a long table: a file of its own, so that no other has to be written with it."""
    return layout.tables / f"{name}.parquet" / f"{run_id}.parquet"


def _with_epoch(layout: Layout, run_id: str, name: str, rows: Iterable[Row], epoch: int) -> pa.Table:
    """The rows of a run in a long table with these in the place of those of the epoch, by time; of Grams the last."""
    path, table = _part(layout, name, run_id), pa.Table.from_pylist(list(rows), schema=TABLES[name])
    if path.exists():
        before = read_table(path).cast(TABLES[name])
        table = pa.concat_tables([before.filter(pc.field("time") != epoch), table])
    if name == "grams" and len(table):
        table = table.filter(pc.field("time") == pc.max(table["time"]))
    return table.sort_by("time")


def _ended(collapse: pa.Table, history: pa.Table) -> Row:
    """Columns of the ``runs`` table that tell how far a run is."""
    last = pc.max(collapse["time"]).as_py()
    of_last = (pc.field("time") == last) & (pc.field("layer") == "features")
    values = collapse.filter(of_last & pc.field("metric").isin(["loss", "accuracy"]))
    perfect = history.filter((pc.field("quantity") == "train_accuracy") & (pc.field("value") >= PERFECT))
    finals = {f"final_{row['split']}_{row['metric']}": row["value"] for row in values.to_pylist()}
    return {"final_epoch": last, "zero_error_epoch": pc.min(perfect["time"]).as_py(), **finals}


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
    """Write the tables of all runs anew, and leave out the rows of runs whose folder has been removed."""
    ids = sorted(path.parent.name for path in layout.results.glob("runs/*/run.json"))
    for name in LONG:
        for part in (layout.tables / f"{name}.parquet").glob("*.parquet"):
            if part.stem not in ids:
                part.unlink()
    found = {run_id: read_json(layout.run(run_id) / "run.json") for run_id in ids}
    origins = {key(record["provenance"]): record["provenance"] for record in found.values()}
    about = metadata(layout) | {"provenance": in_json(origins)}
    rows = labelled([_row(run_id, record) for run_id, record in found.items()])
    write_rows(layout.tables / "runs.parquet", RUNS, rows, about)
    for name in ("ufm", "claims"):
        write_rows(layout.tables / f"{name}.parquet", TABLES[name], [], about)
    if papers := Study.read(layout.results).config.claims:
        claims = claim_rows(compared(StoredTables(layout.tables)), papers)
        write_rows(layout.tables / "claims.parquet", TABLES["claims"], claims, about)


def metadata(layout: Layout) -> dict[str, str]:
    """What every table says about its making."""
    name = Study.read(layout.results).config.study.name
    return {"ncpipe_version": ncpipe.__version__, "git_commit": git_commit(), "study": name, "scale": ""}


def _row(run_id: str, record: Row) -> Row:
    """A row of the ``runs`` table."""
    row = {"source": "net", "run_id": run_id, "kind": "network", "status": "done", "label": record["label"]}
    row |= {"epochs": record["ended"]["final_epoch"], **record["columns"], **columns_of(record["settings"])}
    row |= {"settings": json.dumps(record["settings"], sort_keys=True), "provenance": key(record["provenance"])}
    return row | record["ended"]


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
