"""Claims of Dang, Tran, Nguyen & Ho 2024: cross entropy, features behind a ReLU, and classes of different size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ncpipe.claims.evidence.bibliography import ICML, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import final, run_ids, statistic
from ncpipe.records.reading import fits_of, rows_of

REFERENCE = Reference(
    "Dang, Tran, Nguyen & Ho 2024",
    ("Dang, Hien", "Tran, Tho", "Nguyen, Tan", "Ho, Nhat"),
    "Neural Collapse for Cross-entropy Class-Imbalanced Learning with Unconstrained ReLU Features Model",
    ICML,
    2024,
)

FITS = (
    "kind == 'declared' and status == 'done' and optimizer == 'lbfgs' and loss == 'ce' and model == 'plain'"
    " and bias == 'none'"
)
VANISHED = 1e-3
"""Length of a class mean over the longest of the theorem from which on it does not count as zero."""
Array = NDArray[np.float64]


def _fits(frames: Frames) -> pd.DataFrame:
    """Rows of ``ufm``, by run, of the paper's model."""
    fits = fits_of(frames, nonnegative=True, run_id=set(run_ids(frames, FITS)))
    return fits[fits["classifier"] == "free"].dropna(subset=["optimum"]).set_index("run_id")


def _gap(frames: Frames) -> pd.Series:
    fits = _fits(frames)
    return (fits["gap"] / fits["optimum"]).abs()


def _reached(frames: Frames) -> pd.Index:
    """Fits that ended at the optimum, which the theorem is about."""
    fits = _fits(frames)
    return fits.index[~fits["missed"].astype(bool)]


def _variability(frames: Frames) -> pd.Series:
    return final(frames, _reached(frames), "nc1_trace_ratio")


@dataclass(frozen=True)
class Optimum:
    """What the theorem says of one problem, and what a fit of it reached."""

    counts: Array
    """n_k, (K,)."""
    weight_decay: float
    feature_decay: float
    means_reached: Array
    """Gram of the class means, (K, K)."""
    weights_reached: Array
    """Gram of the classifier's rows."""

    @property
    def threshold(self) -> float:
        """Samples down from which a class mean is zero: N^2 lW lH K/(K-1)."""
        K = len(self.counts)
        return float(self.counts.sum() ** 2 * self.weight_decay * self.feature_decay * K / (K - 1))

    @property
    def live(self) -> NDArray[np.intp]:
        """Numbers of the classes above the threshold."""
        return np.flatnonzero(self.counts > self.threshold)

    @property
    def dead(self) -> NDArray[np.intp]:
        """Numbers of the others."""
        return np.flatnonzero(self.counts <= self.threshold)

    @property
    def unit(self) -> Array:
        """sqrt((K-1) lW / (K n_k lH)), (K,)."""
        K = len(self.counts)
        return np.sqrt((K - 1) * self.weight_decay / (K * self.counts * self.feature_decay))

    @property
    def squares(self) -> Array:
        """|h_k|^2 = ``unit`` M_k, M_k = log(K sqrt(n_k / threshold) - (K-1)), or 0 below the threshold, (K,)."""
        K = len(self.counts)
        return self.unit * np.log(np.maximum(K * np.sqrt(self.counts / self.threshold) - (K - 1), 1))

    @property
    def weights(self) -> Array:
        """W W^T, (K, K): w_k = sqrt(lH/lW) (g_k - mean of all g), g_k = sqrt(n_k K/(K-1)) h_k."""
        K = len(self.counts)
        centred, scaled = np.eye(K) - 1 / K, self.counts * K / (K - 1) * self.squares
        return self.feature_decay / self.weight_decay * centred @ np.diag(scaled) @ centred


def optima(frames: Frames) -> Iterator[tuple[str, Optimum]]:
    """Every fit that reached the optimum, with what the theorem says of it."""
    runs = frames["runs"].set_index("run_id").loc[list(_reached(frames))]
    rows = rows_of(frames, "grams", run_id=set(runs.index), gram=("means_uncentred", "weights"))
    rows = rows.astype({"run_id": str, "gram": str}).sort_values(["row", "column"])
    grams = {key: own["value"].to_numpy(float) for key, own in rows.groupby(["run_id", "gram"])}
    for run_id, run in runs.iterrows():
        settings, K = json.loads(run["settings"]), int(run["classes"])
        counts = np.broadcast_to(np.asarray(settings["samples"], float), K)
        reached = [grams[run_id, gram].reshape(K, K) for gram in ("means_uncentred", "weights")]
        yield str(run_id), Optimum(counts, run["weight_decay"][0], run["feature_decay"], *reached)


