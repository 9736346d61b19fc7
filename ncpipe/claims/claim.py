"""A claim of a paper: a statistic of every run, a threshold chosen before looking, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ncpipe.claims.bibliography import BIBLIOGRAPHY
from ncpipe.study.spec import Paper
from ncpipe.tables.reading import Frames

CONFIDENCE = 0.95
"""Of the interval over seeds."""


@dataclass(frozen=True)
class Claim:
    """A statement that the tables support, contradict or leave undecided."""

    id: str
    source: str
    statement: str
    statistic: str
    direction: Literal["below", "above"]
    threshold: float
    values: Callable[[Frames], pd.Series]
    """The statistic of every run that the claim speaks of, by run id; of what compares runs, by the id of one of
    them: that tells its seed and its data."""

    def row(self, frames: Frames, scale: str | None = None) -> dict[str, Any]:
        """The row of the ``claims`` table: effect and its interval over seeds, range over the runs, and the verdict.

        Supported if every run lies on the stated side of the threshold, contradicted if none does.
        """
        values = self.values(frames).dropna().astype(float)
        holds = values < self.threshold if self.direction == "below" else values > self.threshold
        runs = frames["runs"].set_index("run_id").reindex(values.index)
        by_seed = values.groupby(runs["seed"].to_numpy(), dropna=False).median()
        low, high = interval(by_seed)
        return {
            "claim_id": self.id,
            "source": self.source,
            "statement": self.statement,
            "statistic": self.statistic,
            "direction": self.direction,
            "threshold": self.threshold,
            "effect": float(by_seed.mean()) if len(values) else None,
            "low": float(values.min()) if len(values) else None,
            "high": float(values.max()) if len(values) else None,
            "interval_low": low,
            "interval_high": high,
            "count": len(values),
            "holds": int(holds.sum()),
            "seeds": int(runs["seed"].nunique()),
            "data": _data(runs),
            "scale": scale,
            "verdict": _verdict(len(values), int(holds.sum())),
        }


@dataclass(frozen=True)
class ClaimsOf:
    """Makes the claims of one paper: ``ClaimsOf("tirer2022")("1", statement, statistic, threshold, values)``."""

    paper: Paper

    def __call__(
        self,
        number: str,
        statement: str,
        statistic: str,
        threshold: float,
        values: Callable[[Frames], pd.Series],
        direction: Literal["below", "above"] = "below",
    ) -> Claim:
        source = BIBLIOGRAPHY[self.paper].short
        return Claim(f"{self.paper}-{number}", source, statement, statistic, direction, threshold, values)


def _verdict(count: int, holds: int) -> str:
    if count == 0 or 0 < holds < count:
        return "undecided"
    return "supported" if holds else "contradicted"


def interval(by_seed: pd.Series) -> tuple[float | None, float | None]:
    """Student's 95 % interval of the mean of values, one a seed; None with one seed or a value that is not finite."""
    if len(by_seed) < 2 or not np.isfinite(by_seed).all():
        return None, None
    mean, error = float(by_seed.mean()), float(by_seed.std(ddof=1)) / len(by_seed) ** 0.5
    half = float(student.ppf((1 + CONFIDENCE) / 2, len(by_seed) - 1)) * error
    return mean - half, mean + half


def _data(runs: pd.DataFrame) -> str:
    """What the runs were trained on: 'digits (K = 10, N = 1000)', UFMs as 'UFM (K = 4, N = 200)'."""
    sets = runs.assign(dataset=runs["dataset"].astype(object).fillna("UFM"))[["dataset", "classes", "train_samples"]]
    parts = [
        f"{row['dataset']} (K = {row['classes']:.0f}, N = {row['train_samples']:.0f})"
        for _, row in sets.drop_duplicates().dropna().iterrows()
    ]
    return ", ".join(parts)
