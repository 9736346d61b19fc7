"""Claims of Yaras et al. 2022: cross-entropy with features and weights on spheres."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.bibliography import NEURIPS, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.landscape import TRAPS, traps
from ncpipe.claims.evidence.selectors import (
    TRAINED,
    alike,
    at_last_time,
    by_run,
    class_counts,
    final,
    log10,
    measured,
    of_partners,
    optimality,
    run_ids,
    setting,
    solved_end,
    statistic,
)

REFERENCE = Reference(
    "Yaras et al. 2022",
    ("Yaras, Can", "Wang, Peng", "Zhu, Zhihui", "Balzano, Laura", "Qu, Qing"),
    "Neural Collapse with Normalized Features: A Geometric Analysis over the Riemannian Manifold",
    NEURIPS,
    2022,
)

CE = f"{TRAINED} and loss == 'ce'"
UNNORMALISED = f"{CE} and fixed_etf == False and head == 'linear'"
UFM = "temperature == temperature"  # not null

RESOLUTION = 1e-12
"""A loss below is lost in the rounding of a log-softmax in float64, about 1e-16, or not much above."""


def temperatures(frames: Frames) -> pd.DataFrame:
    """Normalised networks by run: ``temperature``; ``pair``, equal for one data set, model and seed; ``place`` among
    the temperatures of the pair: 'smallest', 'largest' or 'middle', as all are where there are fewer than three."""
    runs = run_ids(frames, CE)
    values = pd.to_numeric(setting(frames, "head.temperature").reindex(runs))
    table = pd.DataFrame({"temperature": values, "pair": _pairs(frames).reindex(runs)}).dropna()
    by_pair = table.groupby("pair")["temperature"]
    several = by_pair.transform("nunique") >= 3
    place = pd.Series("middle", index=table.index)
    place[several & (table["temperature"] == by_pair.transform("min"))] = "smallest"
    place[several & (table["temperature"] == by_pair.transform("max"))] = "largest"
    return table.assign(place=place)


def _pairs(frames: Frames) -> pd.Series:
    return alike(frames, "dataset", "model", "seed")


def _middle(frames: Frames) -> pd.DataFrame:
    return temperatures(frames).query("place == 'middle'")


def _unnormalised_end(frames: Frames, runs: pd.Index, metric: str) -> pd.Series:
    """Final value of the unnormalised network of the pair, for each of these runs; of several the lowest."""
    values = final(frames, run_ids(frames, UNNORMALISED), metric)
    return of_partners(runs, values, _pairs(frames), "min")


@statistic
def _end_ratio(frames: Frames, metric: str) -> pd.Series:
    runs = _middle(frames).index
    return log10(final(frames, runs, metric) / _unnormalised_end(frames, runs, metric))


def _reached(rows: pd.DataFrame, level: pd.Series) -> pd.Series:
    """First time, at least 1, at which a run's value is at or below its level; its last time where none is."""
    times = rows["time"].clip(lower=1).astype(float)
    there = rows[rows["value"].astype(float) <= rows["run_id"].map(level).astype(float)]
    first = times[there.index].groupby(there["run_id"]).min()
    last = times.groupby(rows["run_id"]).max()
    return first.reindex(last.index).fillna(last).where(level.reindex(last.index).notna())


def _time_ratio(frames: Frames) -> pd.Series:
    """log10 of the epoch at which a network reaches the lowest final NC1 of its unnormalised partner, over the
    partner's."""
    runs, partners = _middle(frames).index, run_ids(frames, UNNORMALISED)
    reached, theirs = (
        _reached(measured(frames, ids, "nc1_pinv"), _unnormalised_end(frames, ids, "nc1_pinv"))
        for ids in (runs, partners)
    )
    return log10(reached / of_partners(runs, theirs, _pairs(frames), "min"))


def floor(classes: pd.Series, temperature: pd.Series) -> pd.Series:
    """f* = log(1 + (K-1) exp(-tau K/(K-1))), the least loss of K balanced classes on spheres; NaN below what is told
    from zero."""
    exponent = temperature * classes / (classes - 1)
    values = np.log1p((classes - 1) * np.exp(-exponent))
    return values.where(values > RESOLUTION)


def _over_floor(frames: Frames, rows: pd.DataFrame) -> pd.Series:
    """loss / f* - 1 of rows of normalised networks."""
    runs = rows["run_id"]
    classes = class_counts(frames, runs).set_axis(rows.index)
    return rows["value"] / floor(classes, runs.map(temperatures(frames)["temperature"]).astype(float)) - 1


