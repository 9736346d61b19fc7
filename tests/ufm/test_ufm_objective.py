"""The objective against its formula, its gradient against autograd, tied features against one per sample."""

from typing import Any

import pytest
import torch
from torch import Tensor

from ncpipe.ufm import Minimiser, Problem
from ncpipe.ufm.layout import Layout, balancing_scales
from ncpipe.ufm.objective import Objective

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.3},
    "free bias": {"weight_decay": 0.3, "bias": "free"},
    "penalised bias": {"weight_decay": 0.3, "bias": 0.2},
    "linear": {"weight_decay": (0.3, 0.4)},
    "relu": {"weight_decay": (0.3, 0.4), "activation": "relu"},
    "deep linear": {"weight_decay": (0.3, 0.4, 0.2)},
    "deep relu": {"weight_decay": (0.3, 0.4, 0.2, 0.5), "activation": "relu", "bias": "free"},
    "relu with bias": {"weight_decay": (0.3, 0.4), "activation": "relu", "bias": 0.2},
    "widths": {"weight_decay": (0.3, 0.4, 0.2), "dim": (5, 2, 3), "activation": "relu"},
    "frozen": {"classifier": "etf", "bias": 0.2},
    "deep frozen": {"classifier": "etf", "weight_decay": (0.3, 0.4), "dim": (2, 5, 4)},
    "non-negative": {"weight_decay": 0.3, "bias": 0.2, "nonnegative": True},
    "deep non-negative": {"weight_decay": (0.3, 0.4), "activation": "relu", "nonnegative": True},
    "frozen non-negative": {"classifier": "etf", "nonnegative": True},
}

LOSSES: dict[str, dict[str, Any]] = {
    "mse": {},
    "rescaled": {"loss": "mse", "rescale": (2.5, 3)},
    "ce": {"loss": "ce"},
    "label_smoothing": {"loss": "label_smoothing", "smoothing": 0.3},
    "focal": {"loss": "focal", "gamma": 1.7},
    "pick_all_labels": {"loss": "pick_all_labels", "samples": {1: 2, 2: 3}},
    "pick_all_labels_normalized": {"loss": "pick_all_labels_normalized", "samples": {1: 2, 2: 3}},
}

SPHERES: dict[str, dict[str, Any]] = {
    "temperature": {"loss": "ce", "temperature": 3.0},
    "frozen temperature": {"loss": "ce", "temperature": 3.0, "classifier": "etf"},
}

CASES = [
    *(
        (f"{shape}, {loss}", SHAPES[shape] | LOSSES[loss] | {"feature_decay": 0.1})
        for shape in SHAPES
        for loss in LOSSES
    ),
    *SPHERES.items(),
]
PROBLEMS = {name: Problem(**{"classes": 3, "samples": (2, 3, 5), "dim": 4} | fields) for name, fields in CASES}
ONE_LOSS = [name for name in PROBLEMS if ", " not in name or name.endswith((", mse", ", pick_all_labels"))]


