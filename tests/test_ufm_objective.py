"""The objective against its formula, its gradient against autograd, tied features against one per sample."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ncpipe.ufm import Minimiser, Problem
from ncpipe.ufm.objective import Layout, Objective, balancing_scales

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.3},
    "free bias": {"weight_decay": 0.3, "bias": "free"},
    "penalised bias": {"weight_decay": 0.3, "bias": 0.2},
    "linear": {"weight_decay": (0.3, 0.4)},
    "relu": {"weight_decay": (0.3, 0.4), "activation": "relu"},
    "deep linear": {"weight_decay": (0.3, 0.4, 0.2)},
    "deep relu": {"weight_decay": (0.3, 0.4, 0.2, 0.5), "activation": "relu", "bias": "free"},
    "relu with bias": {"weight_decay": (0.3, 0.4), "activation": "relu", "bias": 0.2},
}


LOSSES: dict[str, dict[str, Any]] = {
    "mse": {},
    "rescaled": {"loss": "mse", "rescale": (2.5, 3)},
    "ce": {"loss": "ce"},
    "label_smoothing": {"loss": "label_smoothing", "smoothing": 0.3},
    "focal": {"loss": "focal", "gamma": 1.7},
}


def problem_of(shape: str, loss: str, samples: Any = (2, 3, 5)) -> Problem:
    fields = {"classes": 3, "samples": samples, "dim": 4, "feature_decay": 0.1}
    return Problem(**{**fields, **LOSSES[loss], **SHAPES[shape]})


def by_formula(problem: Problem, features: Tensor, weights: list[Tensor], bias: Tensor | None) -> Tensor:
    """The objective as docs/ufm.md writes it, samples in rows."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(problem.counts)])
    hidden = features
    for weight in weights[:-1]:
        hidden = hidden @ weight.T
        hidden = torch.relu(hidden) if problem.activation == "relu" else hidden
    logits = torch.nn.functional.linear(hidden, weights[-1], bias)
    if problem.loss == "mse":
        (k, target), one_hot = problem.rescale, torch.nn.functional.one_hot(labels).double()
        weights_of = 1 + (k - 1) * one_hot
        value = (weights_of * (logits - target * one_hot).square()).sum() / (2 * problem.num_samples)
    elif problem.loss == "focal":
        p = torch.softmax(logits, dim=1)[torch.arange(len(labels)), labels]
        value = -((1 - p) ** problem.gamma * p.log()).mean()
    else:
        value = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=problem.smoothing)
    value = value + problem.feature_decay / 2 * features.square().sum()
    for decay, weight in zip(problem.weight_decays, weights):
        value = value + decay / 2 * weight.square().sum()
    if bias is not None:
        value = value + problem.bias_decay / 2 * bias.square().sum()
    return value


def random_vectors(problem: Problem, tied: bool, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    size = sum(Layout.of(problem, tied).sizes)
    return torch.randn(batch, size, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_value_and_gradient_against_autograd(shape: str, loss: str, tied: bool) -> None:
    problem = problem_of(shape, loss)
    vectors = random_vectors(problem, tied)
    values, gradients = Objective.of([problem] * 2, tied).evaluate(vectors)
    layout = Layout.of(problem, tied)
    for vector, value, gradient in zip(vectors, values, gradients):
        leaf = vector.clone().requires_grad_()
        features, weights, bias = layout.views(leaf[None])
        rows = (features[0] / layout.multiplicities.double().sqrt()).T
        rows = rows.repeat_interleave(torch.tensor(problem.counts), dim=0) if tied else rows
        expected = by_formula(problem, rows, [w[0] for w in weights], None if bias is None else bias[0, :, 0])
        expected.backward()
        torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("tied", [False, True])
def test_packing_round_trip_and_value_of_a_point(shape: str, tied: bool) -> None:
    problem = problem_of(shape, "mse")
    vector = random_vectors(problem, tied)[0]
    point = Minimiser.unpack(problem, vector, tied)
    torch.testing.assert_close(point.pack(), vector, rtol=1e-15, atol=1e-15)
    expected = by_formula(problem, point.features, point.weights, point.bias)
    assert point.value() == pytest.approx(float(expected), rel=1e-13)


def test_tied_statistics_are_those_of_repeated_samples() -> None:
    problem = problem_of("relu with bias", "ce")
    tied = Minimiser.unpack(problem, random_vectors(problem, tied=True)[0], tied=True)
    free = Minimiser(problem, tied.features, tied.weights, tied.bias, tied=False)
    assert tied.loss() == pytest.approx(free.loss(), rel=1e-13)
    for layer, expected in free.statistics().items():
        found = tied.statistics()[layer].tensors()
        for name, value in expected.tensors().items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12)


def test_small_cross_entropy_keeps_its_digits() -> None:
    problem = Problem(2, 1, 1, loss="ce", weight_decay=1e-9, feature_decay=1e-9)
    point = Minimiser(
        problem,
        torch.tensor([[10.0], [-10.0]]).double(),
        [torch.tensor([[2.0], [-2.0]]).double()],
        None,
        tied=False,
    )
    assert point.loss() == pytest.approx(4.248354255291589e-18, rel=1e-12)  # log(1 + e^-40)


def test_balancing_leaves_the_logits_and_equals_the_penalties() -> None:
    problem = problem_of("relu with bias", "ce")
    objective, vectors = Objective.of([problem] * 2), random_vectors(problem, tied=False)
    scales, balanced = balancing_scales(objective.layout, objective.decays)
    assert torch.unique(balanced[:, :3]).numel() == 1
    assert (balanced[:, 3] == 0.2).all()
    value = objective.evaluate(vectors)[0]
    other = Objective(objective.layout, balanced).evaluate(vectors * scales)[0]
    torch.testing.assert_close(other, value, rtol=1e-13, atol=0)
