"""What would decide an undecided claim: more seeds, by the width of Student's interval, or what seeds cannot tell."""

from __future__ import annotations

import numpy as np

from ncpipe.claims.evidence.claim import ALL_FITS, AT_THRESHOLD, MEDIANS, ONE_SEED, OVER_SEEDS, half_width
from ncpipe.claims.evidence.wording import Row, number

MOST_SEEDS = 1000


def would_decide(claim: Row) -> str:
    """What it would take to decide an undecided claim, from its row; its reason, where that does not tell it."""
    if not claim["count"]:
        larger = "" if claim["scale"] in (None, "paper") else f", which scale {claim['scale']} has not; a larger may"
        return f"no run speaks of it: it takes “{claim['statistic']}”{larger}"
    what, _, where = claim["reason"].partition(": ")
    furthest = claim["high"] if claim["direction"] == "below" else claim["low"]
    off = claim["count"] - claim["holds"]
    others = f"{off} of {claim['count']} on the other side, the furthest at {number(furthest)}"
    told = {
        ALL_FITS: f"every fit counts, {others}: longer fits may tell it, more seeds cannot",
        ONE_SEED: f"runs of one seed, {others}: two seeds or more give an interval",
        MEDIANS: f"a seed without a finite median, runs {others}: all medians have to lie on one side",
        OVER_SEEDS: _more_seeds(claim),
    }
    if where == AT_THRESHOLD:
        return "its values equal the threshold but for rounding, which no further run changes"
    return told.get(what) or claim["reason"]


def seeds_needed(claim: Row) -> int | None:
    """The fewest seeds n over which the interval would leave out the threshold, effect and spread being as now.

    The smallest n with t(n - 1) s / sqrt(n) < |effect - threshold|, where s = resolution sqrt(m) / t(m - 1) is the
    standard deviation of the m seeds there are and t the quantile of Student's 95 % interval. None where there is no
    interval, or where ``MOST_SEEDS`` do not suffice.
    """
    given = [claim["resolution"], claim["effect"], claim["threshold"]]
    if claim["seeds"] < 2 or not np.isfinite(np.array(given, dtype=float)).all():
        return None
    resolution, effect, threshold = given
    seeds = np.arange(2, MOST_SEEDS + 1)
    deviation = resolution / half_width(claim["seeds"])
    enough = seeds[half_width(seeds) * deviation < abs(effect - threshold)]
    return int(enough[0]) if len(enough) else None


def _more_seeds(claim: Row) -> str:
    seeds = seeds_needed(claim)
    words = f"about {seeds}" if seeds else f"more than {MOST_SEEDS:,}"
    return (
        f"the interval over {claim['seeds']} seeds is ±{number(claim['resolution'])} about {number(claim['effect'])}:"
        f" {words} seeds of this spread would tell it from {number(claim['threshold'])}"
    )