def by_formula(problem: Problem, features: Tensor, weights: list[Tensor], bias: Tensor | None) -> Tensor:
    """The objective as docs/ufm.md writes it, samples in rows; ``weights`` with a frozen classifier."""
    rows = [tags for tags, count in zip(problem.tag_sets, problem.counts) for _ in range(count)]
    labels = torch.tensor([tags[0] for tags in rows])
    if problem.temperature is not None:
        features = features / features.norm(dim=1, keepdim=True)
        weights = [problem.temperature * weights[0] / weights[0].norm(dim=1, keepdim=True)]
    hidden = features
    for weight in weights[:-1]:
        hidden = hidden @ weight.T
        hidden = torch.relu(hidden) if problem.activation == "relu" else hidden
    logits = torch.nn.functional.linear(hidden, weights[-1], bias)
    if problem.loss == "mse":
        (k, target), one_hot = problem.rescale, torch.nn.functional.one_hot(labels, problem.classes).double()
        weights_of = 1 + (k - 1) * one_hot
        value = (weights_of * (logits - target * one_hot).square()).sum() / (2 * problem.num_samples)
    elif problem.loss == "focal":
        p = torch.softmax(logits, dim=1)[torch.arange(len(labels)), labels]
        value = -((1 - p) ** problem.gamma * p.log()).mean()
    elif problem.multi_label:
        logs = [sum(row[k] for k in tags) for row, tags in zip(torch.log_softmax(logits, dim=1), rows)]
        sizes = [len(tags) if problem.loss == "pick_all_labels_normalized" else 1 for tags in rows]
        value = -sum(log / size for log, size in zip(logs, sizes)) / problem.num_samples
    else:
        value = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=problem.smoothing)
    if problem.temperature is None:
        value = value + problem.feature_decay / 2 * features.square().sum()
    for decay, weight in zip(problem.weight_decays, weights):
        value = value + decay / 2 * weight.square().sum()
    if bias is not None:
        value = value + problem.bias_decay / 2 * bias.square().sum()
    return value


def simplex(classes: int, dim: int) -> Tensor:
    """The frozen classifier, by the Gram-Schmidt process on centred unit vectors."""
    centred = torch.eye(classes, dtype=torch.float64) - 1 / classes
    rows = []
    for vector in torch.eye(classes, dtype=torch.float64)[1:]:
        lower = vector.clone()
        lower[0] = -1
        for other in rows:
            lower = lower - (lower @ other) * other
        rows.append(lower / lower.norm())
    found = torch.zeros(classes, dim, dtype=torch.float64)
    found[:, : classes - 1] = centred @ torch.stack(rows).T
    return found / found.norm(dim=1, keepdim=True)


def formula_at(problem: Problem, vector: Tensor, tied: bool = False, frame: Tensor | None = None) -> Tensor:
    """The objective at a parameter vector, differentiable in it."""
    layout = Layout.of(problem, tied)
    features, weights, bias = layout.views(vector[None])
    rows = (features[0] / layout.multiplicities.double().sqrt()).T
    rows = rows.repeat_interleave(torch.tensor(problem.counts), dim=0) if tied else rows
    matrices = [weight[0] for weight in weights]
    if problem.classifier == "etf":
        matrices.append(Minimiser.unpack(problem, vector.detach(), tied).weights[-1] if frame is None else frame)
    return by_formula(problem, rows, matrices, None if bias is None else bias[0, :, 0])


