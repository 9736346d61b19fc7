"""Losses, right decisions, the penalty of the features, and what weight decay penalises."""

from __future__ import annotations

import math

import pytest
import torch
from logits import K, logits_and_targets
from torch import nn
from torch.nn import functional as F

from ncpipe.networks import build_network
from ncpipe.networks.architectures.mlp import Mlp
from ncpipe.networks.architectures.vit import Vit
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.settings.sweep import laid_over
from ncpipe.training.losses import (
    classifier_decay,
    classifier_stationarity,
    correct,
    feature_penalty,
    mean_loss,
    squared_error_penalties,
)
from ncpipe.training.optimization import build_optimizer
from ncpipe.training.settings import LossSpec, NetworkSpec, OptimizerSpec

NETWORK = {
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "depth": 2, "width": 16},
    "loss": {"name": "mse"},
    "optimizer": {"lr": 0.05, "weight_decay": 1e-2},
    "epochs": 6,
}


def planned(**changes: object) -> NetworkSpec:
    return NetworkSpec.model_validate(laid_over(NETWORK, {k.replace("__", "."): v for k, v in changes.items()}))


def test_losses_follow_their_definitions() -> None:
    logits, labels = logits_and_targets(LossSpec(name="mse"))
    one_hot = torch.eye(K, dtype=torch.float64)[labels]
    half = mean_loss(LossSpec(name="mse"), logits, labels)
    assert float(half) == pytest.approx(float((logits - one_hot).square().sum()) / 24)
    mean = mean_loss(LossSpec(name="mse", scaling="mean"), logits, labels)
    assert float(mean) == pytest.approx(float(nn.MSELoss()(logits, one_hot)))
    assert float(mean) == pytest.approx(2 / K * float(half))  # the factor of the matched penalties
    ce = mean_loss(LossSpec(name="ce"), logits, labels)
    assert float(ce) == pytest.approx(float(F.cross_entropy(logits, labels)))
    smoothed = mean_loss(LossSpec(name="label_smoothing", smoothing=0.3), logits, labels)
    assert float(smoothed) == pytest.approx(float(F.cross_entropy(logits, labels, label_smoothing=0.3)))
    p = logits.softmax(dim=1)[range(12), labels]
    focal = mean_loss(LossSpec(name="focal", gamma=2), logits, labels)
    assert float(focal) == pytest.approx(float(-((1 - p) ** 2 * p.log()).mean()))
    rescaled = LossSpec(name="mse", rescale=(5, 3)).sample_loss.sample_losses(logits, labels)[1]
    z = logits[1].tolist()
    assert float(rescaled) == pytest.approx((5 * (z[1] - 3) ** 2 + z[0] ** 2 + z[2] ** 2 + z[3] ** 2) / 2)


def test_pick_all_labels_sums_over_the_tags() -> None:
    loss = LossSpec(name="pick_all_labels")
    logits, tags = logits_and_targets(loss)
    parts = torch.stack([F.cross_entropy(logits, torch.full((12,), k), reduction="none") for k in range(K)], dim=1)
    expected = (parts * tags).sum(dim=1)
    torch.testing.assert_close(loss.sample_loss.sample_losses(logits, tags), expected)
    normalized = LossSpec(name="pick_all_labels_normalized").sample_loss.sample_losses(logits, tags)
    torch.testing.assert_close(normalized, expected / tags.sum(dim=1).double())


def test_a_label_is_right_where_its_logit_is_largest() -> None:
    logits = torch.tensor([[3.0, 1, 2], [1, 3, 2], [1, 2, 3], [0, 0, 0]])
    assert correct(logits, torch.tensor([0, 0, 2, 0])).tolist() == [True, False, True, True]
    assert correct(logits[None], torch.tensor([[0, 0, 2, 0]])).shape == (1, 4)


def test_tags_are_right_where_their_logits_are_the_largest() -> None:
    logits = torch.tensor([[3.0, 1, 2], [1, 3, 2], [1, 2, 3], [0, 0, 0], [1, 1, 0], [5, 1, 1], [math.nan, 1, 0]])
    tags = torch.tensor([[1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0]])
    expected = [True, False, True, False, True, False, False]
    for kind in (torch.uint8, torch.float32):
        assert correct(logits, tags.to(kind)).tolist() == expected
        assert correct(logits.expand(2, 7, 3), tags.to(kind).expand(2, 7, 3)).tolist() == [expected] * 2


def test_penalty_of_the_features_is_half_the_mean_of_their_squares() -> None:
    features = torch.randn(3, 5, 2)
    expected = 0.4 / 2 * features.square().sum(dim=(1, 2)) / 5
    torch.testing.assert_close(feature_penalty(HeadSpec(feature_decay=0.4), features), expected)
    assert float(feature_penalty(HeadSpec(feature_decay=0.4), features[0])) == pytest.approx(float(expected[0]))
    assert feature_penalty(HeadSpec(), features / 0).tolist() == [0, 0, 0]


