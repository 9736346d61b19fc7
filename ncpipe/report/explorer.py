"""The explorer of the report: what it holds of the tables, bounded in size, and its script."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd

from ncpipe.collapse.metrics import METRICS
from ncpipe.figures.collapse_curves import USUAL
from ncpipe.figures.drawing.captions import KINDS
from ncpipe.figures.drawing.definitions import HISTORY, definition
from ncpipe.figures.drawing.runs import Tables, labels
from ncpipe.figures.drawing.series import MEASURED, RECORDED
from ncpipe.figures.drawing.style import LINE_STYLES, Look, looks
from ncpipe.records.reading import rows_of
from ncpipe.report.formulas import as_html
from ncpipe.study.config import Split
from ncpipe.system.words import plural

DATA_BYTES = 1_500_000
"""What the data may weigh in the page; past it the explorer leaves out what ``_reductions`` names, in that order."""
MOST_RUNS = 1000
"""Runs of a kind that are read: more do not fit in any case."""
LAST = "features"
KEPT = (*USUAL, "nc2_means_of", "nc2_weights_etf", "nc2_weights_of")
"""Metrics that stay where others are left out."""
SPLITS = ("", *get_args(Split))
"""In the order in which they are offered; a history has none."""
SERIES = ["run", "quantity", "split", "layer"]


class Explorer(NamedTuple):
    """What the page needs of it."""

    data: str
    """base64 of gzip of JSON, as ``_content`` makes it."""
    left_out: list[str]


def explorer(tables: Tables, most_bytes: int = DATA_BYTES) -> Explorer | None:
    """Every measured value of the runs that ended well, as far as ``most_bytes`` allow; None where there is none."""
    runs = tables["runs"].query("status == 'done' and kind in @KINDS").reset_index(drop=True)
    read = runs.groupby("kind", sort=False).head(MOST_RUNS)
    return _bounded(_values(tables, read), runs, tables, most_bytes)


def _values(tables: Tables, runs: pd.DataFrame) -> pd.DataFrame:
    """Metrics and quantities of the history in one long table, sorted by series and time."""
    ids, number = set(runs["run_id"]), dict(zip(runs["run_id"], runs.index))
    collapse = rows_of(tables, "collapse", MEASURED, run_id=ids).rename(columns={"metric": "quantity"})
    history = rows_of(tables, "history", RECORDED, run_id=ids).assign(split="", layer="", depth=0)
    rows = pd.concat([collapse, history])
    rows = rows[np.isfinite(rows["value"].to_numpy(float))]
    names = list(dict.fromkeys([*METRICS, *HISTORY, *sorted(set(rows["quantity"]))]))
    kept = rows.assign(
        run=rows["run_id"].map(number).astype(int),
        quantity=pd.Categorical(rows["quantity"], names),
        split=pd.Categorical(rows["split"], SPLITS),
        layer=pd.Categorical(rows["layer"], sorted(set(rows["layer"]))),
    ).drop(columns="run_id")
    return kept.sort_values([*SERIES, "time"], ignore_index=True)


def _bounded(rows: pd.DataFrame, runs: pd.DataFrame, tables: Tables, most_bytes: int) -> Explorer | None:
    """The data that fit, and what has been left out for that."""
    left_out: list[str] = []
    if rows["run"].nunique() < len(runs):
        left_out.append(_all_but(rows))
    reductions = _reductions()
    while len(rows):
        # A value takes three bytes or so: far too many need not be written to know it.
        data = _encoded(_content(rows, runs, tables)) if len(rows) < most_bytes else None
        if data is not None and len(data) <= most_bytes:
            return Explorer(data, left_out)
        name, reduce = next(reductions, ("", _half_of_the_runs))
        fewer = reduce(rows)
        if name and len(fewer) < len(rows):
            left_out.append(name)
        elif not name:
            left_out = [*(part for part in left_out if not part.startswith("all but")), _all_but(fewer)]
        rows = fewer
    return None


def _all_but(rows: pd.DataFrame) -> str:
    return f"all but the first {plural(int(rows['run'].nunique()), 'run')}"


def _reductions() -> Iterator[tuple[str, Callable[[pd.DataFrame], pd.DataFrame]]]:
    """What to leave out, by its name in the page, in the order in which readers miss it least."""
    inner = lambda rows: ~rows["layer"].isin([LAST, ""])  # noqa: E731
    yield "the test split of inner layers", lambda rows: rows[~(inner(rows) & (rows["split"] == "test"))]
    yield "inner layers but the first, the middle and the last", lambda rows: rows[~inner(rows) | _landmarks(rows)]
    yield "inner layers", lambda rows: rows[~inner(rows)]
    yield "the test split", lambda rows: rows[rows["split"] != "test"]
    yield (
        "metrics but the usual ones",
        lambda rows: rows[rows["quantity"].isin(KEPT) | (rows["layer"] == "")],
    )


def _landmarks(rows: pd.DataFrame) -> pd.Series:
    """Whether the row is of the first, middle or last of the layers of its run."""
    last = rows.groupby("run")["depth"].transform("max")
    return rows["depth"].isin([0, 1]) | (rows["depth"] == (last + 1) // 2) | (rows["depth"] >= last - 1)


def _half_of_the_runs(rows: pd.DataFrame) -> pd.DataFrame:
    """A single run that is too large goes too."""
    kept = rows["run"].unique()
    return rows[rows["run"].isin(np.sort(kept)[: len(kept) // 2])]


def _content(rows: pd.DataFrame, runs: pd.DataFrame, tables: Tables) -> dict[str, Any]:
    """The object that ``explorer.js`` reads.

    ``values`` has, by quantity, split and layer, a list ``[run, depth, times, [value, ..]]`` per run; ``run`` and
    ``times`` are places in the lists of these names.
    """
    used = runs.loc[sorted(rows["run"].unique())]
    place = {number: i for i, number in enumerate(used.index)}
    names = labels(used)
    times: dict[tuple[int, ...], int] = {}
    values: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for (run, quantity, split, layer), depth, time, value in _series(rows):
        series = [place[run], depth, times.setdefault(time, len(times)), value]
        values.setdefault(quantity, {}).setdefault(split, {}).setdefault(layer, []).append(series)
    return {
        "kinds": [{"name": name, "time": time} for name, _, time in KINDS.values()],
        "labels": _labels(used, tables["runs"]),
        "runs": [
            [run_id, names.index(label), None if pd.isna(seed) else int(seed)]
            for run_id, label, seed in used[["run_id", "label", "seed"]].astype(object).to_numpy()
        ],
        "times": list(times),
        "values": {name: values[name] for name in rows["quantity"].cat.categories if name in values},
        "definitions": {name: as_html(definition(name)) for name in [*METRICS, *HISTORY] if name in values},
    }


def _series(rows: pd.DataFrame) -> Iterator[tuple[tuple[Any, ...], int, tuple[int, ...], list[float]]]:
    """Key, depth, times and values of every series; the rows are sorted by series and time."""
    codes = np.column_stack([rows["run"], *(rows[name].cat.codes for name in SERIES[1:])])
    starts = np.flatnonzero(np.any(codes[1:] != codes[:-1], axis=1)) + 1
    keys = rows[SERIES].astype(object).to_numpy()
    depth, time = rows["depth"].tolist(), rows["time"].tolist()
    value = [float(f"{v:.5g}") for v in rows["value"].tolist()]
    for low, high in zip([0, *starts], [*starts, len(rows)]):
        yield tuple(keys[low]), depth[low], tuple(time[low:high]), value[low:high]


def _labels(runs: pd.DataFrame, all_runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Text, kind and look of every label, the look as in the figures."""
    kinds, continual = list(KINDS), all_runs[all_runs["kind"] == "continual"]
    look: dict[str, Look] = looks(continual.assign(kind="network")) | looks(all_runs)
    kind_of = dict(zip(runs["label"], runs["kind"]))
    return [
        {
            "text": text,
            "kind": kinds.index(kind_of[text]),
            "colour": look[text].colour,
            "dash": [] if look[text].line == LINE_STYLES[0] else look[text].line[1],  # in widths of the line
        }
        for text in labels(runs)
    ]


def _encoded(content: dict[str, Any]) -> str:
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=9, mtime=0)).decode()
