"""The perturbation model: stationary in both blocks, the minimum of brute force, and its two limits."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

import ncpipe
from ncpipe.ufm import Problem
from ncpipe.ufm.perturbation import Perturbation, perturb


def clusters(counts: list[int], dim: int, *, seed: int = 0, spread: float = 0.5, scale: float = 1.0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means, noise = (torch.randn(n, dim, generator=generator, dtype=torch.float64) for n in (len(counts), len(labels)))
    return scale * (means[labels] + spread * noise), labels


def objective(weight: Tensor, features: Tensor, start: Tensor, targets: Tensor, penalties) -> Tensor:
    """The model as it is written, samples as rows."""
    weight_decay, feature_decay, proximity = penalties
    return (
        (features @ weight.T - targets).square().sum() / (2 * len(features))
        + weight_decay / 2 * weight.square().sum()
        + feature_decay / 2 * features.square().sum()
        + proximity / 2 * (features - start).square().sum()
    )


CASES = [
    ([5, 5, 5], 4, 1e-2, 5e-3, 1e-3),
    ([5, 5, 5], 4, 1e-2, 1e-3, 10.0),
    ([9, 3, 2, 6], 6, 1e-2, 5e-3, 1e-2),
    ([4, 4], 30, 1e-3, 1e-3, 1e-4),
    ([40, 30, 50], 2, 1e-3, 1e-3, 1e-3),
    ([10] * 10, 64, 5e-4, 1e-6, 1e-5),
    ([3, 3], 1, 1e-2, 1e-2, 1.0),
]


@pytest.mark.parametrize(("counts", "dim", "weight_decay", "feature_decay", "proximity"), CASES)
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_both_gradients_vanish(counts, dim, weight_decay, feature_decay, proximity, scale):
    start, labels = clusters(counts, dim, scale=scale)
    penalties = weight_decay, feature_decay, proximity
    found = perturb(start, labels, proximity=proximity, weight_decay=weight_decay, feature_decay=feature_decay)
    weight, features = found.weight.clone().requires_grad_(), found.features.clone().requires_grad_()
    targets = torch.eye(len(counts), dtype=torch.float64)[labels]
    value = objective(weight, features, start, targets, penalties)
    in_weight, in_features = torch.autograd.grad(value, [weight, features])
    weight, features = weight.detach(), features.detach()
    assert found.converged
    assert float(in_weight.norm()) < 1e-8 * weight_decay * float(weight.norm()) + 1e-13 * float(start.norm())
    assert float(in_features.norm()) < 1e-11 * (proximity + feature_decay) * float(start.norm())
    assert found.value == pytest.approx(value.item(), rel=1e-12)
    assert found.loss == pytest.approx(
        float((features @ weight.T - targets).square().sum()) / (2 * len(start)), rel=1e-9
    )
    assert found.movement == pytest.approx(float((features - start).norm() / start.norm()), rel=1e-8)
    assert found.gradient_norm == pytest.approx(float(in_weight.norm()), abs=1e-12 * float(start.norm()))


@pytest.mark.parametrize("seed", range(5))
def test_minimum_is_that_of_a_joint_minimisation(seed):
    rng = np.random.default_rng(seed)
    counts, dim = rng.integers(2, 7, size=3).tolist(), int(rng.integers(2, 6))
    start, labels = clusters(counts, dim, seed=seed)
    penalties = [float(value) for value in 10 ** rng.uniform([-3, -3, -3], [-1, -2, 0])]
    targets = torch.eye(3, dtype=torch.float64)[labels]

    def joint(flat):
        point = torch.from_numpy(flat).requires_grad_()
        weight, features = point[: 3 * dim].view(3, dim), point[3 * dim :].view(-1, dim)
        value = objective(weight, features, start, targets, penalties)
        value.backward()
        return value.item(), point.grad.numpy()

    values = [
        minimize(
            joint,
            np.concatenate([scale * rng.standard_normal(3 * dim), start.flatten().numpy()]),
            jac=True, method="L-BFGS-B", options={"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-15, "gtol": 1e-10},
        ).fun
        for scale in (0.1, 1.0, 1.0, 1.0)
    ]  # fmt: skip
    weight_decay, feature_decay, proximity = penalties
    found = perturb(start, labels, proximity=proximity, weight_decay=weight_decay, feature_decay=feature_decay)
    assert found.value == pytest.approx(min(values), rel=1e-8)


@pytest.mark.parametrize("counts", [[6, 6, 6, 6], [12, 6, 4, 3]])
def test_limits_are_the_given_features_and_the_unconstrained_model(counts):
    start, labels = clusters(counts, 8)
    decays = {"weight_decay": 5e-3, "feature_decay": 1e-3}
    optimum = Problem(len(counts), counts, 8, **decays).optimum().value
    free, near = perturb(start, labels, proximity=[1e-9, 1e9], **decays)
    assert optimum < free.value < optimum + 1e-9 * float(start.square().sum())
    assert near.movement < 1e-9
    torch.testing.assert_close(near.features, start, rtol=0, atol=1e-8)
    identity = torch.eye(8, dtype=torch.float64)
    targets = torch.eye(len(counts), dtype=torch.float64)[labels]
    ridge = torch.linalg.solve(start.T @ start / len(start) + 5e-3 * identity, start.T @ targets / len(start)).T
    torch.testing.assert_close(near.weight, ridge, rtol=1e-6, atol=1e-8)


def test_value_rises_and_movement_falls_with_proximity_in_the_given_order():
    start, labels = clusters([20] * 4, 10)
    betas = [1.0, 1e-4, 1e-2, 1e-3]
    found = perturb(start, labels, proximity=betas, weight_decay=1e-3, feature_decay=1e-4)
    assert [result.proximity for result in found] == betas
    by_beta = sorted(found, key=lambda result: result.proximity)
    assert all(a.value < b.value and a.movement > b.movement for a, b in itertools.pairwise(by_beta))
    single = perturb(start, labels, proximity=1e-2, weight_decay=1e-3, feature_decay=1e-4)
    assert isinstance(single, Perturbation)
    assert torch.equal(single.features, found[2].features)
    vector = perturb(start, labels, proximity=np.array([1e-2]), weight_decay=1e-3, feature_decay=1e-4)
    assert torch.equal(vector[0].features, single.features)


@pytest.mark.every(5)
@pytest.mark.parametrize("seed", range(5))
def test_minimiser_is_closer_to_collapse_than_where_it_started(seed):
    start, labels = clusters([30] * 5, 12, seed=seed, spread=0.1)
    before = ncpipe.measure(start, labels)["nc1_pinv"]
    sweep = perturb(start, labels, proximity=[1e-1, 1e-2, 1e-3, 1e-4], weight_decay=1e-4, feature_decay=1e-4)
    after = [ncpipe.measure(result.features, labels, result.weight)["nc1_pinv"] for result in sweep]
    assert all(a > b for a, b in itertools.pairwise([before, *after]))


def test_order_of_samples_and_kind_of_array_do_not_matter():
    start, labels = clusters([15] * 3, 5)
    decays = {"proximity": 1e-2, "weight_decay": 1e-3, "feature_decay": 1e-3}
    found = perturb(start, labels, **decays)
    back = torch.arange(len(labels) - 1, -1, -1)
    turned = perturb(start[back].numpy(), labels[back].numpy(), **decays)
    torch.testing.assert_close(turned.features[back], found.features, rtol=0, atol=1e-8)
    single = perturb(start.float(), labels, **decays)
    assert single.features.dtype == torch.float64
    assert single.value == pytest.approx(found.value, rel=1e-5)
    absent = perturb(start, labels, num_classes=4, **decays)
    assert absent.weight.shape == (4, 5)
    assert float(absent.weight[3].norm()) < 1e-8
    assert absent.value == pytest.approx(found.value, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"proximity": 0.0}, "^proximity: got 0.0; needs a finite number > 0"),
        ({"proximity": [1.0, -1.0]}, "^proximity: got -1.0"),
        ({"proximity": float("nan")}, "^proximity: "),
        ({"proximity": None}, "^proximity: got None"),
        ({"weight_decay": 0.0}, "^weight_decay: "),
        ({"feature_decay": float("inf")}, "^feature_decay: "),
        ({"feature_decay": "much"}, "^feature_decay: got 'much'"),
        ({"features": torch.ones(6)}, "^features must have shape"),
        ({"features": torch.ones(6, 2, dtype=torch.int64)}, "^features must be floating"),
        ({"features": torch.full((6, 2), torch.inf)}, "^features has 12 non-finite"),
        ({"features": torch.zeros(6, 2)}, "^features: all are zero"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "^labels must have shape"),
        ({"labels": torch.full((6,), 3), "num_classes": 3}, r"^labels must lie in \[0, 3\)"),
    ],
)
def test_mistakes_are_named(changes, message):
    arguments = {
        "features": torch.ones(6, 2),
        "labels": torch.arange(6) % 2,
        "proximity": 1.0,
        "weight_decay": 1e-3,
        "feature_decay": 1e-3,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        perturb(arguments.pop("features"), arguments.pop("labels"), **arguments)
