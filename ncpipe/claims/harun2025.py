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


def _beside(frames: Frames, baseline: str, values: Values) -> tuple[pd.Series, pd.Series]:
    """Values of the runs that start by least squares, and of those that start by ``baseline`` on the same network,
    with the same seed and otherwise equal settings; by the id of the former."""
    runs = _learnings(frames)
    by_run, starts = values(frames).reindex(runs.index), setting(frames, "init").reindex(runs.index)
    # the ridge is of least squares alone
    pair = runs["network_id"] + alike(frames, without=("init", "ridge")).reindex(runs.index)
    started = by_run[starts == "least_squares"]
    return started, of_partners(started.index, by_run[starts == baseline], pair, "first")


@statistic
def _ratio(frames: Frames, baseline: str, values: Values) -> pd.Series:
    started, other = _beside(frames, baseline, values)
    return log10(started / other)


@statistic
def _difference(frames: Frames, baseline: str, values: Values) -> pd.Series:
    started, other = _beside(frames, baseline, values)
    return started - other


_harun = ClaimsOf("harun2025", REFERENCE)
STEPS = {"a": 1, "b": 10, "c": 100}
WORDS = {"random": "random", "class_mean": "class-mean"}


# The paper has random rows and class means as baselines that least squares beats. Thresholds are the signs of the
# comparisons: it states an order, and sizes depend on data and learning rate.
def _smaller(number: str, baseline: str, statement: str, quantity: str, values: Values) -> Claim:
    compared = f"log10 of {quantity}, least-squares over {WORDS[baseline]}"
    return _harun(number, statement.format(WORDS[baseline]), compared, 0.0, _ratio(baseline, values))


def _higher(number: str, baseline: str, steps: int) -> Claim:
    claimed = f"accuracy after {plural(steps, 'step')} is higher than with {WORDS[baseline]} ones."
    compared = f"test_accuracy at step {steps}, least-squares minus {WORDS[baseline]}"
    values = _difference(baseline, at_step("test_accuracy", steps))
    return _harun(number, f"With least-squares rows {claimed}", compared, 0.0, values, "above")


_SPIKE = "New least-squares rows raise the loss on old classes less than {} ones."
_RISE = "largest old_loss up to step 100 minus before_old_loss"
_START = "New least-squares rows start from a lower training loss than {} ones."
_AT_START = "train_loss at step 0"

CLAIMS = (
    _smaller("1a", "random", _SPIKE, _RISE, spike),
    _smaller("1b", "class_mean", _SPIKE, _RISE, spike),
    _smaller("2a", "random", _START, _AT_START, at_step("train_loss", 0)),
    _smaller("2b", "class_mean", _START, _AT_START, at_step("train_loss", 0)),
    *(_higher(f"3{letter}", "random", steps) for letter, steps in STEPS.items()),
    *(_higher(f"4{letter}", "class_mean", steps) for letter, steps in STEPS.items()),
)
"""Pairs of runs are compared that share network, buffer and batches."""
