"""Claims of Harun & Kanan 2025: how new rows of the classifier start in class-incremental learning."""

from __future__ import annotations

import pandas as pd

from ncpipe.claims.evidence.bibliography import Reference
from ncpipe.claims.evidence.claim import Claim, ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import Values, alike, log10, of_partners, recorded, setting, statistic
from ncpipe.system.words import plural

REFERENCE = Reference(
    "Harun & Kanan 2025",
    ("Harun, Md Yousuf", "Kanan, Christopher"),
    "A Good Start Matters: Enhancing Continual Learning with Data-Driven Weight Initialization",
    ("misc", "eprint", "2503.06385"),
    2025,
    (("archiveprefix", "arXiv"),),
)

SPIKE_STEPS = 100
NO_SPIKE = 1e-9
"""A smaller rise of the loss counts as this, so that a ratio to it exists."""


def _learnings(frames: Frames) -> pd.DataFrame:
    """Rows of ``runs`` of class-incremental learning that ended well, by run id."""
    return frames["runs"].query("kind == 'continual' and status == 'done'").set_index("run_id")


@statistic
def at_step(frames: Frames, quantity: str, step: int) -> pd.Series:
    """The quantity at a step; powers of ten are always among the recorded steps of runs that are long enough."""
    rows = recorded(frames, _learnings(frames).index, quantity)
    return rows[rows["time"] == step].set_index("run_id")["value"]


def spike(frames: Frames) -> pd.Series:
    """How far the loss on old classes rises in the first steps above that before the switch."""
    rows = recorded(frames, _learnings(frames).index, "old_loss")
    highest = rows[rows["time"] <= SPIKE_STEPS].groupby("run_id")["value"].max()
    return (highest - at_step("before_old_loss", 0)(frames)).clip(lower=NO_SPIKE)


def _beside_random(frames: Frames, init: str, values: Values) -> tuple[pd.Series, pd.Series]:
    """Values of the runs that start by ``init``, and of those that start at random on the same network, with the same
    seed and otherwise equal settings; by the id of the former."""
    runs = _learnings(frames)
    by_run, starts = values(frames).reindex(runs.index), setting(frames, "init").reindex(runs.index)
    # the ridge is of least squares alone
    pair = runs["network_id"] + alike(frames, without=("init", "ridge")).reindex(runs.index)
    started = by_run[starts == init]
    return started, of_partners(started.index, by_run[starts == "random"], pair, "first")


@statistic
def _ratio(frames: Frames, init: str, values: Values) -> pd.Series:
    started, random = _beside_random(frames, init, values)
    return log10(started / random)


@statistic
def _difference(frames: Frames, init: str, values: Values) -> pd.Series:
    started, random = _beside_random(frames, init, values)
    return started - random


_harun = ClaimsOf("harun2025", REFERENCE)
STEPS = {"a": 1, "b": 10, "c": 100}
WORDS = {"least_squares": "least-squares", "class_mean": "class-mean"}


# Thresholds are the signs of the comparisons: the paper states an order, and sizes depend on data and learning rate.
def _smaller(number: str, init: str, statement: str, quantity: str, values: Values) -> Claim:
    compared = f"log10 of {quantity}, {WORDS[init]} over random"
    return _harun(number, statement.format(WORDS[init]), compared, 0.0, _ratio(init, values))


def _higher(number: str, init: str, steps: int) -> Claim:
    claimed = f"accuracy after {plural(steps, 'step')} is higher than with random ones."
    compared = f"test_accuracy at step {steps}, {WORDS[init]} minus random"
    values = _difference(init, at_step("test_accuracy", steps))
    return _harun(number, f"With {WORDS[init]} rows {claimed}", compared, 0.0, values, "above")


_SPIKE = "New {} rows raise the loss on old classes less than random ones."
_RISE = "largest old_loss up to step 100 minus before_old_loss"
_START = "New {} rows start from a lower training loss than random ones."
_AT_START = "train_loss at step 0"

CLAIMS = (
    _smaller("1a", "least_squares", _SPIKE, _RISE, spike),
    _smaller("1b", "class_mean", _SPIKE, _RISE, spike),
    _smaller("2a", "least_squares", _START, _AT_START, at_step("train_loss", 0)),
    _smaller("2b", "class_mean", _START, _AT_START, at_step("train_loss", 0)),
    *(_higher(f"3{letter}", "least_squares", steps) for letter, steps in STEPS.items()),
    *(_higher(f"4{letter}", "class_mean", steps) for letter, steps in STEPS.items()),
)
"""Pairs of runs are compared that share network, buffer and batches."""
