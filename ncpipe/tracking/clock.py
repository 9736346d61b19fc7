"""Recorded wall-clock times of runs: MLflow points bear them, so that a repeated sync writes the same points."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import pandas as pd


class Span(NamedTuple):
    """When a run began and ended, in milliseconds since 1970."""

    start: int
    end: int


UNKNOWN = Span(1, 1)
"""For studies without any recorded time: 1970. Not zero, which MLflow replaces by the present."""


def spans(timings: pd.DataFrame) -> dict[str, Span]:
    """The span of every run in rows of the ``timings`` table, ``finished_at`` in milliseconds since 1970."""
    began = timings["finished_at"] - 1000 * timings["seconds"].fillna(0)
    ends = timings.assign(began=began).groupby("run_id").agg({"began": "min", "finished_at": "max"}).astype("int64")
    return {str(run_id): Span(*span) for run_id, *span in ends.itertuples()}


def joint_span(parts: Collection[Span]) -> Span:
    """From the first start to the last end of several runs."""
    return Span(min(part.start for part in parts), max(part.end for part in parts)) if parts else UNKNOWN


def timed(points: pd.DataFrame, timings: pd.DataFrame) -> pd.DataFrame:
    """Points with their ``timestamp``: that of the last recorded step that is not later, NaN before the first."""
    recorded = timings[["run_id", "time", "finished_at"]].set_axis(["run_id", "step", "timestamp"], axis="columns")
    steps, times = (
        frame.astype({"run_id": object, "step": "int64"}).sort_values("step") for frame in (points, recorded)
    )
    return pd.merge_asof(steps.reset_index(), times, on="step", by="run_id").set_index("index").sort_index()
