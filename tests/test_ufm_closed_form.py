"""Closed forms: check values, minimisers that attain them, thresholds, and where there is none."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ncpipe.ufm import NoClosedForm, Problem
from ncpipe.ufm.closed_form import shrunken_fit

CHECK_VALUES = {  # value to the digits given, and the fit or margin
    "bias-free": (Problem(4, 5, 6, weight_decay=5e-3, feature_decay=1e-3), "0.01980000", 0.98),
    "free bias": (Problem(5, 4, 6, weight_decay=0.01, feature_decay=0.02, bias="free"), "0.10513708", None),
    "penalised bias": (Problem(4, 5, 6, weight_decay=5e-3, feature_decay=1e-3, bias=0.1), "0.01930000", None),
    "linear": (Problem(4, 5, 6, weight_decay=(2e-3, 3e-3), feature_decay=1e-3), "0.01856583", 0.98751893),
    "relu": (
        Problem(3, 5, 6, weight_decay=(2e-3, 3e-3), feature_decay=1e-3, activation="relu"),
        "0.01393896",
        0.99064906,
    ),
    "deep": (
        Problem(2, 5, 4, weight_decay=(1e-3,) * 3, feature_decay=1e-3, activation="relu"),
        "0.00597692",
        0.99700481,
    ),
    "ce": (Problem(4, 3, 5, loss="ce", weight_decay=5e-3, feature_decay=5e-3), "0.1490232315", 4.7226869981),
    "label smoothing": (
        Problem(4, 3, 5, loss="label_smoothing", weight_decay=5e-3, feature_decay=5e-3, smoothing=0.1),
        "0.4381713058",
        3.2849866975,
    ),
    "focal": (
        Problem(4, 3, 5, loss="focal", weight_decay=5e-3, feature_decay=5e-3, gamma=2),
        "0.0733599770",
        2.4185684957,
    ),
    "imbalanced": (
        Problem(4, [20, 10, 5, 5], 6, weight_decay=1e-3, feature_decay=1e-3),
        "0.0120265496",
        None,
    ),
}

small = st.floats(1e-5, 0.2)
RELATIVES = ("ce", "label_smoothing", "focal")


@st.composite
def closed_form_problems(draw: st.DrawFn, deepest: int = 5) -> Problem:
    """Problems of every family that has a closed form, in and out of the zero phase."""
    classes, samples = draw(st.integers(2, 6)), draw(st.integers(1, 20))
    dim = draw(st.integers(classes, classes + 6))
    kinds = ["none", "free", "penalised", "imbalanced", "linear", "linear bias", "relu", *RELATIVES, "rescaled"]
    kind = draw(st.sampled_from(kinds))
    depth = draw(st.integers(2, deepest)) if kind in ("linear", "linear bias", "relu") else 1
    if kind == "imbalanced" and deepest > 2:
        depth = draw(st.integers(1, deepest))
    fields: dict[str, Any] = {
        "weight_decay": tuple(draw(small) for _ in range(depth)),
        "feature_decay": draw(small),
        "loss": kind if kind in RELATIVES else "mse",
        "activation": "relu" if kind == "relu" else "linear",
    }
    if kind == "penalised":
        fields["bias"] = draw(st.floats(1e-3, 10))
    elif kind in ("free", "linear bias"):
        fields["bias"] = "free"
    elif kind in RELATIVES:
        fields["bias"] = draw(st.sampled_from(["none", "free", 0.1]))
    if kind == "label_smoothing":
        fields["smoothing"] = draw(st.floats(0.01, 0.9))
    elif kind == "focal":
        fields["gamma"] = draw(st.floats(0.1, 5))
    elif kind == "rescaled":
        fields["rescale"] = (draw(st.floats(0.2, 5)), draw(st.floats(0.3, 15)))
    if kind in ("none", "free", "linear", "linear bias"):
        dim = draw(st.integers(1, classes + 6))
    if kind == "imbalanced":
        return Problem(classes, [draw(st.integers(1, 40)) for _ in range(classes)], dim, **fields)
    return Problem(classes, samples, dim, **fields)


@pytest.mark.parametrize("name", CHECK_VALUES)
def test_check_values(name: str) -> None:
    problem, value, scale = CHECK_VALUES[name]
    optimum = problem.optimum()
    assert f"{optimum.value:.{len(value) - 2}f}" == value
    if scale is not None:
        assert optimum.scale == pytest.approx(scale, abs=6e-9)
    assert problem.construct().value() == pytest.approx(optimum.value, rel=1e-12)


@given(closed_form_problems())
@settings(max_examples=80, deadline=None)
def test_construction_attains_the_optimum_and_balances_the_penalties(problem: Problem) -> None:
    optimum, point = problem.optimum(), problem.construct()
    assert point.value() == pytest.approx(optimum.value, rel=1e-11, abs=1e-14)
    assert (point.features.norm() == 0) == optimum.is_zero
    paid = problem.feature_decay * float(point.features.square().sum())
    for decay, weight in zip(problem.weight_decays, point.weights):
        assert decay * float(weight.square().sum()) == pytest.approx(paid, rel=1e-10, abs=1e-14)


def test_geometries() -> None:
    orthogonal = CHECK_VALUES["bias-free"][0].construct()
    means = orthogonal.class_features()
    torch.testing.assert_close(means @ means.T, 0.98 * torch.eye(4, dtype=torch.float64))

    simplex = CHECK_VALUES["free bias"][0].construct()
    means = simplex.class_features()
    assert float(means.mean(dim=0).abs().max()) < 1e-15
    gram = means @ means.T / (means @ means.T).norm()
    torch.testing.assert_close(gram, (torch.eye(5, dtype=torch.float64) - 0.2) / 2)
    assert simplex.bias is not None
    torch.testing.assert_close(simplex.bias, torch.full((5,), 0.2, dtype=torch.float64))

    penalised = CHECK_VALUES["penalised bias"][0].construct()
    assert penalised.bias is not None
    torch.testing.assert_close(penalised.bias, torch.full((4,), 0.05, dtype=torch.float64))

    relu = CHECK_VALUES["relu"][0].construct().layers()
    assert list(relu) == ["H1", "W1H1", "features"]
    assert float(relu["features"].min()) >= 0


def test_minority_class_vanishes_at_its_threshold() -> None:
    problem = Problem(3, [16, 9, 4], 5, weight_decay=1.0, feature_decay=4.0001 / 29**2)
    assert problem.optimum().rank == 2
    assert float(problem.construct().class_features()[2].norm()) == 0
    assert replace(problem, feature_decay=3.999 / 29**2).optimum().rank == 3


@pytest.mark.parametrize(
    ("problem", "threshold", "zero_value"),
    [  # the feature_decay at which zero becomes optimal
        (Problem(4, 5, 6, weight_decay=0.1), 1 / (16 * 5 * 0.1), 1 / 2),
        (Problem(4, 5, 6, weight_decay=0.1, bias="free"), 1 / (16 * 5 * 0.1), 3 / 8),
        (Problem(4, 5, 6, weight_decay=(0.1, 0.1)), 1 / (16 * 64 * 5 * 0.01), 1 / 2),
        (Problem(4, 5, 6, weight_decay=(0.1, 0.1), activation="relu"), 1 / (16 * 64 * 5 * 0.01), 1 / 2),
        (Problem(4, 5, 6, weight_decay=(0.1,) * 3), 4 / (4**4 * 3**6 * 5 * 1e-3), 1 / 2),
        (Problem(2, 5, 6, weight_decay=(0.1,) * 4, activation="relu"), 27 / (2**5 * 4**8 * 5 * 1e-4), 1 / 2),
        (Problem(4, 5, 6, weight_decay=0.1, loss="ce"), 1 / (16 * 5 * 0.1), math.log(4)),
        (
            Problem(4, 5, 6, weight_decay=0.1, loss="label_smoothing", smoothing=0.2),
            0.64 / (16 * 5 * 0.1),
            math.log(4),
        ),
        (Problem(4, 5, 6, weight_decay=0.1, rescale=(3, 2)), 36 / (16 * 5 * 0.1), 6.0),
    ],
)
def test_both_sides_of_the_zero_threshold(problem: Problem, threshold: float, zero_value: float) -> None:
    below, above = (replace(problem, feature_decay=threshold * factor).optimum() for factor in (0.999, 1.001))
    assert not below.is_zero
    assert above.is_zero
    assert above.value == pytest.approx(zero_value, rel=1e-15)
    assert below.value < zero_value
    assert below.value == pytest.approx(zero_value, rel=1e-3)


@given(st.floats(1e-6, 2), st.integers(1, 5))
@settings(deadline=None)
def test_shrunken_fit_is_the_minimum(strength: float, depth: int) -> None:
    def phi(x: float) -> float:
        return ((x - 1) ** 2 + (depth + 1) * strength * x ** (2 / (depth + 1))) / 2

    x, value = shrunken_fit(strength, depth)
    assert value == pytest.approx(phi(x), rel=1e-14)
    around = [phi(y) for y in (*np.linspace(0, 1, 1001), *np.clip(x + np.linspace(-1e-3, 1e-3, 101), 0, 1))]
    assert value <= min(around) * (1 + 1e-14)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"weight_decay": (1e-3, 1e-3), "activation": "relu", "bias": "free"}, "ReLU with a bias"),
        ({"weight_decay": (1e-3, 1e-3), "activation": "relu", "dim": 3}, "dim 3 < classes 4"),
        ({"weight_decay": (1e-3, 1e-3), "bias": 0.1}, "penalised bias"),
        ({"weight_decay": (1e-3, 1e-3), "loss": "ce"}, "extended model with cross entropy"),
        ({"bias": 0.5, "dim": 3}, "dim 3 < 4"),
        ({"loss": "ce", "dim": 2}, "dim 2 < classes - 1 = 3"),
        ({"loss": "focal", "gamma": 2, "weight_decay": (1e-3, 1e-3)}, "extended model with cross entropy or its"),
        ({"loss": "label_smoothing", "smoothing": 0.1, "dim": 2}, "no simplex fits"),
        ({"rescale": (2, 1), "bias": "free"}, "rescaled squared loss: a closed form only"),
        ({"rescale": (2, 1), "dim": 3}, "rescaled squared loss with dim 3 < classes 4"),
        ({"samples": [1, 2, 3, 4], "loss": "ce"}, "imbalanced"),
        ({"samples": [1, 2, 3, 4], "bias": "free"}, "imbalanced"),
        ({"samples": [1, 2, 3, 4], "weight_decay": (1e-3, 1e-3), "activation": "relu"}, "imbalanced"),
    ],
)
def test_no_closed_form_says_why(fields: dict[str, Any], reason: str) -> None:
    problem = Problem(**{"classes": 4, "samples": 5, "dim": 6, "weight_decay": 5e-3, "feature_decay": 1e-3, **fields})
    for ask in (problem.optimum, problem.construct):
        with pytest.raises(NoClosedForm, match=reason):
            ask()


@pytest.mark.parametrize(
    ("classes", "depth", "is_global", "basis"),
    [(2, 3, True, "binary"), (3, 2, False, "non-negative"), (3, 3, False, "upper bound"), (2, 2, True, "binary")],
)
def test_deep_relu_optima_say_what_is_proven(classes: int, depth: int, is_global: bool, basis: str) -> None:
    problem = Problem(classes, 5, 4, weight_decay=(1e-3,) * depth, feature_decay=1e-3, activation="relu")
    optimum = problem.optimum()
    assert optimum.is_global is is_global
    assert optimum.basis.startswith(basis)


def test_every_layer_of_a_deep_optimum_is_an_orthogonal_frame() -> None:
    for name, rows in CHECK_VALUES["deep"][0].construct().layers().items():
        means = rows[::5]
        gram = means @ means.T
        torch.testing.assert_close(gram / gram.norm(), torch.eye(2, dtype=torch.float64) / math.sqrt(2)), name


def test_penalised_bias_in_its_etf_regime_needs_only_a_simplex() -> None:
    problem = Problem(4, 5, 3, weight_decay=5e-3, feature_decay=1e-3, bias=0.01)
    assert problem.optimum().rank == 3
    assert problem.construct().value() == pytest.approx(problem.optimum().value, rel=1e-12)
