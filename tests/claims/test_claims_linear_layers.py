"""Networks that end in linear layers: the setting, their balance in the tables, and the claims on them."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pytest
import torch
from test_claims_deep import NET, frames, measured, row

from ncpipe.claims.jacot2025 import CLAIMS
from ncpipe.collapse import Moment, Trace, balancedness, layer_statistics
from ncpipe.networks.head import hidden_layers
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.stages.collapse import collapse_rows


def test_a_linear_head_is_one_matrix():
    layers = torch.nn.Sequential(*hidden_layers(HeadSpec(hidden=3, linear=True, hidden_width=40), 30).values())
    inputs = torch.randn(5, 30)
    weights = [parameter.detach() for parameter in layers.parameters()]
    torch.testing.assert_close(layers(inputs).detach(), inputs @ (weights[2] @ weights[1] @ weights[0]).T)
    assert float(weights[2].std()) == pytest.approx(40**-0.5, rel=0.1)  # not He's: no ReLU halves the variance


def test_linear_goes_with_hidden():
    with pytest.raises(ValueError, match="'linear' goes with 'hidden'"):
        HeadSpec(linear=True)


def traced(relu: bool) -> tuple[Trace, list[torch.Tensor]]:
    """Three layers in a row, each the next one's input."""
    generator, labels = torch.Generator().manual_seed(0), torch.arange(3).repeat_interleave(4)
    weights = [torch.randn(*shape, generator=generator) for shape in ((6, 5), (6, 6), (3, 6))]
    features, trace = torch.randn(12, 5, generator=generator), Trace(("head_input", "head1", "features"))
    for layer, weight in zip(trace.layers, weights, strict=True):
        trace.statistics[Moment(0, layer)] = layer_statistics(features, labels, 3)
        if layer != "features":
            trace.weights[0, layer] = weight
        features = (features @ weight.T).relu() if relu else features @ weight.T
    trace.heads[0], trace.scalars[0, "train"] = (weights[2], None), {}
    return trace, weights


def test_balance_is_that_of_linear_maps_that_follow_each_other():
    trace, weights = traced(relu=False)
    rows = [found for found in collapse_rows("net", "run", trace) if found["metric"] == "balancedness"]
    expected = {"head1": balancedness(weights[1], weights[0]), "features": balancedness(weights[2], weights[1])}
    assert {found["layer"]: found["value"] for found in rows} == pytest.approx(expected)


def test_a_relu_between_them_has_none():
    trace, _ = traced(relu=True)
    assert "balancedness" not in {found["metric"] for found in collapse_rows("net", "run", trace)}


def network(run: str, seed: int, hidden: int) -> dict[str, Any]:
    settings = {"head": {"hidden": hidden, "linear": hidden > 0}}
    return NET | {"run_id": run, "seed": seed, "dataset": "digits", "settings": json.dumps(settings)}


def tables(*gains: float) -> dict[str, pd.DataFrame]:
    """Condition 0.5 with the classifier alone, of two linear layers more by so much."""
    runs = [network(f"{seed}-{hidden}", seed, hidden) for seed in range(len(gains)) for hidden in (0, 1, 3)]
    values = {f"{seed}-{hidden}": 0.5 + gain * hidden / 3 for seed, gain in enumerate(gains) for hidden in (0, 1, 3)}
    metrics = [("means_uncentred_condition", 1.0), ("balancedness", 0.01)]
    rows = [entry for run in values for name, x in metrics for entry in measured(run, name, x * values[run])]
    made = frames(runs, rows)
    return made | {"runs": pd.DataFrame(runs).assign(train_samples=30)}


def test_the_gain_is_that_of_one_seed():
    found = row(CLAIMS, "3", tables(0.2, 0.3))
    assert (found["count"], found["low"], found["high"]) == (2, pytest.approx(0.2), pytest.approx(0.3))
    assert row(CLAIMS, "3", tables(-0.2, -0.21))["verdict"] == "contradicted"


def test_hidden_layers_with_relu_are_not_linear_ones():
    made = tables(0.2)
    relu = json.dumps({"head": {"hidden": 3, "linear": False}})
    made["runs"].loc[made["runs"]["run_id"] == "0-3", "settings"] = relu
    assert row(CLAIMS, "3", made)["effect"] == pytest.approx(0.2 / 3)
    assert row(CLAIMS, "1", made)["count"] == 2
