"""Claims of Harun & Kanan 2025: how new rows of the classifier start in class-incremental learning."""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd

from ncpipe.claims.evidence.bibliography import Reference
from ncpipe.claims.evidence.claim import Claim, ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import Values, log10, recorded

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

Statistic = Callable[[Frames, pd.Index], pd.Series]
"""A quantity of runs, by run id."""


def at_step(quantity: str, step: int) -> Statistic:
    """The quantity at a step; powers of ten are always among the recorded steps of runs that are long enough."""

    def values(frames: Frames, runs: pd.Index) -> pd.Series:
        rows = recorded(frames, runs, quantity)
        return rows[rows["time"] == step].set_index("run_id")["value"]

    return values


def spike(frames: Frames, runs: pd.Index) -> pd.Series:
    """How far the loss on old classes rises in the first steps above that before the switch."""
    rows = recorded(frames, runs, "old_loss")
    highest = rows[rows["time"] <= SPIKE_STEPS].groupby("run_id")["value"].max()
    return (highest - at_step("before_old_loss", 0)(frames, runs)).clip(lower=NO_SPIKE)


def against_random(init: str, statistic: Statistic, compare: Callable[[pd.Series, pd.Series], pd.Series]) -> Values:
    """``compare(started, random)`` of the runs that start by ``init`` with those that start at random on the same
    network, with the same seed and otherwise equal settings; by the id of the former."""

    def values(frames: Frames) -> pd.Series:
        runs = frames["runs"].query("kind == 'continual' and status == 'done'")
        settings = [json.loads(text) for text in runs["settings"]]
        table = pd.DataFrame(
            {
                "init": [setting.pop("init") for setting in settings],
                # the ridge is of least squares alone
                "rest": [json.dumps({**setting, "ridge": None}, sort_keys=True) for setting in settings],
                "network_id": runs["network_id"].to_numpy(),
                "value": statistic(frames, pd.Index(runs["run_id"])).reindex(runs["run_id"]).to_numpy(),
            },
            index=pd.Index(runs["run_id"]),
        )
        baseline = table[table["init"] == "random"].groupby(["network_id", "rest"])["value"].first()
        started = table[table["init"] == init]
        partners = pd.MultiIndex.from_frame(started[["network_id", "rest"]])
        return compare(started["value"], pd.Series(baseline.reindex(partners).to_numpy(), index=started.index))

    return values


def _ratio(started: pd.Series, random: pd.Series) -> pd.Series:
    return log10(started / random)


def _difference(started: pd.Series, random: pd.Series) -> pd.Series:
    return started - random


_harun = ClaimsOf("harun2025", REFERENCE)
WORDS = {"least_squares": "least-squares", "class_mean": "class-mean"}


# Thresholds are the signs of the comparisons: the paper states an order, and sizes depend on data and learning rate.
def _smaller(number: str, init: str, statement: str, statistic: str, values: Statistic) -> Claim:
    return _harun(
        number,
        statement.format(WORDS[init]),
        f"log10 of {statistic}, {WORDS[init]} over random",
        0.0,
        against_random(init, values, _ratio),
    )


def _higher(number: str, init: str, steps: int) -> Claim:
    return _harun(
        number,
        f"With {WORDS[init]} rows accuracy after {steps} step{'s' * (steps > 1)} is higher than with random ones.",
        f"test_accuracy at step {steps}, {WORDS[init]} minus random",
        0.0,
        against_random(init, at_step("test_accuracy", steps), _difference),
        "above",
    )


_SPIKE = "New {} rows raise the loss on old classes less than random ones."
_RISE = "largest old_loss up to step 100 minus before_old_loss"
_START = "New {} rows start from a lower training loss than random ones."
_AT_START = "train_loss at step 0"

CLAIMS = (
    _smaller("1a", "least_squares", _SPIKE, _RISE, spike),
    _smaller("1b", "class_mean", _SPIKE, _RISE, spike),
    _smaller("2a", "least_squares", _START, _AT_START, at_step("train_loss", 0)),
    _smaller("2b", "class_mean", _START, _AT_START, at_step("train_loss", 0)),
    _higher("3a", "least_squares", 1),
    _higher("3b", "least_squares", 10),
    _higher("3c", "least_squares", 100),
    _higher("4a", "class_mean", 1),
    _higher("4b", "class_mean", 10),
    _higher("4c", "class_mean", 100),
)
"""Pairs of runs are compared that share network, buffer and batches."""
