"""A claim of a paper: a statistic of every run, a threshold chosen before looking, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from scipy.stats import t as student

from ncpipe.claims.evidence.bibliography import Reference
from ncpipe.records.reading import Frames

CONFIDENCE = 0.95
"""Confidence of the interval over seeds."""
ROUNDING = 1e-9
"""Relative to the threshold: values as close as this lie on no side of it."""

OVER_SEEDS, MEDIANS = "the interval over seeds", "the medians of all seeds"
ALL_FITS, ONE_SEED = "all fits", "all runs of one seed"
AT_THRESHOLD = "at the threshold but for rounding"
"""What reasons say."""

Values = Callable[[Frames], pd.Series]
"""A statistic of every run that a claim speaks of, by run id."""


@dataclass(frozen=True)
class Claim:
    """A statement that the tables support, contradict or leave undecided."""

    id: str
    source: str
    """The paper as text names it; empty: claims of a user's own, named by their file."""
    statement: str
    statistic: str
    direction: Literal["below", "above"]
    threshold: float
    values: Values
    """The statistic of every run that the claim speaks of, by run id; of what compares runs, by the id of one of
    them: that tells its seed and its data."""
    rounding: float = 0.0
    """What rounding alone makes of the statistic; a value so close to the threshold lies on no side of it."""

    def row(self, frames: Frames, scale: str | None = None) -> dict[str, Any]:
        """The row of the ``claims`` table: effect and its interval over seeds, range over the runs, and the verdict
        with its reason, see ``decide``."""
        values = self.values(frames).dropna().astype(float)
        holds = values < self.threshold if self.direction == "below" else values > self.threshold
        runs = frames["runs"].set_index("run_id").reindex(values.index)
        by_seed = values.groupby(runs["seed"].to_numpy(), dropna=False).median()
        low, high = interval(by_seed)
        of_fits = "kind" in runs and len(runs) > 0 and bool((runs["kind"] == "declared").all())
        verdict, reason = self.decide(values, by_seed, of_fits)
        return {
            "claim_id": self.id,
            **{name: getattr(self, name) for name in ("source", "statement", "statistic", "direction", "threshold")},
            "effect": float(by_seed.mean()) if len(values) else None,
            "low": float(values.min()) if len(values) else None,
            "high": float(values.max()) if len(values) else None,
            "interval_low": low,
            "interval_high": high,
            "resolution": None if low is None or high is None else (high - low) / 2,
            "count": len(values),
            "holds": int(holds.sum()),
            "seeds": int(runs["seed"].nunique()),
            "data": _data(runs),
            "scale": scale,
            "verdict": verdict,
            "reason": reason,
        }

    def decide(self, values: pd.Series, by_seed: pd.Series, of_fits: bool = False) -> tuple[str, str]:
        """Verdict and its reason, from the values of all runs and their medians by seed.

        It is that of Student's interval over seeds: supported if the whole of it lies on the stated side of the
        threshold, contradicted if the whole of it lies on the other. With one seed, and of fits of models
        (``of_fits``), whose theorems speak of every one, it is that of the range of all runs; where a median is
        infinite, so that there is no interval, that of the range of the medians. Ends of the range within rounding
        of the threshold lie on no side; a range of which both do decides nothing.
        """
        if values.empty:
            return "undecided", "no run speaks of it"
        low, high = interval(by_seed)
        what = OVER_SEEDS
        if low is None or high is None or of_fits:
            chosen, what = by_seed, MEDIANS
            if of_fits or len(by_seed) < 2:
                chosen, what = values, ALL_FITS if of_fits else ONE_SEED
            low, high = float(chosen.min()), float(chosen.max())
        ends = (self.threshold - high, self.threshold - low)
        worst, best = ends if self.direction == "below" else (-ends[1], -ends[0])
        tolerance = max(ROUNDING * abs(self.threshold), self.rounding)
        if max(abs(worst), abs(best)) <= tolerance:
            return "undecided", f"{what}: {AT_THRESHOLD}"
        if worst >= -tolerance:
            return "supported", f"{what}: on the stated side"
        if best <= tolerance:
            return "contradicted", f"{what}: on the other side"
        return "undecided", f"{what}: on both sides"


@dataclass(frozen=True)
class ClaimsOf:
    """Makes the claims of one paper: ``ClaimsOf(paper, REFERENCE)("1", statement, statistic, threshold, values)``."""

    paper: str
    reference: Reference

    def __call__(
        self,
        number: str,
        statement: str,
        statistic: str,
        threshold: float,
        values: Values,
        direction: Literal["below", "above"] = "below",
        rounding: float = 0.0,
    ) -> Claim:
        id = f"{self.paper}-{number}"
        return Claim(id, self.reference.short, statement, statistic, direction, threshold, values, rounding)


def interval(by_seed: pd.Series) -> tuple[float | None, float | None]:
    """Student's 95 % interval of the mean of values, one a seed; None with one seed or a value that is not finite."""
    if len(by_seed) < 2 or not np.isfinite(by_seed).all():
        return None, None
    mean, half = float(by_seed.mean()), float(by_seed.std(ddof=1) * half_width(len(by_seed)))
    return mean - half, mean + half


def half_width(seeds: Any) -> Any:
    """Half the width of Student's interval over that many seeds, or an array of such numbers, by their standard
    deviation: t(n - 1) / sqrt(n)."""
    return student.ppf((1 + CONFIDENCE) / 2, seeds - 1) / np.sqrt(seeds)


def _data(runs: pd.DataFrame) -> str:
    """What the runs were trained on: 'digits (K = 10, N = 1000)', UFMs as 'UFM (K = 4, N = 200)'."""
    sets = runs.assign(dataset=runs["dataset"].astype(object).fillna("UFM"))[["dataset", "classes", "train_samples"]]
    parts = [
        f"{row['dataset']} (K = {row['classes']:.0f}, N = {row['train_samples']:.0f})"
        for _, row in sets.drop_duplicates().dropna().iterrows()
    ]
    return ", ".join(parts)
