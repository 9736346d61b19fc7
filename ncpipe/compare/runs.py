"""Two runs side by side: settings that differ, final values, time, and the curves of the main metrics."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ncpipe.compare.pairs import Pair, Setting, defined, differing
from ncpipe.compare.sources import RunSource
from ncpipe.compare.values import NUMBERS, Agreement, agreement, word
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


@dataclass(frozen=True)
class RunName:
    """A run and its study."""

    study: str
    run_id: str
    label: str
    kind: str
    status: str


@dataclass(frozen=True)
class Curve:
    """Points (time, value) of one quantity of both runs; undefined values are left out."""

    quantity: str
    a: tuple[tuple[float, float], ...]
    b: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class RunComparison:
    """Two runs side by side. Times are epochs of networks, iterations of UFMs."""

    a: RunName
    b: RunName
    settings: tuple[Setting, ...]
    """Those that differ; none of a network beside a UFM, which share no settings."""
    equal_settings: int
    words: tuple[Setting, ...]
    """Device and precision, where they differ."""
    course: tuple[Pair, ...]
    """Parameters, last and zero-error epoch, seconds, throughput."""
    finals: tuple[Pair, ...]
    """Collapse metrics of the last features at the last time, the main ones first."""
    history: tuple[Pair, ...]
    """Last value of every quantity of the history."""
    fit: tuple[Pair, ...]
    """UFM: numbers of the table ``ufm``."""
    agreement: Agreement | None
    """All values, where the runs have one id: a rerun."""
    curves: tuple[Curve, ...]


def compare_runs(a: RunSource, b: RunSource) -> RunComparison:
    """Put two runs side by side; they may be of one study or of two, networks or UFMs."""
    one, two = _Run.of(a), _Run.of(b)
    of_one_kind = (one.name.kind == "network") == (two.name.kind == "network")
    settings = tuple(differing(one.settings, two.settings)) if of_one_kind else ()
    known = {*one.settings, *two.settings} if of_one_kind else set()
    same = a.run_id == b.run_id and a.study.name != b.study.name
    return RunComparison(
        a=one.name,
        b=two.name,
        settings=settings,
        equal_settings=len(known) - len(settings),
        words=tuple(differing(one.words, two.words)),
        course=tuple(_pairs(one.course, two.course)),
        finals=tuple(_finals(one.collapse, two.collapse)),
        history=tuple(_pairs(one.last_history(), two.last_history())),
        fit=tuple(_pairs(one.fit, two.fit)),
        agreement=agreement(a.study.tables, b.study.tables, [a.run_id]) if same else None,
        curves=tuple(_curves(one, two)),
    )


@dataclass(frozen=True)
class _Run:
    """The rows of one run."""

    name: RunName
    settings: dict[str, Any]
    words: dict[str, str | None]
    course: dict[str, float | None]
    fit: dict[str, float | None]
    history: pd.DataFrame
    collapse: pd.DataFrame
    """Of the last features."""

    @classmethod
    def of(cls, source: RunSource) -> _Run:
        own = {
            name: table[table["run_id"] == source.run_id]
            for name, table in source.study.tables.items()
            if "run_id" in table
        }
        row = own["runs"].iloc[0]
        fits = own["ufm"].to_dict("records")
        return cls(
            name=RunName(source.study.name, *(str(row[key]) for key in ("run_id", "label", "kind", "status"))),
            settings=_settings(row),
            words={name: word(row[column]) for name, column in COMPUTED.items()},
            course=_course(row, own["timings"]),
            fit={key: defined(fits[0][key]) for key in REACHED} if fits else {},
            history=own["history"],
            collapse=own["collapse"].query("layer == 'features'"),
        )

    def last_history(self) -> dict[str, float]:
        """Last value of every quantity."""
        return dict(self.history.sort_values("time").groupby("quantity", sort=False)["value"].last(skipna=False))

    def points(self, quantity: str) -> tuple[tuple[float, float], ...]:
        """A metric on the training split, or a quantity of the history, over time."""
        rows = self.collapse.query("metric == @quantity and split == 'train'")
        rows = rows if len(rows) else self.history.query("quantity == @quantity")
        finite = rows.dropna(subset="value").sort_values("time")
        return tuple(zip(finite["time"].astype(float), finite["value"].astype(float)))


def _settings(row: pd.Series) -> dict[str, Any]:
    if row["kind"] == "matched":
        return {name: _plain(row[name]) for name in MATCHED}
    return flat(json.loads(row["settings"])) if isinstance(row["settings"], str) else {}


def _plain(value: Any) -> Any:
    """A cell of a table as JSON has it."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return None if isinstance(value, float) and value != value else value


def _course(row: pd.Series, timings: pd.DataFrame) -> dict[str, float | None]:
    columns = ("parameters", "zero_error_epoch", "final_epoch")
    course = {name: defined(row[name]) for name in columns}
    for stage, rows in timings.groupby("stage", sort=False):
        # the problems of a batch are solved together
        course["seconds of its batch" if stage == "ufm" else "seconds"] = defined(rows["seconds"].sum())
    return course | {"images_per_second": defined(timings["images_per_second"].median())}


def _pairs(a: dict[str, Any], b: dict[str, Any], split: str = "") -> Iterator[Pair]:
    """Every quantity that A or B has."""
    for name in dict.fromkeys([*a, *b]):
        pair = Pair.of(name, a.get(name), b.get(name), split)
        if pair.a is not None or pair.b is not None:
            yield pair


def _finals(a: pd.DataFrame, b: pd.DataFrame) -> Iterator[Pair]:
    for split in ("train", "test"):
        x, y = last_values(a, split), last_values(b, split)
        order = dict.fromkeys([*MAIN, *x, *y])
        yield from _pairs({name: x.get(name) for name in order}, y, split)


def last_values(collapse: pd.DataFrame, split: str) -> dict[str, float]:
    """Value of every metric at the last time of one run, from its rows of ``collapse``."""
    rows = collapse[(collapse["split"] == split) & (collapse["time"] == collapse["time"].max())]
    return dict(zip(rows["metric"], rows["value"]))


def _curves(a: _Run, b: _Run, names: Iterable[str] = CURVES) -> Iterator[Curve]:
    for name in names:
        curve = Curve(name, a.points(name), b.points(name))
        if len(curve.a) > 1 or len(curve.b) > 1:
            yield curve