# --- what training minimises in the classifier ------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0.01, 0.01)),
        ({"loss__scaling": "mean"}, (0.05, 0.05)),
        ({"optimizer__decay": "weights"}, (0.01, 0.0)),
        ({"optimizer__head_weight_decay": 0.2}, (0.2, 0.2)),
        ({"optimizer__head_weight_decay": 0.2, "optimizer__decay": "weights"}, (0.2, 0.0)),
        ({"loss__name": "ce"}, None),
        ({"loss__rescale": [2, 1]}, None),
        ({"optimizer__name": "adamw"}, None),
        ({"head": {"fixed_etf": True, "bias": False}}, None),
        ({"head": {"temperature": 2.0, "bias": False}}, None),
    ],
)
def test_penalties_of_the_split_follow_the_settings(
    changes: dict[str, object], expected: tuple[float, float] | None
) -> None:
    found = squared_error_penalties(planned(**changes), 10)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 0.01),
        ({"optimizer__decay": "head"}, 0.01),
        ({"optimizer__decay": "weights"}, 0.01),
        ({"optimizer__name": "adam"}, 0.01),
        ({"optimizer__head_weight_decay": 0.2}, 0.2),
        ({"optimizer__head_weight_decay": 0.2, "optimizer__weight_decay": 0.0}, 0.2),
        ({"head": {"hidden": 2}, "loss": {"name": "focal", "gamma": 2.0}}, 0.01),
        ({"optimizer__head_weight_decay": 0.0}, None),
        ({"optimizer__weight_decay": 0.0}, None),
        ({"optimizer__name": "adamw"}, None),
        ({"head": {"fixed_etf": True}}, None),
        ({"head": {"temperature": 2.0, "bias": False}}, None),
    ],
)
def test_decay_of_the_classifier_follows_the_settings(changes: dict[str, object], expected: float | None) -> None:
    assert classifier_decay(planned(**changes)) == expected


def test_stationarity_is_undefined_at_zero_and_where_training_diverged() -> None:
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert classifier_stationarity(-0.1 * ones, ones, 0.1) == 0
    assert classifier_stationarity(ones, 0 * ones, 0.1) is None
    assert classifier_stationarity(ones / 0, ones, 0.1) is None


# --- groups of the optimiser ------------------------------------------------------------------------

HIDDEN = HeadSpec(hidden=2)


def decays(spec: OptimizerSpec, network: nn.Module) -> dict[str, float]:
    """Weight decay of every parameter that is optimised."""
    groups = build_optimizer(spec, network).param_groups
    found = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    return {name: found[id(p)] for name, p in network.named_parameters() if id(p) in found}


@pytest.mark.parametrize("head_decay", [None, 0.0, 0.2])
@pytest.mark.parametrize("group", ["all", "weights", "head"])
def test_weight_decay_reaches_its_group_only(group: str, head_decay: float | None) -> None:
    network = build_network(Mlp(name="mlp", depth=2, width=8), HIDDEN, (1, 8, 8), K, seed=0)
    spec = OptimizerSpec(lr=0.1, weight_decay=0.5, decay=group, head_weight_decay=head_decay)
    head = 0.5 if head_decay is None else head_decay
    for name, decay in decays(spec, network).items():
        if name.split(".")[0] in ("head", "hidden"):
            expected = 0.0 if name == "head.bias" and group == "weights" else head
        else:
            is_norm = ".1." in name.removeprefix("stages.layer1.1")
            expected = 0.0 if group == "head" or (group == "weights" and is_norm) else 0.5
        assert decay == expected, name


def test_tokens_positions_and_norms_are_no_weights() -> None:
    network = build_network(Vit(name="vit_b", width=64, depth_factor=0.1), HeadSpec(), (1, 8, 8), K, seed=0)
    found = decays(OptimizerSpec(lr=0.1, weight_decay=0.5, decay="weights"), network)
    weights = {name for name, decay in found.items() if decay}
    block = "stages.features.0."
    assert weights == {"stages.patches.convolution.weight", "head.weight"} | {
        f"{block}{name}weight" for name in ("self_attention.in_proj_", "self_attention.out_proj.", "mlp.0.", "mlp.3.")
    }


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_stack_of_parameters_is_optimised_as_each_would_be(name: str) -> None:
    head = HeadSpec(hidden=1, fixed_etf=True)
    networks = [build_network(Mlp(name="mlp", depth=1, width=8), head, (1, 2, 2), K, seed) for seed in (0, 1)]
    spec = OptimizerSpec(name=name, lr=0.1, weight_decay=0.5, decay="weights", head_weight_decay=0.2)
    stacked = {
        key: torch.stack([dict(net.named_parameters())[key].detach() for net in networks]).requires_grad_()
        for key, _ in networks[0].named_parameters()
    }
    skeleton = networks[0]
    together = build_optimizer(spec, skeleton, stacked)
    assert sum(len(group["params"]) for group in together.param_groups) == len(stacked) - 1  # the ETF is frozen
    alone = [build_optimizer(spec, network) for network in networks]
    frozen = stacked["head.weight"].detach().clone()
    for step in range(3):
        for key, value in stacked.items():
            value.grad = torch.sin(torch.arange(value.numel()).view_as(value) + step).to(value)
            for member, network in enumerate(networks):
                dict(network.named_parameters())[key].grad = value.grad[member].clone()
        for optimizer in (together, *alone):
            optimizer.step()
    assert torch.equal(stacked["head.weight"], frozen)
    for member, network in enumerate(networks):
        for key, parameter in network.named_parameters():
            torch.testing.assert_close(stacked[key][member], parameter)
