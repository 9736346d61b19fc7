"""Recorded wall-clock times of runs: MLflow points bear them, so that a repeated sync writes the same points."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Milliseconds = NDArray[np.int64]


@dataclass(frozen=True)
class Clock:
    """When a run began, and when it reached each recorded epoch or iteration; milliseconds since 1970."""

    start: int
    times: NDArray[np.int64]
    finished: Milliseconds

    @property
    def end(self) -> int:
        return int(self.finished.max(initial=self.start))

    @property
    def ended(self) -> Clock:
        """The clock of a run without times of its own: all of it at the end of the run that it follows."""
        return Clock(self.end, self.times[:0], self.finished[:0])

    def at(self, steps: NDArray[np.int64]) -> Milliseconds:
        """Times of ``steps``: of the nearest recorded one that is not later, or the start."""
        reached = np.concatenate(([self.start], self.finished))
        return reached[np.searchsorted(self.times, steps, side="right")]


NO_CLOCK = Clock(1, np.empty(0, np.int64), np.empty(0, np.int64))
"""For studies without any recorded time: 1970. Not zero, which MLflow replaces by the present."""


def clocks(timings: pd.DataFrame) -> dict[str, Clock]:
    """The clock of every run in rows of the ``timings`` table, ``finished_at`` in milliseconds since 1970."""
    return {
        str(run_id): Clock(
            start=int((rows["finished_at"] - 1000 * rows["seconds"].fillna(0)).min()),
            times=rows["time"].to_numpy(np.int64),
            finished=rows["finished_at"].to_numpy(np.int64),
        )
        for run_id, rows in timings.sort_values("time").groupby("run_id")
    }


def joint_clock(parts: Iterable[Clock]) -> Clock:
    """From the first start to the last end of several runs."""
    clocks = list(parts)
    if not clocks:
        return NO_CLOCK
    end = max(clock.end for clock in clocks)
    return Clock(min(clock.start for clock in clocks), np.array([0]), np.array([end]))
