"""Claims of Sukenik, Mondelli & Lampert 2023: the deep UFM of two classes, and networks that end in such a head."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from ncpipe.claims.evidence.bibliography import NEURIPS, Reference
from ncpipe.claims.evidence.claim import Claim, ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import NETWORKS, Values, at_last_time, measured, run_ids, statistic
from ncpipe.records.reading import fits_of

REFERENCE = Reference(
    "Súkeník, Mondelli & Lampert 2023",
    ("Súkeník, Peter", "Mondelli, Marco", "Lampert, Christoph H."),
    "Deep Neural Collapse Is Provably Optimal for the Deep Unconstrained Features Model",
    NEURIPS,
    2023,
)

DEEP = (
    "kind == 'declared' and status == 'done' and optimizer == 'lbfgs' and loss == 'mse' and classes == 2"
    " and activation == 'relu' and bias == 'none' and depth >= 2"
)
"""Deep ReLU UFMs of two classes, L >= 2."""
HEADS = f"{NETWORKS} and loss == 'mse' and bias == 'no' and fixed_etf == False"
ZERO = 0.5
"""Objective of the zero solution."""


def _fits(frames: Frames, is_zero: bool) -> pd.DataFrame:
    """Rows of ``ufm``, by run, of the deep UFMs whose optimum is zero, or of the others, with a closed form."""
    fits = fits_of(frames, run_id=set(run_ids(frames, DEEP))).dropna(subset=["optimum"])
    return fits[fits["optimum_is_zero"].astype(bool) == is_zero].set_index("run_id")


def _problems(fits: pd.DataFrame) -> list[pd.Series]:
    """What tells the problems of one seed apart but for the width, on which the optimum does not depend."""
    return [fits["weight_decay"].map(tuple), fits["feature_decay"], fits["samples"], fits["seed"]]


def _best(fits: pd.DataFrame) -> pd.DataFrame:
    """The lowest fit of a problem and seed over the widths: a theorem on the optimum speaks of no other."""
    return fits.loc[fits["value"].astype(float).groupby(_problems(fits)).idxmin()]


def _gap(frames: Frames) -> pd.Series:
    best = _best(_fits(frames, is_zero=False))
    return (best["gap"] / best["optimum"]).abs()


def _zero_error(frames: Frames) -> pd.Series:
    return (_fits(frames, is_zero=True)["value"] / ZERO - 1).abs()


def _below_zero_solution(frames: Frames) -> pd.Series:
    return 1 - _best(_fits(frames, is_zero=False))["value"] / ZERO


def _reached(frames: Frames) -> pd.Index:
    """UFMs that ended at an optimum other than zero: the theorem is about those points."""
    fits = _fits(frames, is_zero=False)
    return fits.index[~fits["missed"].astype(bool)]


def _success_gain(frames: Frames) -> pd.Series:
    """Fraction of successful starts, widest model minus narrowest, of every problem and seed with several widths."""
    fits = _fits(frames, is_zero=False).sort_values("dim")
    groups = list(fits.groupby(_problems(fits)))
    gains = {
        group.index[-1]: group["success_fraction"].iloc[-1] - group["success_fraction"].iloc[0]
        for _, group in groups
        if group["dim"].nunique() > 1
    }
    return pd.Series(gains, dtype=float)


IN_HEAD, BEHIND_RELU, EVERYWHERE = r"features|head_input|head\d+", r"features|H([2-9]|\d\d+)|head\d+", ".*"
"""Layers. H1 and the products W1H1 are not unique at the optimum, nor is the input of a head."""


def _largest(frames: Frames, runs: pd.Index, metric: str, layers: str) -> pd.Series:
    """Largest value over the layers at the last time, by run; NaN if it is undefined in one of them."""
    rows = at_last_time(measured(frames, runs, metric, layer=None))
    rows = rows[rows["layer"].astype(str).str.fullmatch(layers)]
    return rows.groupby("run_id")["value"].apply(lambda values: values.max(skipna=False))


def _of_ufms(metric: str, layers: str) -> Values:
    return lambda frames: _largest(frames, _reached(frames), metric, layers)


@statistic
def _of_heads(frames: Frames, metric: str, layers: str, classes: str) -> pd.Series:
    chosen = frames["runs"].query(f"{HEADS} and classes {classes}")
    runs = pd.Index(chosen.loc[chosen["head"].astype(str).str.startswith("hidden"), "run_id"])
    return _largest(frames, runs, metric, layers)


def _networks(number: str, classes: str, of: str) -> Iterator[Claim]:
    """The three claims on networks with these numbers of classes."""
    yield _sukenik(f"{number}a", f"In networks of {of} with a head of hidden layers every layer of the head ends"
                   " collapsed (DNC1).",
                   "largest nc1_pinv of a layer of the head at the end", 0.1,
                   _of_heads("nc1_pinv", IN_HEAD, classes))  # fmt: skip
    yield _sukenik(f"{number}b", f"Class means of {of} behind the hidden layers of such a head end as an orthogonal"
                   " frame (DNC2).",
                   "largest nc2_means_of of a layer of the head behind its input", 0.2,
                   _of_heads("nc2_means_of", BEHIND_RELU, classes))  # fmt: skip
    yield _sukenik(f"{number}c", f"Weight rows of such a head of {of} end collinear with the class means that they"
                   " read (DNC3).",
                   "largest nc3_rows of a layer of the head behind its input", 0.1,
                   _of_heads("nc3_rows", BEHIND_RELU, classes))  # fmt: skip


_sukenik = ClaimsOf("sukenik2023", REFERENCE)

# 1 and 5: what the solver means by reached. 2 to 4: of a point within 1e-8, relative, of the optimum. There the
# penalties bound squared distances, so that variances are below about (L + 1) 1e-8 of those between classes, and
# distances of frames, which enter the objective squared, below about 1e-4; a squared sine of 1e-4 is an angle of
# 0.01. 7 and 8: thresholds of ours.
CLAIMS = (
    _sukenik("1", "The optimum of the deep ReLU UFM of two classes is that of deep neural collapse.",
             "| gap | / optimum of the best fit of a seed over the widths", 1e-8, _gap),
    _sukenik("2", "At the optimum every layer is collapsed (DNC1).",
             "largest nc1_trace_ratio of a layer at the last iteration", 1e-6,
             _of_ufms("nc1_trace_ratio", EVERYWHERE)),
    _sukenik("3", "At the optimum class means behind every ReLU are an orthogonal frame (DNC2).",
             "largest nc2_means_of of a layer behind a ReLU", 1e-4, _of_ufms("nc2_means_of", BEHIND_RELU)),
    _sukenik("4", "At the optimum weight rows are collinear with the class means that they read (DNC3).",
             "largest nc3_rows of a layer behind a ReLU", 1e-4, _of_ufms("nc3_rows", BEHIND_RELU)),
    _sukenik("5a", "Above the threshold of the penalties zero is optimal.",
             "| objective / (1/2) - 1 |", 1e-8, _zero_error),
    _sukenik("5b", "Below the threshold of the penalties zero is not optimal.",
             "1 - objective / (1/2) of the best fit of a seed over the widths", 1e-8, _below_zero_solution, "above"),
    _sukenik("6", "Wider models are easier to optimise: more random starts reach the optimum.",
             "success_fraction of the widest model minus that of the narrowest", 0.0, _success_gain, "above"),
    *_networks("7", "== 2", "two classes"),
    *_networks("8", "> 2", "more classes, of which the theorem does not speak,"),
)  # fmt: skip