def _least_over_floor(frames: Frames) -> pd.Series:
    rows = measured(frames, temperatures(frames).index, "loss")
    return _over_floor(frames, rows).groupby(rows["run_id"]).min()


def _missing_margin(frames: Frames) -> pd.Series:
    """What is missing at the end of the largest margin, tau K/(K-1), as a share of it. The margin is that of logits
    equal but for the class' own with the loss at hand, log(K-1) - log(e^loss - 1): in units of f*, 2e-9 at tau = 20
    and K = 10, any loss would be far off."""
    middle = _middle(frames)
    loss = by_run(at_last_time(measured(frames, middle.index, "loss")))
    classes, temperature = class_counts(frames, loss.index), middle["temperature"].reindex(loss.index).astype(float)
    told = loss.where(floor(classes, temperature).notna())
    return 1 - np.log((classes - 1) / np.expm1(told)) / (temperature * classes / (classes - 1))


@statistic
def _extreme_ratio(frames: Frames, which: Literal["smallest", "largest"]) -> pd.Series:
    """Against the median over the middle temperatures: the best of several would be lower by chance alone."""
    table = temperatures(frames)
    logs = log10(final(frames, table.index, "nc1_pinv"))
    middle = table[table["place"] == "middle"]
    medians = logs.reindex(middle.index).groupby(middle["pair"]).median()
    extreme = table[table["place"] == which]
    return logs.reindex(extreme.index) - extreme["pair"].map(medians)


_yaras = ClaimsOf("yaras2022", REFERENCE)


CLAIMS = (
    _yaras("1a", "Normalised networks reach the NC1 at which unnormalised ones end sooner than these.",
           "log10 of the first epoch at that NC1, normalised over unnormalised, middle tau", 0.0, _time_ratio),
    _yaras("1b", "Normalised networks end at a lower NC1 than unnormalised ones.",
           "log10 of nc1_pinv at the last epoch, normalised over unnormalised, middle tau", 0.0,
           _end_ratio("nc1_pinv")),
    _yaras("1c", "Normalised networks end with class means nearer a simplex ETF than unnormalised ones.",
           "log10 of nc2_means_etf at the last epoch, normalised over unnormalised, middle tau", 0.0,
           _end_ratio("nc2_means_etf")),
    _yaras("1d", "Normalised networks end with classifier and class means nearer each other than unnormalised ones.",
           "log10 of nc3_duality at the last epoch, normalised over unnormalised, middle tau", 0.0,
           _end_ratio("nc3_duality")),
    # A float32 logit of size tau is off by a few 1e-7 tau, and a loss near its floor by as much, relative: below 1e-4
    # at every temperature whose floor float64 tells from zero (tau < 30).
    _yaras("2", "The loss of normalised networks never falls below f* = log(1 + (K-1) exp(-tau K/(K-1))).",
           "least of training loss / f* - 1 over the epochs", -1e-4, _least_over_floor, "above"),
    # The optimum has the largest margin; that networks come within a tenth of it is a bar of ours.
    _yaras("3", "Normalised networks end within a tenth of the largest margin that unit features and rows allow.",
           "1 - (log(K-1) - log(exp(loss) - 1)) / (tau K/(K-1)) at the last epoch, middle tau", 0.1, _missing_margin),
    _yaras("4a", "A very small temperature slows collapse.",
           "log10 of nc1_pinv at the last epoch, smallest tau over the median of the middle ones", 0.0,
           _extreme_ratio("smallest"), "above"),
    _yaras("4b", "A very large temperature slows collapse.",
           "log10 of nc1_pinv at the last epoch, largest tau over the median of the middle ones", 0.0,
           _extreme_ratio("largest"), "above"),
    # A theorem: what L-BFGS in float64 leaves, and the square root of it in the geometry.
    _yaras("5a", "The normalised UFM attains the least loss f* = log(1 + (K-1) exp(-tau K/(K-1))).",
           "| objective / f* - 1 | of UFMs by L-BFGS", 1e-8,
           optimality(UFM)),
    _yaras("5b", "The normalised UFM ends at a simplex ETF.", "nc2_means_etf of UFMs by L-BFGS", 1e-3,
           solved_end(UFM, "nc2_means_etf")),
    _yaras("6", "Every critical point of the normalised UFM above the optimum is a strict saddle.",
           TRAPS, 0.5,
           traps("feature_decay != feature_decay")),
)  # fmt: skip
