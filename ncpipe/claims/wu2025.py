"""Claims of Wu & Mondelli 2025: within-class variability, loss and gradient of a network on its way to a minimum."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.stats import norm

from ncpipe.claims.evidence.bibliography import ICML, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import (
    TRAINED,
    class_counts,
    measured,
    recorded,
    run_ids,
    setting,
    statistic,
)

REFERENCE = Reference(
    "Wu & Mondelli 2025",
    ("Wu, Diyuan", "Mondelli, Marco"),
    "Neural Collapse Beyond the Unconstrained Features Model: Landscape, Dynamics, and Generalization in the"
    " Mean-Field Regime",
    ICML,
    2025,
)

NETWORKS = f"{TRAINED} and loss == 'mse' and head == 'linear' and fixed_etf != True"
NC1, LOSS, GRADIENT, ERROR = "nc1_trace_ratio", "train_loss", "gradient_norm", "test_error"
SMALL_LOSS, SMALL_GRADIENT = 0.01, 0.5
"""Loss, that of zero being 1/2, and gradient over that of the weight decay alone, which count as small."""
SEPARATED = 1e-3
"""Bound of the error of the best decision from which on a mixture counts as well separated."""


def path(frames: Frames, end_phase: bool) -> pd.DataFrame:
    """NC1 of the features, loss, gradient norm and test error by run and time: of the end phase, in which the
    gradient of the objective is recorded, or of all times."""
    runs = run_ids(frames, NETWORKS)
    nc1 = measured(frames, runs, NC1).astype({"run_id": str}).set_index(["run_id", "time"])["value"].rename(NC1)
    names = (LOSS, GRADIENT, "test_accuracy")
    told = pd.concat([recorded(frames, runs, name) for name in names]).astype({"run_id": str, "quantity": str})
    told = told.pivot(index=["run_id", "time"], columns="quantity", values="value").reindex(columns=names)
    whole = told.join(nc1, how="inner").astype(float)
    whole[ERROR] = 1 - whole["test_accuracy"]
    return whole.dropna(subset=GRADIENT) if end_phase else whole


def _rank_correlation(points: pd.DataFrame, x: str) -> pd.Series:
    """Spearman's rank correlation of NC1 and another quantity over the times of every run."""
    groups = points[[NC1, x]].dropna().groupby("run_id")
    return pd.Series({run: own.corr("spearman").loc[NC1, x] for run, own in groups if len(own) > 2}, dtype=float)


@statistic
def _of_the_end_phase(frames: Frames, x: str) -> pd.Series:
    return _rank_correlation(path(frames, end_phase=True), x)


def _near_stationarity(frames: Frames) -> pd.Series:
    """Largest NC1 of the points of the end phase at which loss and gradient are small, by run."""
    points = path(frames, end_phase=True)
    return points[(points[LOSS] < SMALL_LOSS) & (points[GRADIENT] < SMALL_GRADIENT)].groupby("run_id")[NC1].max()


@statistic
def _at_the_end(frames: Frames, name: str) -> pd.Series:
    """The last value of the end phase, by run."""
    return path(frames, end_phase=True)[name].groupby("run_id").last()


def _best_error(frames: Frames, runs: pd.Index) -> pd.Series:
    """A bound of the error of the best decision on the mixture that a network has, by run; NaN of others."""
    distance, condition = (
        setting(frames, f"dataset.mixture.{name}").reindex(runs).astype(float) for name in ("separation", "condition")
    )
    return (class_counts(frames, runs) - 1) * norm.sf(distance / (2 * np.sqrt(condition.fillna(1))))


def _together(frames: Frames) -> pd.Series:
    """Rank correlation of NC1 and test error over all times, but for networks on mixtures whose classes overlap."""
    found = _rank_correlation(path(frames, end_phase=False), ERROR)
    return found[~(_best_error(frames, found.index) >= SEPARATED)]


def _separated_error(frames: Frames) -> pd.Series:
    """Test error at the end, of networks on mixtures whose classes are well separated."""
    error = path(frames, end_phase=True)[ERROR].groupby("run_id").last()
    return error[_best_error(frames, error.index) < SEPARATED]


_wu = ClaimsOf("wu2025", REFERENCE)

# 1: the paper bounds NC1 by loss and gradient norm and says no rate; a rank correlation above a half is a relation
# that one sees. 2 and 3: small is read as a tenth for NC1, as a fiftieth of the loss of zero, and as half of the
# gradient of the penalty: more points than a tenth would leave, which asks more of the largest NC1. 4: the paper
# speaks of well separated classes, and of images; "near zero" is read as one in twenty, where the best decision errs
# in under one of a thousand.
CLAIMS = (
    _wu("1a", "On the way to a stationary point NC1 falls with the norm of the gradient.",
        "rank correlation of nc1_trace_ratio and gradient_norm over the end phase", 0.5,
        _of_the_end_phase(GRADIENT), "above"),
    _wu("1b", "On the way to a stationary point NC1 falls with the loss.",
        "rank correlation of nc1_trace_ratio and training loss over the end phase", 0.5,
        _of_the_end_phase(LOSS), "above"),
    _wu("2", "Where loss and gradient are small, features are near NC1.",
        "largest nc1_trace_ratio where loss < 0.01 and gradient_norm < 0.5", 0.1, _near_stationarity),
    _wu("3a", "Training on the squared error ends at a small loss.", "training loss at the end", SMALL_LOSS,
        _at_the_end(LOSS)),
    _wu("3b", "Training on the squared error ends at NC1.", "nc1_trace_ratio at the end", 0.1, _at_the_end(NC1)),
    _wu("4a", "NC1 and test error fall together where classes do not overlap.",
        "rank correlation of nc1_trace_ratio and test error over epochs and end phase", 0.5,
        _together, "above"),
    _wu("4b", "For well separated classes test error is near zero where NC1 is.",
        "test error at the end, of mixtures whose best decision errs in under 0.001", 0.05, _separated_error),
)  # fmt: skip
