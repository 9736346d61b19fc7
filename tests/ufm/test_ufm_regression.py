"""The regression UFM: closed form against fits, against the theorem's words, and where directions are cut off."""

import math

import numpy as np
import pytest
import torch
from extent import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from ncpipe import regression_collapse
from ncpipe.ufm import Problem, regression_optimum

VARIANCES = [4.0, 1.0, 0.25]


def drawn(seed=0, variances=VARIANCES, samples=12):
    """Targets (N, n) with exactly these variances along oblique axes, about a mean that is not zero."""
    rng = np.random.default_rng(seed)
    white = np.linalg.qr(np.column_stack([np.ones(samples), rng.standard_normal((samples, len(variances)))]))[0][
        :, 1:
    ]
    axes = np.linalg.qr(rng.standard_normal((len(variances),) * 2))[0]
    return math.sqrt(samples) * white * np.sqrt(variances) @ axes.T + rng.standard_normal(len(variances))


def objective(y, h, w, b, weight_decay, feature_decay):
    squares = (h @ w.T + b - y).square().sum() / len(y)
    return (squares + weight_decay * w.square().sum() + feature_decay * h.square().sum()) / 2


def fitted(y, dim, weight_decay, feature_decay, seed):
    """What L-BFGS reaches from a random start."""
    y, sizes = torch.tensor(y), [(len(y), dim), (y.shape[1], dim), (y.shape[1],)]

    def value(vector):
        leaf = torch.tensor(vector, requires_grad=True)
        parts = leaf.split([math.prod(size) for size in sizes])
        found = objective(y, *(part.view(size) for part, size in zip(parts, sizes)), weight_decay, feature_decay)
        found.backward()
        return found.item(), leaf.grad.numpy()

    start = np.random.default_rng(seed).standard_normal(sum(map(math.prod, sizes)))
    options = {"maxiter": 20_000, "maxfun": 20_000, "ftol": 0, "gtol": 1e-11, "maxcor": 30}
    return minimize(value, start, jac=True, method="L-BFGS-B", options=options).fun


@pytest.mark.parametrize(
    ("gamma", "dim", "rank"), [(0.01, 5, 3), (0.09, 3, 3), (0.5, 5, 2), (2.0, 5, 1), (5.0, 5, 0), (0.01, 2, 2)]
)
def test_fits_reach_the_closed_form(gamma, dim, rank):
    y, decay = drawn(), math.sqrt(gamma / 12)
    penalties = 2 * decay, decay / 2
    optimum = regression_optimum(y, dim, *penalties)
    assert (optimum.rank, optimum.gamma) == (rank, pytest.approx(gamma))
    at_point = objective(torch.tensor(y), optimum.features, optimum.weight, optimum.bias, *penalties)
    assert float(at_point) == pytest.approx(optimum.value, abs=1e-13)
    fits = [fitted(y, dim, *penalties, seed) for seed in range(2)]
    assert fits == pytest.approx([optimum.value] * 2, abs=1e-10)


def test_the_optimum_has_the_properties_of_the_corollary():
    y, (weight_decay, feature_decay) = drawn(), (0.1, 0.05)
    optimum, samples = regression_optimum(y, 5, weight_decay, feature_decay), len(y)
    c, published = optimum.gamma, samples * feature_decay
    centred = y - y.mean(axis=0)
    values, axes = np.linalg.eigh(centred.T @ centred / samples)
    root = axes * np.sqrt(values) @ axes.T
    gram = (optimum.weight @ optimum.weight.T).numpy()
    assert c == pytest.approx(weight_decay * published)
    assert gram == pytest.approx(math.sqrt(published / weight_decay) * (root - math.sqrt(c) * np.eye(3)), abs=1e-12)
    features = math.sqrt(weight_decay / published) * optimum.weight.numpy().T @ np.linalg.inv(root) @ centred.T
    assert pytest.approx(features, abs=1e-12) == optimum.features.numpy().T
    assert optimum.bias.numpy() == pytest.approx(y.mean(axis=0), abs=1e-12)
    residual = (optimum.features @ optimum.weight.T + optimum.bias).numpy() - y
    assert residual == pytest.approx(-math.sqrt(c) * centred @ np.linalg.inv(root), abs=1e-12)
    assert optimum.value == pytest.approx(3 * c / 2 + math.sqrt(c) * np.trace(root - math.sqrt(c) * np.eye(3)))


@settings(max_examples=cases(40), deadline=None)
@given(st.integers(0, 1000), st.floats(1e-4, 0.2), st.integers(3, 6))
def test_the_optimum_has_collapsed(seed, gamma, dim):
    y = drawn(seed)
    optimum = regression_optimum(y, dim, weight_decay=0.01, feature_decay=gamma / 0.12)
    row = regression_collapse(optimum.features, y, optimum.weight)
    assert max(row["nrc1"], row["nrc2"], row["nrc3"]) < 1e-20
    assert row["nrc3_gamma"] == pytest.approx(gamma, rel=1e-6)


def test_where_directions_are_cut_off_the_third_property_fails():
    y = drawn()
    optimum = regression_optimum(y, 5, weight_decay=0.1, feature_decay=0.5 / 1.2)
    row = regression_collapse(optimum.features, y, optimum.weight)
    assert optimum.rank == 2
    assert max(row["nrc1"], row["nrc2"]) < 1e-20
    assert row["nrc3"] > 1e-3


def test_one_hot_targets_are_the_problem_with_a_free_bias():
    labels = torch.arange(4).repeat_interleave(5)
    for dim in (6, 2):
        problem = Problem(4, 5, dim, weight_decay=0.01, feature_decay=0.02, bias="free")
        optimum = regression_optimum(torch.eye(4, dtype=torch.float64)[labels], dim, 0.01, 0.02)
        assert optimum.value == pytest.approx(problem.optimum().value, abs=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((drawn()[:, 0], 5), "targets must have shape .* got"),
        ((drawn() * math.nan, 5), "targets has 36 non-finite values"),
        ((drawn(), 0), "dim: got 0; needs an integer, at least 1"),
        ((drawn(), 5, 0.0), "weight_decay: got 0.0; needs a finite number > 0"),
        ((drawn(), 5, 0.1, -1), "feature_decay: got -1.0; needs a finite number > 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        regression_optimum(*arguments)
