"""Claims of Súkeník et al. 2025: slopes over the depth of networks that differ in it alone."""

from __future__ import annotations

import json

import pytest
from test_claims_papers import curve, decide, frames, network


def deep(depth: int, seed: int = 0, **columns: object) -> dict:
    run = network(f"d{depth}s{seed}", seed, **columns)
    settings = json.loads(run["settings"]) | {"model": {"name": "residual_mlp", "depth": depth}}
    return run | {"settings": json.dumps(settings)}


def test_a_slope_is_in_decades_per_doubling_of_the_depth_and_of_the_last_time():
    runs = [deep(depth, seed) for depth in (8, 1, 4) for seed in (0, 1)]
    ends = {"d1s0": 1.0, "d4s0": 0.01, "d8s0": 0.001, "d1s1": 1.0, "d4s1": 0.0001, "d8s1": 0.000001}
    rows = [row for run, end in ends.items() for row in curve(run, "nc1_pinv", {10: 5.0, 30: end})]
    found = decide("sukenik2025-1a", frames(runs, *rows))
    assert (found["verdict"], found["count"], found["seeds"]) == ("undecided", 2, 2)
    assert (found["low"], found["high"], found["effect"]) == pytest.approx((-2, -1, -1.5))
    rising = frames([deep(1), deep(2)], *curve("d1s0", "nc1_pinv", {30: 0.1}), *curve("d2s0", "nc1_pinv", {30: 0.2}))
    assert decide("sukenik2025-1a", rising)["verdict"] == "contradicted"


def test_networks_of_one_depth_or_with_other_settings_or_training_error_have_no_slope():
    rows = [*curve("d1s0", "nc1_pinv", {30: 0.1}), *curve("d2s0", "nc1_pinv", {30: 0.01})]
    for other in ({"epochs": 40}, {"zero_error_epoch": None}, {"loss": "mse"}, {"fixed_etf": True}):
        assert decide("sukenik2025-1a", frames([deep(1), deep(2, **other)], *rows))["count"] == 0
    assert decide("sukenik2025-1a", frames([deep(1), deep(2)], *rows))["count"] == 1
