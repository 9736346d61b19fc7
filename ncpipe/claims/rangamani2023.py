"""Claims of Rangamani et al. 2023: collapse of the intermediate layers."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.bibliography import ICML, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import (
    NETWORKS,
    at_last_time,
    ends,
    final,
    log_change,
    measured,
    run_ids,
    statistic,
)

REFERENCE = Reference(
    "Rangamani et al. 2023",
    ("Rangamani, Akshay", "Lindegaard, Marius", "Galanti, Tomer", "Poggio, Tomaso A."),
    "Feature learning in deep classifiers through Intermediate Neural Collapse",
    ICML,
    2023,
)

LEAST_LAYERS = 3
"""A network has a top, a middle and a bottom third of its layers."""


def _layers(frames: Frames, metric: str) -> pd.DataFrame:
    """Rows of a training metric at every layer that has it, of networks with three such layers or more; ``place`` is
    the share of the layers below: 0 to 1."""
    rows = measured(frames, run_ids(frames, NETWORKS), metric, layer=None).dropna(subset="value")
    depths = rows.groupby("run_id")["depth"]
    rank, count = depths.rank("dense") - 1, depths.transform("nunique")
    return rows.assign(place=rank / (count - 1).clip(lower=1))[count >= LEAST_LAYERS]


def _third(rows: pd.DataFrame, which: Literal["bottom", "top"]) -> pd.DataFrame:
    return rows[rows["place"] >= 2 / 3] if which == "top" else rows[rows["place"] <= 1 / 3]


def gamma(rows: pd.DataFrame) -> float:
    """Goodman and Kruskal's gamma of depth and value: (pairs of layers in order - pairs out of order) / (both).

    Unlike a rank correlation it reaches 1 for layers that rise and then stay equal; NaN where all are equal.
    """
    signs = np.sign(np.subtract.outer(rows["value"].to_numpy(float), rows["value"].to_numpy(float)))
    depth = np.sign(np.subtract.outer(rows["depth"].to_numpy(float), rows["depth"].to_numpy(float)))
    told = np.abs(signs).sum()
    return float((signs * depth).sum() / told) if told else float("nan")


@statistic
def _with_depth(frames: Frames, metric: str) -> pd.Series:
    rows = at_last_time(_layers(frames, metric))
    return pd.Series({run: gamma(group) for run, group in rows.groupby("run_id")}, dtype=float)


def _share_over_training(frames: Frames) -> pd.Series:
    """Least fall over the layers of the top third."""
    rows = _third(_layers(frames, "within_share"), "top")
    return log_change(ends(rows, ("run_id", "layer"))).groupby("run_id").max()


def _alignment_top_over_bottom(frames: Frames) -> pd.Series:
    rows = at_last_time(_layers(frames, "subspace_alignment"))
    top, bottom = (_third(rows, which).groupby("run_id")["value"].mean() for which in ("top", "bottom"))
    return top - bottom


def _alignment_over_training(frames: Frames) -> pd.Series:
    table = ends(_third(_layers(frames, "subspace_alignment"), "top"), ("run_id", "layer"))
    return (table["last"] - table["first"]).groupby("run_id").mean()


def _nearest_mean_at_top(frames: Frames) -> pd.Series:
    """Least over the layers of the top third."""
    lowest = _third(at_last_time(_layers(frames, "ncc_accuracy")), "top").groupby("run_id")["value"].min()
    return lowest - final(frames, pd.Index(lowest.index), "accuracy")


_rangamani = ClaimsOf("rangamani2023", REFERENCE)

# gamma of 1/2: three of four pairs of layers stand in the stated order; chance is half of them.
# A hundredth of the samples: what remains where class means decide as the whole network does.
CLAIMS = (
    _rangamani("1a", "The within-class share of the variance falls with depth.",
               "gamma of depth and within_share over the layers, at the last epoch", -0.5,
               _with_depth("within_share"), "below"),
    _rangamani("1b", "The within-class share of the variance falls over training in every layer of the top third.",
               "log10 of within_share, last over first measured epoch, largest of the top third of the layers", 0.0,
               _share_over_training, "below"),
    _rangamani("2a", "Weights are aligned with the class means they read in the top layers, less so in the bottom.",
               "subspace_alignment at the last epoch, mean of the top third minus mean of the bottom third", 0.0,
               _alignment_top_over_bottom, "above"),
    _rangamani("2b", "The alignment of weights and class means in the top layers rises over training.",
               "subspace_alignment, last minus first measured epoch, mean of the top third", 0.0,
               _alignment_over_training, "above"),
    _rangamani("3a", "The accuracy of the nearest class mean rises with depth.",
               "gamma of depth and ncc_accuracy over the layers, at the last epoch", 0.5,
               _with_depth("ncc_accuracy"), "above"),
    _rangamani("3b", "The nearest class mean of every layer of the top third decides as well as the network.",
               "ncc_accuracy at the last epoch, least of the top third, minus accuracy", -0.01,
               _nearest_mean_at_top, "above"),
)  # fmt: skip
