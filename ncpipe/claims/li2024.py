"""Claims of Li et al. 2024: collapse with several labels a sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd

from ncpipe.claims.evidence.bibliography import ICML, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import (
    NETWORKS,
    TRAINED,
    Values,
    alike,
    at_last_time,
    by_run,
    ends,
    final,
    log10,
    log_change,
    measured,
    of_partners,
    optimality,
    recorded,
    run_ids,
    solved_end,
    terminal_change,
)
from ncpipe.losses import multi_label

REFERENCE = Reference(
    "Li et al. 2024",
    ("Li, Pengyu", "Li, Xiao", "Wang, Yutong", "Qu, Qing"),
    "Neural Collapse in Multi-label Learning with Pick-all-label Loss",
    ICML,
    2024,
)

SEVERAL = f"loss in {list(multi_label())}"
FREE = f"{NETWORKS} and {SEVERAL} and fixed_etf == False"


def _end(metric: str) -> Values:
    return lambda frames: final(frames, run_ids(frames, FREE), metric)


def _angle_over_training(frames: Frames) -> pd.Series:
    return log_change(ends(measured(frames, run_ids(frames, FREE), "tagwise_ratio")))


def last_test_accuracy(frames: Frames, query: str) -> pd.Series:
    """Last accuracy on the whole test split: the m tags of a sample have the m largest logits. The metric 'accuracy'
    is that of the samples of one tag."""
    return by_run(at_last_time(recorded(frames, run_ids(frames, query), "test_accuracy")))


def _frozen_and_free(frames: Frames, values: Callable[[str], pd.Series]) -> pd.DataFrame:
    """Columns ``frozen`` and ``free``: values of networks with and without a frozen ETF classifier that share data
    set, model, loss and seed, by the frozen one; of several free ones the largest."""
    pair = alike(frames, "dataset", "model", "loss", "seed")
    frozen, free = (values(f"{TRAINED} and {SEVERAL} and fixed_etf == {is_frozen}") for is_frozen in (True, False))
    return pd.DataFrame({"frozen": frozen, "free": of_partners(frozen.index, free, pair, "max")}, dtype=float)


def _accuracy_after_epochs(frames: Frames, query: str) -> pd.Series:
    """``last_test_accuracy`` before an end phase, which not every network has."""
    rows = recorded(frames, run_ids(frames, query), "test_accuracy")
    epochs = frames["runs"].set_index("run_id")["epochs"]
    return by_run(at_last_time(rows[rows["time"] <= rows["run_id"].map(epochs).astype(float)]))


def _accuracy_difference(frames: Frames) -> pd.Series:
    table = _frozen_and_free(frames, lambda query: _accuracy_after_epochs(frames, query))
    return table["frozen"] - table["free"]


def _parameters_ratio(frames: Frames) -> pd.Series:
    runs = frames["runs"]
    table = _frozen_and_free(frames, lambda query: runs.query(query).set_index("run_id")["parameters"].astype(float))
    return log10(table["frozen"] / table["free"])


def _nearest_neighbour(frames: Frames) -> pd.Series:
    decoded = final(frames, run_ids(frames, FREE), "tag_sets_1nn", split="test")
    return decoded - last_test_accuracy(frames, FREE).reindex(decoded.index)


_li = ClaimsOf("li2024", REFERENCE)


CLAIMS = (
    _li("1a", "The samples of one tag collapse to their class means.",
        "log10 of nc1_pinv of samples of one tag, last epoch over first measured zero-error epoch", 0.0,
        terminal_change("nc1_pinv", FREE)),
    # Theorems speak of minimisers: it is asked where training ends, after the end phase where there is one.
    # A third of the distance between an ETF and an orthogonal frame at K = 10, 0.32.
    _li("1b", "The class means of the samples of one tag end at a simplex ETF.",
        "nc2_means_etf of samples of one tag at the last epoch", 0.1, _end("nc2_means_etf")),
    # The paper's own measure, NC_m, whose means are not centred: those of features behind a ReLU may end as an
    # orthogonal frame, and that of two tags on their sum, which is then 12 degrees off the sum of the centred means
    # (K = 10, the penalties of the paper). A tenth: nine degrees where unrelated sets stand at right angles.
    _li("2a", "The mean of the samples of two tags ends on the sum of the means of its tags.",
        "tagwise_ratio at the last epoch", 0.1, _end("tagwise_ratio")),
    _li("2b", "Training at least halves the angle between the mean of two tags and the sum of the means of its tags.",
        "log10 of tagwise_ratio, last over first measured epoch", math.log10(0.5), _angle_over_training),
    # Two points: what may be called the same; 10,250 test images, one in five of a pair, tell 0.013 apart (twice the
    # standard error of a difference, at an accuracy of 0.7). The paper has no end phase, so that it is asked before.
    _li("3a", "A classifier frozen at a simplex ETF keeps the test accuracy.",
        "test accuracy after the epochs of SGD, frozen minus trained classifier", -0.02,
        _accuracy_difference, "above"),
    _li("3b", "A classifier frozen at a simplex ETF leaves fewer parameters to train.",
        "log10 of trainable parameters, frozen over trained classifier", 0.0, _parameters_ratio),
    # The classifier's accuracy is told the number of tags, the neighbour has to find it: five points are granted.
    _li("4", "The nearest training feature tells the set of tags about as well as the classifier told their number.",
        "tag_sets_1nn - test accuracy, at the last epoch", -0.05, _nearest_neighbour, "above"),
    # Theorems: what L-BFGS in float64 leaves, and the square root of it in the geometry.
    _li("5a", "The pick-all-labels UFM attains the closed form.", "| objective / closed form - 1 | of UFMs by L-BFGS",
        1e-8, optimality(SEVERAL)),
    _li("5b", "In the pick-all-labels UFM the class means of one tag are a simplex ETF.",
        "nc2_means_etf of UFMs by L-BFGS", 1e-3, solved_end(SEVERAL, "nc2_means_etf")),
    _li("5c", "In the pick-all-labels UFM the mean of two tags is a multiple of the sum of the means of its tags.",
        "tagwise_angle of UFMs by L-BFGS, degrees", 0.1, solved_end(SEVERAL, "tagwise_angle")),
)  # fmt: skip
