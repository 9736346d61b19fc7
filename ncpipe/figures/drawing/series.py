"""Series of values that figures draw: rows of tables by label, and medians and ranges over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from ncpipe.claims.evidence.claim import interval
from ncpipe.figures.drawing.axes import mark_times
from ncpipe.figures.drawing.runs import Tables, labels
from ncpipe.figures.drawing.style import Look, name_lines, without_solver
from ncpipe.records.reading import rows_of

MEASURED = ["run_id", "split", "layer", "depth", "time", "metric", "value"]
RECORDED = ["run_id", "time", "quantity", "value"]
"""Columns of ``collapse`` and ``history`` that figures read."""


@dataclass(frozen=True)
class Band:
    """Median, smallest and largest value over the runs of a label at each time (or depth)."""

    x: NDArray[np.float64]
    middle: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @classmethod
    def of(cls, rows: pd.DataFrame, x: str = "time") -> Band:
        """Band of rows with columns ``x`` and ``value``; NaN values do not count."""
        finite = rows[np.isfinite(rows["value"])]
        by = finite.groupby(x)["value"]
        columns = (by.median(), by.min(), by.max())
        return cls(columns[0].index.to_numpy(float), *(column.to_numpy(float) for column in columns))

    def __len__(self) -> int:
        return len(self.x)

    @property
    def end(self) -> tuple[float, float]:
        """Last place and median."""
        return float(self.x[-1]), float(self.middle[-1])

    def draw(self, axes: Axes, look: Look) -> None:
        """The median as a line, the range as a band; a single time as a point."""
        axes.plot(self.x, self.middle, color=look.colour, linestyle=look.line)
        if len(self) == 1:
            axes.plot(self.x, self.middle, look.marker, color=look.colour, clip_on=False, zorder=4)
        axes.fill_between(self.x, self.low, self.high, color=look.colour, alpha=0.18, linewidth=0)


def measured(
    tables: Tables,
    runs: pd.DataFrame,
    metrics: Iterable[str],
    split: str = "train",
    layer: str | Sequence[str] | None = "features",
) -> pd.DataFrame:
    """Rows of ``collapse`` of these runs and metrics, with their label; ``layer`` None takes all."""
    wanted = {} if layer is None else {"layer": layer}
    rows = rows_of(tables, "collapse", MEASURED, split=split, metric=set(metrics), **wanted, **_of(runs))
    return _labelled(rows, runs)


def histories(tables: Tables, runs: pd.DataFrame, quantities: Iterable[str] | None = None) -> pd.DataFrame:
    """Rows of ``history`` of these runs, with their label; ``quantities`` None takes all."""
    wanted = {} if quantities is None else {"quantity": set(quantities)}
    return _labelled(rows_of(tables, "history", RECORDED, **wanted, **_of(runs)), runs)


def _of(runs: pd.DataFrame) -> dict[str, Any]:
    return {"source": set(runs["source"]), "run_id": set(runs["run_id"])}


def _labelled(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    by_run = dict(zip(runs["run_id"], runs["label"]))
    return rows.assign(label=rows["run_id"].map(by_run).astype("str"))


def bands(rows: pd.DataFrame, column: str, name: str) -> dict[str, Band]:
    """The band of every label over time, of the rows whose ``column`` is ``name``."""
    chosen = at_shared_times(rows[rows[column] == name])
    by_label = {str(label): Band.of(group) for label, group in chosen.groupby("label", sort=False)}
    return {label: band for label, band in by_label.items() if len(band)}


def labels_with_value(rows: pd.DataFrame, runs: pd.DataFrame, times: int = 1) -> list[str]:
    """Labels, in the order of ``runs``, that have a value at so many times."""
    counts = rows.dropna(subset="value").groupby("label")["time"].nunique()
    return [label for label in labels(runs) if counts.get(label, 0) >= times]


def draw_bands(
    axes: Axes, rows: pd.DataFrame, column: str, name: str, look: Mapping[str, Look], marks: Mapping[str, float] = {}
) -> dict[str, Band]:
    """Draw the band of every label, and its mark on the x axis."""
    drawn = bands(rows, column, name)
    for label, band in drawn.items():
        band.draw(axes, look[label])
    mark_times(axes, ((time, look[label].colour) for label, time in marks.items()))
    return drawn


def name_bands(
    axes: Axes,
    drawn: Mapping[str, Band],
    rows: pd.DataFrame,
    look: Mapping[str, Look],
    height: float,
    letters: int = 60,
) -> bool:
    """Names of labels beside the panel of these bands, as ``name_lines``; not where a label of the rows has none."""
    ends = [(*band.end, without_solver(label), look[label].colour) for label, band in drawn.items()]
    return set(rows["label"]) <= drawn.keys() and name_lines([(axes, ends)], height, letters)


def at_shared_times(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows at the times that all runs of their label have; a run that ended before others stays where it ended.

    Elsewhere a median would be of other seeds: every network is measured at a zero-error epoch of its own.
    """
    if rows["run_id"].nunique() <= rows["label"].nunique():
        return rows
    ends = rows[rows["time"] == rows.groupby("run_id")["time"].transform("max")].rename(columns={"time": "end"})
    stays = ends.merge(rows[["label", "time"]].drop_duplicates(), on="label").query("time > end")
    whole = pd.concat([rows, stays.drop(columns="end")]) if len(stays) else rows
    there, runs = (whole.groupby(by)["run_id"].transform("nunique") for by in (["label", "time"], "label"))
    return whole[there == runs]


def draw_seeds(axes: Axes, values: pd.Series, line: float, look: Look, tick: float) -> list[float]:
    """Values of the seeds as ticks of this size on a line, their mean as a mark, and Student's interval of it, of
    which the ends are returned."""
    values = values.dropna()
    if values.empty:
        return []
    ends = [end for end in interval(values) if end is not None]
    axes.plot(ends, [line] * len(ends), color=look.colour)
    axes.plot(values, [line] * len(values), "|", color=look.colour, ms=tick, mew=0.7)
    axes.plot(values.mean(), line, look.marker, color=look.colour, ms=3.6, zorder=4, clip_on=False)
    return ends


def last_time(rows: pd.DataFrame) -> float:
    return float(rows["time"].max()) if len(rows) else 1.0


def extremes(drawn: Iterable[Band]) -> list[NDArray[np.float64]]:
    """The values that an axis has to hold."""
    return [values for band in drawn for values in (band.low, band.high)]