def random_vectors(problem: Problem, tied: bool, batch: int = 2) -> Tensor:
    """Parameters in the domain, on spheres of any length."""
    generator = torch.Generator().manual_seed(0)
    size = sum(Layout.of(problem, tied).sizes)
    found = torch.randn(batch, size, generator=generator, dtype=torch.float64)
    return Objective.of([problem] * batch, tied).start(found) if problem.nonnegative else found


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_value_and_gradient_against_autograd(name: str, tied: bool) -> None:
    problem = PROBLEMS[name]
    vectors = random_vectors(problem, tied)
    objective = Objective.of([problem] * 2, tied)
    values, gradients = objective.evaluate(vectors)
    for vector, value, gradient in zip(vectors, values, gradients):
        leaf = vector.clone().requires_grad_()
        expected = formula_at(problem, leaf, tied)
        expected.backward()
        torch.testing.assert_close(value, expected.detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient, leaf.grad, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", [name for name in PROBLEMS if "non-negative" in name])
def test_gradient_at_the_bounds_is_the_projected_one(name: str, tied: bool) -> None:
    """At features of zero: downhill of the objective as it is written, among the directions that stay inside."""
    problem = PROBLEMS[name]
    objective = Objective.of([problem] * 2, tied)
    draws = random_vectors(problem, tied) - 0.7  # some features below zero
    vectors = objective.inside(draws.clone())
    before, features = objective.layout.views(draws).features, objective.layout.views(vectors).features
    assert torch.equal(features, before.relu())
    assert torch.equal(vectors[:, features[0].numel() :], draws[:, features[0].numel() :])
    values, gradients = objective.evaluate(vectors)
    for number, vector in enumerate(vectors):
        leaf = vector.clone().requires_grad_()
        expected = formula_at(problem, leaf, tied)
        expected.backward()
        at_bound = (vector == 0) & (torch.arange(len(vector)) < features[0].numel())
        assert 0 < at_bound.sum() < features[0].numel()
        downhill = torch.where(at_bound, leaf.grad.clamp_max(0), leaf.grad)
        torch.testing.assert_close(values[number], expected.detach(), rtol=1e-13, atol=0)
        torch.testing.assert_close(gradients[number], downhill, rtol=1e-11, atol=1e-13)
        held, clear = at_bound & (leaf.grad > 0), leaf.grad.abs() > 1e-12
        moved = objective.along_bounds(vectors, gradients, torch.ones_like(vectors))[number]
        assert torch.equal(moved[clear], (~held)[clear].double())


def test_frozen_classifier_is_a_simplex_of_unit_rows() -> None:
    for classes, dim in [(2, 1), (3, 2), (5, 9)]:
        problem = Problem(classes, 2, dim, classifier="etf")
        frozen = Minimiser.unpack(problem, random_vectors(problem, tied=False)[0]).weights[-1]
        gram = torch.full((classes, classes), -1 / (classes - 1), dtype=torch.float64).fill_diagonal_(1)
        torch.testing.assert_close(frozen @ frozen.T, gram)
        reference = simplex(classes, dim)
        torch.testing.assert_close(reference @ reference.T, gram)


@pytest.mark.parametrize("name", ONE_LOSS)
@pytest.mark.parametrize("tied", [False, True])
def test_packing_round_trip_and_value_of_a_point(name: str, tied: bool) -> None:
    problem = PROBLEMS[name]
    vector = random_vectors(problem, tied)[0]
    point = Minimiser.unpack(problem, vector, tied)
    torch.testing.assert_close(point.pack(), vector, rtol=1e-15, atol=1e-15)
    assert [tuple(weight.shape) for weight in point.weights] == [
        *zip(problem.widths[1:], problem.widths[:-1]), (problem.classes, problem.widths[-1])
    ]  # fmt: skip
    expected = by_formula(problem, point.features, point.weights, point.bias)
    assert point.value() == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize("name", ["relu with bias, ce", "relu, pick_all_labels", "temperature"])
def test_tied_statistics_are_those_of_repeated_samples(name: str) -> None:
    problem = PROBLEMS[name]
    tied = Minimiser.unpack(problem, random_vectors(problem, tied=True)[0], tied=True)
    free = Minimiser(problem, tied.features, tied.weights, tied.bias, tied=False)
    assert tied.loss() == pytest.approx(free.loss(), rel=1e-13)
    for layer, expected in free.statistics().items():
        found = tied.statistics()[layer].tensors()
        for field, value in expected.tensors().items():
            torch.testing.assert_close(found[field], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "fields", [{"loss": "ce", "samples": 1}, {"loss": "pick_all_labels", "samples": {1: 1}}], ids=["ce", "pick-all"]
)
def test_small_cross_entropy_keeps_its_digits_and_those_of_its_gradient(fields: dict[str, Any]) -> None:
    problem = Problem(2, dim=1, weight_decay=1e-99, feature_decay=1e-99, **fields)
    columns, weights = torch.tensor([[10.0], [-10.0]]).double(), [torch.tensor([[2.0], [-2.0]]).double()]
    point = Minimiser(problem, columns, weights, None, tied=False)
    small = 4.248354255291589e-18  # log(1 + e^-40); the logits are 20 and -20
    assert point.loss() == pytest.approx(small, rel=1e-12)
    _, gradient = Objective.of([problem]).evaluate(point.pack()[None])
    # both logits of a sample pull alike: d/dh = -(2 + 2) p / 2, d/dw_k = -(10 + 10) p / 2 over both samples
    expected = small * torch.tensor([[-2.0, 2.0, -10.0, 10.0]], dtype=torch.float64)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "name",
    ["relu with bias, ce", "widths, mse", "deep frozen, mse", "frozen, ce", "non-negative, focal", "temperature"],
)
@pytest.mark.parametrize("tied", [False, True])
def test_balancing_leaves_the_objective_and_equals_the_penalties(name: str, tied: bool) -> None:
    problem = PROBLEMS[name]
    objective, vectors = Objective.of([problem] * 2, tied), random_vectors(problem, tied)
    scales, balanced = balancing_scales(objective.layout, objective.decays)
    factors = max(len(problem.decays), 1)
    assert torch.unique(balanced[:, :factors]).numel() == 1
    if problem.decays:
        mean = torch.tensor(problem.decays, dtype=torch.float64).log().mean().exp()
        torch.testing.assert_close(balanced[0, 0], mean)
    if problem.bias_decay:
        assert (balanced[:, factors] == problem.bias_decay).all()
    value = objective.evaluate(vectors)[0].clone()
    other = type(objective)(objective.layout, balanced).evaluate(vectors * scales)[0]
    torch.testing.assert_close(other, value, rtol=1e-13, atol=0)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", SPHERES)
