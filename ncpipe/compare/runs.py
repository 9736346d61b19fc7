"""Two runs side by side: settings, final values, time, and the curves of the main metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd
import pyarrow.compute as pc

from ncpipe.compare.agreement import NUMBERS, agreement
from ncpipe.compare.comparison import Comparison, Row, defined, facts, numbers
from ncpipe.compare.sources import RunSource
from ncpipe.settings.sweep import flat

MAIN = (
    "nc1_pinv",
    "nc2_means_etf",
    "nc2_weights_etf",
    "nc2_means_of",
    "nc2_weights_of",
    "nc3_duality",
    "nc4_mismatch",
    "accuracy",
    "loss",
)
"""Metrics of the last features that are shown first."""
CURVES = (*MAIN[:-2], "train_loss", "test_loss", "test_accuracy", "objective", "gap")
"""Metrics on the training split and quantities of the history whose curves are drawn."""
MATCHED = ("model", "loss", "bias", "classes", "samples", "dim", "activation", "weight_decay", "feature_decay")
"""Columns that say what a matched UFM is; its settings name its network only."""
REACHED = [name for name in NUMBERS if name not in {*MATCHED, "seed", "starts", "smoothing", "gamma", "temperature"}]
"""Columns of the table ``ufm`` that say what was reached, not what was set."""
COMPUTED = {"computed on": "device", "computed in": "precision"}
"""Columns of the table ``runs`` that the settings do not decide."""

Frames = dict[str, pd.DataFrame]


def compare_runs(a: RunSource, b: RunSource) -> Comparison:
    """Put two runs side by side; they may be of one study or of two, networks or UFMs."""
    x, y = _frames(a), _frames(b)
    run_a, run_b = x["runs"].iloc[0], y["runs"].iloc[0]
    rerun = a.run_id == b.run_id and a.study.name != b.study.name
    return Comparison(
        kind="runs",
        a=_named(a, run_a),
        b=_named(b, run_b),
        rows=[*_facts(run_a, run_b), *_numbers(x, y)],
        agreement=agreement(a.study.tables, b.study.tables, [a.run_id]) if rerun else None,
        curves=list(_curves(x, y)),
    )


def _frames(source: RunSource) -> Frames:
    """The rows of the run in every table."""
    tables = source.study.tables
    return {
        name: table.filter(pc.field("run_id") == source.run_id).to_pandas()
        for name, table in tables.items()
        if "run_id" in table.column_names
    }


def _named(source: RunSource, run: pd.Series) -> Row:
    return {"study": source.study.name} | {key: str(run[key]) for key in ("run_id", "label", "kind", "status")}


def _facts(a: pd.Series, b: pd.Series) -> Iterator[Row]:
    """A network and a UFM share no settings."""
    if (a["kind"] == "network") == (b["kind"] == "network"):
        yield from facts("settings", _settings(a), _settings(b))
    words = ({name: _plain(run[column]) for name, column in COMPUTED.items()} for run in (a, b))
    yield from facts("computed", *words)


def _numbers(a: Frames, b: Frames) -> Iterator[Row]:
    yield from numbers("course", _course(a), _course(b))
    for split in ("train", "test"):
        x, y = (last_values(frames["collapse"], split) for frames in (a, b))
        yield from numbers("last", {name: x.get(name) for name in dict.fromkeys([*MAIN, *x, *y])}, y, split=split)
    yield from numbers("history", *(_last_history(frames["history"]) for frames in (a, b)))
    yield from numbers(
        "ufm", *(dict(frames["ufm"][REACHED].iloc[0]) if len(frames["ufm"]) else {} for frames in (a, b))
    )


def _settings(run: pd.Series) -> dict[str, Any]:
    if run["kind"] == "matched":
        return {name: _plain(run[name]) for name in MATCHED}
    return flat(json.loads(run["settings"])) if isinstance(run["settings"], str) else {}


def _plain(value: Any) -> Any:
    """A cell of a table as JSON has it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and value != value else value


def _course(frames: Frames) -> dict[str, float | None]:
    run, timings = frames["runs"].iloc[0], frames["timings"]
    course = {name: defined(run[name]) for name in ("parameters", "zero_error_epoch", "final_epoch")}
    for stage, rows in timings.groupby("stage", sort=False):
        # the problems of a batch are solved together
        course["seconds of its batch" if stage == "ufm" else "seconds"] = defined(rows["seconds"].sum())
    return course | {"images_per_second": defined(timings["images_per_second"].median())}


def last_values(collapse: pd.DataFrame, split: str) -> dict[str, float]:
    """Value of every metric of the last features at the last time of one run, from its rows of ``collapse``."""
    last = collapse[collapse["layer"] == "features"]
    rows = last[(last["split"] == split) & (last["time"] == last["time"].max())]
    return dict(zip(rows["metric"], rows["value"]))


def _last_history(history: pd.DataFrame) -> dict[str, float]:
    return dict(history.sort_values("time").groupby("quantity", sort=False)["value"].last(skipna=False))


def _curves(a: Frames, b: Frames) -> Iterator[Row]:
    for name in CURVES:
        x, y = _points(a, name), _points(b, name)
        if len(x) > 1 or len(y) > 1:
            yield {"quantity": name, "a": x, "b": y}


def _points(frames: Frames, quantity: str) -> list[tuple[float, float]]:
    """A metric on the training split, or a quantity of the history, over time."""
    rows = frames["collapse"].query("layer == 'features' and metric == @quantity and split == 'train'")
    rows = rows if len(rows) else frames["history"].query("quantity == @quantity")
    finite = rows.dropna(subset="value").sort_values("time")
    return list(zip(finite["time"].astype(float), finite["value"].astype(float)))