def _largest_cosine(optimum: Optimum) -> float | None:
    """Largest |cosine| of two class means that the theorem lets live."""
    gram = optimum.means_reached[np.ix_(optimum.live, optimum.live)]
    lengths = np.sqrt(np.diag(gram))
    cosines = np.abs(gram / np.outer(lengths, lengths) - np.eye(len(gram)))
    return cosines.max() if len(gram) > 1 else None


def _length_error(optimum: Optimum) -> float | None:
    """Largest relative error of the length of a class mean that the theorem lets live."""
    live = optimum.live
    ratios = np.sqrt(np.diag(optimum.means_reached)[live] / optimum.squares[live])
    return np.abs(ratios - 1).max() if len(live) else None


def _weights_error(optimum: Optimum) -> float | None:
    """Distance of W W^T from the theorem's, relative."""
    norm = np.linalg.norm(optimum.weights)
    return float(np.linalg.norm(optimum.weights_reached - optimum.weights) / norm) if norm else None


def _on_the_wrong_side(optimum: Optimum) -> float:
    """Number of classes whose mean vanishes though they are above the threshold, or not though they are below."""
    longest = np.sqrt(optimum.squares.max()) or 1.0
    vanished = np.sqrt(np.diag(optimum.means_reached)) < VANISHED * longest
    return float(np.sum(vanished != (optimum.counts <= optimum.threshold)))


def _rows_apart(optimum: Optimum) -> float | None:
    """Largest distance of the classifier's rows of two classes below the threshold, over the longest row."""
    gram = optimum.weights_reached
    pairs = [gram[a, a] + gram[b, b] - 2 * gram[a, b] for a, b in combinations(optimum.dead, 2)]
    longest = np.diag(gram).max()
    return np.sqrt(max(0.0, *pairs) / longest) if pairs and len(optimum.live) else None


def _row_growth(optimum: Optimum) -> float | None:
    """Least relative difference of the lengths of two rows, that of the larger class first, one of the two live."""
    lengths, counts = np.sqrt(np.diag(optimum.weights_reached)), optimum.counts
    pairs = [(a, b) for a in optimum.live for b in range(len(counts)) if counts[a] > counts[b]]
    return min((1 - lengths[b] / lengths[a] for a, b in pairs), default=None)


@statistic
def _of_optima(frames: Frames, of: str) -> pd.Series:
    found = {run_id: STATISTICS[of](optimum) for run_id, optimum in optima(frames)}
    return pd.Series(found, dtype=float)


STATISTICS = {
    "cosine": _largest_cosine,
    "length": _length_error,
    "weights": _weights_error,
    "side": _on_the_wrong_side,
    "apart": _rows_apart,
    "growth": _row_growth,
}

_dang = ClaimsOf("dang2024", REFERENCE)

# 1: what the solver means by reached. 2 to 4 and 6: L-BFGS stops at a gradient of 1e-7 in units of the penalties,
# where distances from the optimum are about as small; 1e-3 leaves room for classes near the threshold, whose
# curvature is small, and variances are squares of distances. 5: a count, which is whole; beyond the threshold lengths
# grow as a root, so that a thousandth of the longest tells them from zero. 7: the sign is the claim.
CLAIMS = (
    _dang("1", "The least objective is the theorem's, for classes of every size.",
          "| objective - closed form | / closed form", 1e-8, _gap),
    _dang("2", "At the optimum features of a class collapse to their mean (NC1).",
          "nc1_trace_ratio at the last iteration", 1e-6, _variability),
    _dang("3", "At the optimum class means are orthogonal, whatever the sizes of the classes (NC2).",
          "largest | cosine | of two class means above the threshold", 1e-3, _of_optima("cosine")),
    _dang("4a", "The length of a class mean is that of the theorem, which depends on the size of its class.",
          "largest relative error of the length of a class mean above the threshold", 1e-3, _of_optima("length")),
    _dang("4b", "The classifier's rows are the scaled and centred class means (NC3).",
          "relative distance of W W^T from the theorem's", 1e-3, _of_optima("weights")),
    _dang("5", "Minority collapse: the mean of class k is zero from n_k = N^2 lW lH K/(K-1) down, and not above.",
          "number of classes on the wrong side of the threshold", 0.5, _of_optima("side")),
    _dang("6", "Classes below the threshold share one row of the classifier.",
          "largest distance of two rows below the threshold over the longest row", 1e-3, _of_optima("apart")),
    _dang("7", "The classifier's row of a larger class is longer.",
          "least relative difference of the lengths of two rows, the larger class first", 0.0,
          _of_optima("growth"), "above"),
)  # fmt: skip