def test_points_on_spheres_have_unit_norms_and_no_radial_gradient(name: str, tied: bool) -> None:
    problem = PROBLEMS[name]
    objective, vectors = Objective.of([problem] * 2, tied), random_vectors(problem, tied)
    value, gradient = (part.clone() for part in objective.evaluate(vectors))
    points = objective.points(vectors)
    features, weights, _ = objective.layout.views(points)
    torch.testing.assert_close(features.norm(dim=1)[0], objective.layout.multiplicities.double().sqrt())
    for weight in weights:
        torch.testing.assert_close(weight.norm(dim=2), torch.ones_like(weight[:, :, 0]))
    at = objective.layout.views(vectors)
    slope = objective.layout.views(gradient)
    assert float((at.features * slope.features).sum(dim=1).abs().max()) < 1e-15
    torch.testing.assert_close(objective.evaluate(points)[0], value, rtol=1e-14, atol=0)
    start = objective.start(vectors)
    torch.testing.assert_close(objective.points(start), points)
    # the squared norms of the features, N samples in all, add up to K, those of the classifier's rows
    assert float(objective.layout.views(start).features.square().sum()) == pytest.approx(2 * problem.classes)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", PROBLEMS)
def test_nothing_is_left_on_the_cpu_when_the_penalties_are_elsewhere(
    name: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device "meta", which holds no numbers and refuses to meet tensors that do."""
    problem = PROBLEMS[name]
    layout = Layout.of(problem, tied)
    real = torch.Tensor.repeat_interleave

    def repeated(self: Tensor, repeats: Tensor, dim: int | None = None) -> Tensor:
        """The numbers of repetitions would be needed: those of the layout."""
        return self.new_empty(len(self), sum(layout.sizes)) if self.is_meta else real(self, repeats, dim=dim)

    objective = Objective.of([problem], tied)
    monkeypatch.setattr(torch.Tensor, "repeat_interleave", repeated)
    elsewhere = type(objective)(layout, objective.decays.to("meta"))
    vectors = elsewhere.start(torch.empty(1, sum(layout.sizes), dtype=torch.float64, device="meta"))
    value, gradient = elsewhere.evaluate(vectors)
    elsewhere.retract()
    scales, balanced = balancing_scales(layout, elsewhere.decays)
    inside = elsewhere.along_bounds(elsewhere.inside(vectors), gradient, vectors)
    for tensor in (value, gradient, elsewhere.points(vectors), elsewhere.tolerance(value), scales, balanced, inside):
        assert tensor.is_meta
        assert tensor.dtype == torch.float64
