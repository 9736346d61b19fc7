"""What would decide a claim: seeds against the interval itself, and words for every reason."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from synthetic_tables import CLAIM

from ncpipe.claims.evidence.claim import Claim, interval
from ncpipe.claims.evidence.deciding import MOST_SEEDS, seeds_needed, would_decide
from ncpipe.claims.evidence.wording import by_subject, finding, verdict

SPREAD = {"effect": -0.02, "threshold": 0.0, "resolution": 0.04, "seeds": 3}


def of_spread(seeds: int, mean: float, deviation: float) -> pd.Series:
    """Values with this mean and standard deviation."""
    values = np.arange(seeds, dtype=float)
    return pd.Series(mean + deviation * (values - values.mean()) / values.std(ddof=1))


@pytest.mark.parametrize(("effect", "threshold"), [(-0.02, 0.0), (0.3, 0.31), (2.0, 1.0)])
def test_seeds_are_the_fewest_whose_interval_leaves_out_the_threshold(effect, threshold):
    low, high = interval(of_spread(3, effect, 0.05))
    needed = seeds_needed({"effect": effect, "threshold": threshold, "resolution": (high - low) / 2, "seeds": 3})

    def left_out(seeds):
        low, high = interval(of_spread(seeds, effect, 0.05))
        return not low <= threshold <= high

    assert left_out(needed)
    assert needed == 2 or not left_out(needed - 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"effect": 0.0},
        {"effect": 1e-9},
        {"resolution": None},
        {"resolution": math.nan},
        {"effect": math.inf},
        {"seeds": 1},
        {"threshold": None},
    ],
)
def test_no_number_of_seeds_where_there_is_none(changes):
    assert seeds_needed(SPREAD | changes) is None


def test_reasons_of_claims_lead_to_what_would_decide_them():
    nothing = pd.Series(dtype=float)
    both, equal = pd.Series([-1.0, 2.0]), pd.Series([0.0, 0.0])
    cases = {
        "about 72 seeds of this spread would tell it from 0": (both, both, False),
        "every fit counts, 1 of 2 on the other side, the furthest at 2": (both, both, True),
        "runs of one seed, 1 of 2 on the other side": (both, both[:1], False),
        "a seed without a finite median": (both, pd.Series([-math.inf, 2.0]), False),
        "equal the threshold but for rounding": (equal, equal, False),
        "no run speaks of it: it takes “the statistic”": (nothing, nothing, False),
    }
    claim = Claim("x-1", "X", "It falls.", "the statistic", "below", 0.0, lambda frames: nothing)
    for words, (values, by_seed, of_fits) in cases.items():
        given, reason = claim.decide(values, by_seed, of_fits)
        low, high = interval(by_seed)
        row = CLAIM | {"statistic": "the statistic", "threshold": 0.0, "effect": 0.5, "reason": reason, "scale": None}
        row |= {"resolution": None if low is None else (high - low) / 2, "seeds": len(by_seed)}
        row |= {"count": len(values), "holds": int((values < 0).sum()), "low": -1.0, "high": 2.0}
        assert given == "undecided"
        assert words in would_decide(row)


def test_other_scales_are_pointed_at_where_there_are_larger_ones():
    silent = CLAIM | {"count": 0}
    told = {scale: would_decide(silent | {"scale": scale}) for scale in ("test", "paper", None)}
    assert told["test"].endswith(", which scale test has not; a larger may")
    assert told["paper"] == told[None] == f"no run speaks of it: it takes “{CLAIM['statistic']}”"


def test_a_reason_of_another_version_stands_for_itself():
    assert would_decide(CLAIM | {"reason": "the moon", "scale": None}) == "the moon"
    without = would_decide(CLAIM | {"reason": "the interval over seeds: on both sides", "resolution": None})
    assert f"more than {MOST_SEEDS:,} seeds" in without


def test_findings_name_the_first_claim_of_each_verdict():
    given = [("supported", 3), ("undecided", 0), ("supported", 3), ("contradicted", 3), ("supported", 1)]
    claims = [
        CLAIM | {"paper": "x", "claim_id": f"x-{i}", "statement": f"Number {i}.", "verdict": each, "count": runs}
        for i, (each, runs) in enumerate(given)
    ]
    assert finding(claims) == (
        "5 claims: 3 supported, “Number 0” (0) and 2 more; 1 contradicted, “Number 3” (3); no run speaks of 1."
    )
    assert finding(claims[1:2]) == "1 claim: no run speaks of 1."
    assert [verdict(claim) for claim in claims[:2]] == ["supported", "no run"]


def test_claims_are_on_models_where_all_their_data_are():
    ufm, digits = "UFM (K = 4, N = 200)", "digits (K = 10, N = 1350)"
    rows = [CLAIM | {"data": data} for data in (ufm, digits, f"{ufm}, {ufm}", f"{ufm}, {digits}", "", None)]
    found = by_subject([*rows, CLAIM | {"count": 0}])
    assert list(found) == ["networks", "models"]
    assert [claim["data"] for claim in found["networks"]] == [digits, f"{ufm}, {digits}", "", None]
    assert by_subject([]) == {}
