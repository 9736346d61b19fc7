"""Closed forms: check values, minimisers that attain them, thresholds, and where there is none."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from extent import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from test_ufm_objective import formula_at, simplex

from ncpipe import measure
from ncpipe.losses import multi_label
from ncpipe.ufm import NoClosedForm, Problem
from ncpipe.ufm.closed_form import shrunken_fit
from ncpipe.ufm.layout import Layout
from ncpipe.ufm.objective import Objective

NONNEGATIVE = Problem(4, 5, 6, weight_decay=5e-3, feature_decay=1e-3, nonnegative=True)
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
    "normalised": (Problem(10, 3, 9, loss="ce", temperature=5.0), "0.034201678513", 50 / 9),
    "pick-all-label": (
        Problem(4, {1: 3, 2: 1}, 6, loss="pick_all_labels", weight_decay=5e-3, feature_decay=1e-3),
        "0.5540453121",
        5.3471234468,
    ),
    "non-negative": (NONNEGATIVE, "0.0198000000", 0.98),
    "non-negative, free bias": (replace(NONNEGATIVE, bias="free"), "0.0171205081", None),
    "non-negative, penalised bias": (replace(NONNEGATIVE, bias=5e-3), "0.0176340322", None),
    "non-negative, strongly penalised bias": (replace(NONNEGATIVE, bias=0.1), "0.0193676720", None),
    "non-negative ce": (
        Problem(4, 3, 5, loss="ce", weight_decay=5e-3, feature_decay=5e-3, bias="free", nonnegative=True),
        "0.1677005368",
        None,
    ),
    "non-negative ce, imbalanced": (
        Problem(4, [20, 10, 5, 5], 6, loss="ce", weight_decay=5e-3, feature_decay=5e-3, nonnegative=True),
        "0.2607492608",
        4.3102575952,
    ),
    "non-negative ce of ten classes": (
        Problem(10, 100, 12, loss="ce", weight_decay=5e-3, feature_decay=5e-6, bias=5e-3, nonnegative=True),
        "0.1108408781",
        None,
    ),
}

small = st.floats(1e-5, 0.2)
RELATIVES = ("ce", "label_smoothing", "focal")
DEEP = ("linear", "linear bias", "relu", "penalised", "etf")
NARROW = ("none", "free", "linear", "linear bias", "imbalanced", "penalised")
KINDS = [*DEEP, "none", "free", "imbalanced", *RELATIVES, "rescaled", "etf relative", *multi_label(), "temperature"]
KINDS += ["non-negative"] * 3


@st.composite
def nonnegative_problems(draw: st.DrawFn, spare: int = 0) -> Problem:
    """Problems of non-negative features that have a closed form, of ``spare`` widths beyond K or more."""
    classes, samples = draw(st.integers(2, 6)), draw(st.integers(1, 20))
    fields: dict[str, Any] = {"weight_decay": draw(small), "feature_decay": draw(small), "nonnegative": True}
    fields["loss"] = draw(st.sampled_from(["mse", "mse", "ce", "label_smoothing"]))
    fields["bias"] = draw(st.sampled_from(["none", "free", draw(st.floats(1e-3, 10))]))
    if fields["loss"] == "label_smoothing":
        fields["smoothing"] = draw(st.floats(0.01, 0.9))
    counts = [draw(st.integers(1, 20)) for _ in range(classes)] if draw(st.booleans()) else samples
    dim = classes + spare + draw(st.integers(0, 6))
    return Problem(classes, counts if fields["bias"] == "none" else samples, dim, **fields)


@st.composite
def closed_form_problems(draw: st.DrawFn, deepest: int = 5) -> Problem:
    """Problems of every family that has a closed form, in and out of the zero phase."""
    kind = draw(st.sampled_from(KINDS))
    if kind == "non-negative":
        return draw(nonnegative_problems(spare=6 if deepest <= 2 else 0))  # at width K many starts end elsewhere
    classes, samples = draw(st.integers(2, 6)), draw(st.integers(1, 20))
    if kind == "temperature":
        wide, tau = draw(st.integers(max(2, classes - 1), classes + 6)), draw(st.floats(0.1, 20))
        return Problem(classes, samples, wide, loss="ce", temperature=tau)
    depth = draw(st.integers(1 if kind in ("penalised", "etf") else 2, deepest)) if kind in DEEP else 1
    if kind == "imbalanced" and deepest > 2:
        depth = draw(st.integers(1, deepest))
    if kind == "etf relative":
        depth = draw(st.integers(1, 2))
    frozen = kind.startswith("etf")
    fields: dict[str, Any] = {
        "weight_decay": tuple(draw(small) for _ in range(depth - frozen)),
        "feature_decay": draw(small),
        "classifier": "etf" if frozen else "free",
        "activation": "relu" if kind == "relu" else "linear",
    }
    fields["loss"] = kind if kind in (*RELATIVES, *multi_label()) else "mse"
    if kind == "etf relative":
        fields["loss"] = draw(st.sampled_from(RELATIVES))
    if kind == "penalised":
        fields["bias"] = draw(st.floats(1e-3, 10))
    elif kind in ("free", "linear bias"):
        fields["bias"] = "free"
    elif kind in (*RELATIVES, *multi_label()) or frozen:
        fields["bias"] = draw(st.sampled_from(["none", "free", 0.1]))
    if fields["loss"] == "label_smoothing":
        fields["smoothing"] = draw(st.floats(0.01, 0.9))
    elif fields["loss"] == "focal":
        fields["gamma"] = draw(st.floats(0.1, 5))
    elif kind == "rescaled":
        fields["rescale"] = (draw(st.floats(0.2, 5)), draw(st.floats(0.3, 15)))
    least = 1 if kind in NARROW else classes
    dims = [draw(st.integers(least, classes + 6)) for _ in range(depth)]
    if frozen:
        dims[-1] = max(dims[-1], classes - 1)
    dim = dims if draw(st.booleans()) else max(dims) if least > 1 else dims[-1]
    if kind == "imbalanced":
        return Problem(classes, [draw(st.integers(1, 40)) for _ in range(classes)], dim, **fields)
    if kind in multi_label():
        others = draw(st.dictionaries(st.integers(1, classes - 1), st.integers(1, 4), max_size=3))
        return Problem(classes, {**others, 1: samples}, dim, **fields)
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
@settings(max_examples=cases(150), deadline=None)
def test_construction_attains_the_optimum_and_balances_the_penalties(problem: Problem) -> None:
    optimum, point = problem.optimum(), problem.construct()
    assert point.value() == pytest.approx(optimum.value, rel=1e-11, abs=1e-14)
    assert (point.features.norm() == 0) == optimum.is_zero
    if problem.temperature is not None:
        rows = torch.cat([point.features, *point.weights])
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(rows), dtype=torch.float64))
        return
    paid = problem.feature_decay * float(point.features.square().sum())
    for decay, weight in zip(problem.weight_decays, point.weights):
        assert decay * float(weight.square().sum()) == pytest.approx(paid, rel=1e-10, abs=1e-14)


def single_tag_means(problem: Problem, rows: torch.Tensor) -> torch.Tensor:
    """Class means of samples sorted by class, the sets of one tag first, (K, d)."""
    single = problem.counts[: problem.classes]
    each = rows.split([*single, len(rows) - sum(single)])
    return torch.stack([part.mean(dim=0) for part in each[: problem.classes]])


@given(closed_form_problems())
@settings(max_examples=cases(150), deadline=None)
def test_all_that_an_optimum_tells_is_true_of_the_construction(problem: Problem) -> None:
    optimum, point = problem.optimum(), problem.construct()
    close = {"rtol": 1e-10, "atol": 1e-12}
    layers = point.layers()
    for name, gram in optimum.grams().items():
        means = single_tag_means(problem, layers[name])
        torch.testing.assert_close(gram, means @ means.T, **close)
    torch.testing.assert_close(optimum.weights_gram(), point.weights[-1] @ point.weights[-1].T, **close)
    factors = {"H1": point.features} | {f"W{level}": weight for level, weight in enumerate(point.weights, 1)}
    assert optimum.norms() == pytest.approx({name: float(factors[name].norm()) for name in factors}, rel=1e-10)
    fit = (problem.temperature or 1) * point.weights[-1] @ layers["features"].T
    sizes = torch.linalg.svdvals(fit)
    torch.testing.assert_close(optimum.singular_values.sort(descending=True).values, sizes[: optimum.rank], **close)
    assert float(sizes[optimum.rank :].sum()) < 1e-9 * (1 + float(sizes[0]))
    assert (optimum.bias is None) == (point.bias is None) == (problem.bias == "none")
    if point.bias is not None:
        torch.testing.assert_close(point.bias, torch.full_like(point.bias, optimum.bias), **close)
    assert set(optimum.margins) == (set(problem.samples) if problem.multi_label else set())
    for target, logits in zip(point.targets, fit.T):
        if optimum.margins or (problem.loss != "mse" and problem.balanced):
            margin = optimum.margins.get(int(target.sum()), optimum.scale)
            torch.testing.assert_close(logits - logits.mean(), margin * (target - target.double().mean()), **close)


@given(closed_form_problems(), st.sampled_from([0.98, 1.02]))
@settings(max_examples=cases(150), deadline=None)
def test_zero_is_optimal_from_the_zero_threshold_on(problem: Problem, factor: float) -> None:
    threshold = problem.optimum().zero_threshold
    assert (threshold <= 1) == problem.optimum().is_zero
    if problem.temperature is not None or (problem.classifier == "etf" and problem.depth == 1):
        assert threshold == math.inf  # norms are fixed; and a ridge never gives zero
        return
    decays = [threshold * factor * decay for decay in problem.decays]
    near = replace(problem, feature_decay=decays[0], weight_decay=decays[1:]).optimum()
    assert near.is_zero == (factor > 1)
    assert near.zero_threshold == pytest.approx(1 / factor, rel=1e-9)


def test_grams_are_given_where_they_are_unique() -> None:
    wide, narrow = Problem(4, 5, (6, 5), weight_decay=(2e-3, 3e-3)), Problem(4, 5, (6, 3), weight_decay=(2e-3, 3e-3))
    assert list(wide.optimum().grams()) == ["H1", "features"]
    assert narrow.optimum().grams() == {}
    relu = Problem(3, 5, 4, weight_decay=(1e-3,) * 3, feature_decay=1e-3, activation="relu")
    assert list(relu.optimum().grams()) == ["H2", "features"]
    minority = Problem(3, [16, 9, 4], 5, weight_decay=1.0, feature_decay=4.0001 / 29**2).optimum()
    assert float(minority.grams()["features"][2].abs().max()) == 0
    assert float(minority.grams()["features"][1, 1]) > 0
    for bias, rank in [(0.01, 3), (10.0, 4)]:
        optimum = Problem(4, 5, 6, bias=bias).optimum()
        assert optimum.rank == rank
        assert list(optimum.grams()) == ["features"]
    zero = Problem(4, 5, 6, weight_decay=1.0, feature_decay=1.0).optimum()
    assert float(zero.grams()["features"].abs().max()) == 0


# --- against numerical minimisation ------------------------------------------------------------------

TINY: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.02},
    "narrow": {"weight_decay": 0.02, "dim": 2},
    "free bias": {"weight_decay": 0.03, "bias": "free"},
    "penalised bias": {"weight_decay": 0.03, "bias": 0.5},
    "penalised bias, frame": {"weight_decay": 0.03, "bias": 0.05, "dim": 2},
    "penalised bias, zero": {"weight_decay": 3.0, "bias": 0.5},
    "imbalanced": {"weight_decay": 0.02, "samples": (3, 2, 1)},
    "imbalanced, narrow, deep": {"weight_decay": (0.02, 0.03), "samples": (3, 2, 1), "dim": (3, 2)},
    "linear": {"weight_decay": (0.01, 0.02)},
    "linear with bias": {"weight_decay": (0.01, 0.02), "bias": "free", "dim": (4, 2)},
    "binary relu": {"weight_decay": (0.01, 0.02), "activation": "relu", "classes": 2},
    "rescaled": {"weight_decay": 0.1, "rescale": (2.5, 2.0)},
    "frozen": {"classifier": "etf"},
    "frozen, free bias": {"classifier": "etf", "bias": "free"},
    "frozen, penalised bias": {"classifier": "etf", "bias": 0.3},
    "frozen, deep": {"classifier": "etf", "weight_decay": (0.01, 0.02), "bias": 0.3, "dim": (3, 4, 2)},
    "frozen, deep, zero": {"classifier": "etf", "weight_decay": 3.0},
    "ce": {"weight_decay": 0.02, "loss": "ce"},
    "label smoothing": {"weight_decay": 0.02, "loss": "label_smoothing", "smoothing": 0.3, "bias": 0.1},
    "focal": {"weight_decay": 0.02, "loss": "focal", "gamma": 2.0},
    "frozen ce": {"classifier": "etf", "loss": "ce", "bias": 0.1},
    "frozen label smoothing": {"classifier": "etf", "loss": "label_smoothing", "smoothing": 0.2},
    "frozen focal": {"classifier": "etf", "loss": "focal", "gamma": 1.5},
    "frozen ce, two factors": {"classifier": "etf", "loss": "ce", "weight_decay": 0.02, "dim": (3, 2)},
    "frozen label smoothing, two factors": {
        "classifier": "etf", "loss": "label_smoothing", "smoothing": 0.2, "weight_decay": 0.02,
    },
    "frozen focal, two factors": {"classifier": "etf", "loss": "focal", "gamma": 1.5, "weight_decay": 0.02},
    "temperature": {"loss": "ce", "temperature": 2.0, "dim": 2},
    "frozen temperature": {"loss": "ce", "temperature": 2.0, "classifier": "etf"},
    "pick-all": {"loss": "pick_all_labels", "samples": {1: 1, 2: 1}, "weight_decay": 0.05, "bias": 0.1},
    "pick-all normalised": {"loss": "pick_all_labels_normalized", "samples": {1: 2, 2: 1}, "weight_decay": 0.05},
    "pick-all of four": {"loss": "pick_all_labels", "samples": {1: 1, 3: 1}, "weight_decay": 0.02, "classes": 4},
    "pick-all, zero": {"loss": "pick_all_labels", "samples": {1: 1, 2: 1}, "weight_decay": 20.0},
    "non-negative": {"weight_decay": 0.02, "nonnegative": True},
    "non-negative, narrow": {"weight_decay": 0.02, "nonnegative": True, "dim": 2},
    "non-negative, imbalanced": {"weight_decay": 0.02, "nonnegative": True, "samples": (3, 2, 1)},
    "non-negative, rescaled": {"weight_decay": 0.1, "nonnegative": True, "rescale": (2.5, 2.0)},
    "non-negative, linear": {"weight_decay": (0.01, 0.02), "nonnegative": True},
    "non-negative binary relu": {
        "weight_decay": (0.01, 0.02), "activation": "relu", "classes": 2, "nonnegative": True,
    },
    "non-negative, free bias": {"weight_decay": 0.03, "bias": "free", "nonnegative": True},
    "non-negative, weakly penalised bias": {"weight_decay": 0.03, "bias": 0.02, "nonnegative": True},
    "non-negative, penalised bias": {"weight_decay": 0.03, "bias": 2.0, "nonnegative": True},
    "non-negative, penalised bias, zero": {"weight_decay": 3.0, "bias": 0.5, "nonnegative": True},
    "non-negative ce": {"weight_decay": 0.02, "loss": "ce", "bias": 0.1, "nonnegative": True},
    "non-negative label smoothing": {
        "weight_decay": 0.02, "loss": "label_smoothing", "smoothing": 0.3, "bias": "free", "nonnegative": True,
    },
    "non-negative ce, zero": {"weight_decay": 3.0, "loss": "ce", "nonnegative": True},
    "non-negative ce, imbalanced": {"weight_decay": 0.3, "loss": "ce", "nonnegative": True, "samples": (4, 2, 1)},
    "non-negative label smoothing, imbalanced": {
        "weight_decay": 0.1, "loss": "label_smoothing", "smoothing": 0.2, "nonnegative": True, "samples": (4, 2, 1),
    },
}  # fmt: skip


def numerical_minimum(problem: Problem, starts: int) -> float:
    """Of the objective as it is written, by autograd and an optimiser that share nothing with this package's."""
    size = sum(Layout.of(problem).sizes)
    frame = simplex(problem.classes, problem.widths[-1]) if problem.classifier == "etf" else None

    def value(flat: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.from_numpy(flat.copy()).requires_grad_()
        found = formula_at(problem, leaf, frame=frame)
        found.backward()
        return found.item(), leaf.grad.numpy()

    options = {"maxiter": 5_000, "maxfun": 10_000, "ftol": 1e-15, "gtol": 1e-9}
    draws = [np.random.default_rng(seed).standard_normal(size) for seed in range(starts)]
    bounds = [(0 if problem.nonnegative and i < Layout.of(problem).sizes[0] else None, None) for i in range(size)]
    fits = [minimize(value, draw, jac=True, method="L-BFGS-B", bounds=bounds, options=options) for draw in draws]
    return min(fit.fun for fit in fits)


@pytest.mark.every(5)
@pytest.mark.parametrize("name", TINY)
def test_numerical_minimisation_ends_at_the_closed_form(name: str) -> None:
    fields = {"classes": 3, "samples": 2, "dim": 4} | TINY[name]
    if "temperature" not in fields:
        fields["feature_decay"] = 0.01 if "zero" not in name else 3.0
    problem = Problem(**fields)
    optimum = problem.optimum()
    assert optimum.is_global == (name != "frozen focal, two factors")
    assert optimum.is_zero == ("zero" in name)
    found = numerical_minimum(problem, starts=5)
    assert found == pytest.approx(optimum.value, rel=1e-7)
    assert found >= optimum.value * (1 - 1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_margins_of_several_labels_minimise_the_reduced_objective(seed: int) -> None:
    """Over the margins alone, written with binomials (Li et al. 2024), for any multiplicities."""
    rng = np.random.default_rng(seed)
    K, normalised = int(rng.integers(3, 8)), bool(rng.integers(2))
    samples = {1: int(rng.integers(1, 9))} | {m: int(rng.integers(1, 4)) for m in range(2, K) if rng.random() < 0.6}
    weight_decay, feature_decay = 10 ** rng.uniform(-6, -2.5, 2)
    loss = "pick_all_labels_normalized" if normalised else "pick_all_labels"
    problem = Problem(K, samples, K, loss, weight_decay=weight_decay, feature_decay=feature_decay)
    sizes, each = np.array(sorted(samples)), np.array([math.comb(K, m) * samples[m] for m in sorted(samples)])

    def reduced(t: np.ndarray) -> float:
        weight = each * (1 if normalised else sizes)
        area = (each * t**2 * sizes * (K - sizes) * (K - 1) / K**2).sum()
        entropy = (weight * np.log(sizes + (K - sizes) * np.exp(-t))).sum() / each.sum()
        return float(entropy + np.sqrt(weight_decay * feature_decay * K * area))

    optimum = problem.optimum()
    margins = np.array([optimum.margins[m] for m in sizes])
    options = {"xatol": 1e-9, "fatol": 1e-15, "maxiter": 20_000, "maxfev": 20_000}
    found = minimize(reduced, margins * rng.uniform(0.7, 1.4, len(sizes)), method="Nelder-Mead", options=options)
    assert optimum.value == pytest.approx(reduced(margins), rel=1e-13)
    assert found.fun == pytest.approx(optimum.value, rel=1e-8)
    assert found.fun >= optimum.value * (1 - 1e-12)
    np.testing.assert_allclose(found.x, margins, rtol=1e-3)


def test_several_labels_of_one_tag_are_cross_entropy() -> None:
    one = Problem(4, 3, 5, "ce", weight_decay=5e-3, feature_decay=5e-3).optimum()
    for loss in multi_label():
        same = Problem(4, {1: 3}, 5, loss, weight_decay=5e-3, feature_decay=5e-3).optimum()
        assert same.value == pytest.approx(one.value, rel=1e-12)
        assert same.margins == pytest.approx({1: one.scale}, rel=1e-9)
        assert same.zero_threshold == pytest.approx(one.zero_threshold, rel=1e-12)
        torch.testing.assert_close(same.grams()["features"], one.grams()["features"], rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("factors", [1, 2])
def test_margins_minimise_their_one_dimensional_objective(seed: int, factors: int) -> None:
    """By a grid refined where it is lowest, frozen classifier (one or two factors) and trained."""
    rng = np.random.default_rng(seed)
    loss, frozen = RELATIVES[seed % 3], factors == 1 or bool(rng.integers(2))
    K, n, decays = int(rng.integers(2, 7)), int(rng.integers(1, 10)), 10 ** rng.uniform(-4, -0.5, factors)
    parameters = {"label_smoothing": {"smoothing": 0.3}, "focal": {"gamma": float(rng.uniform(0.2, 8))}, "ce": {}}
    problem = Problem(
        K, n, K, loss, weight_decay=tuple(decays[1:]), feature_decay=decays[0],
        classifier="etf" if frozen else "free", **parameters[loss],
    )  # fmt: skip

    def objective(t: np.ndarray) -> np.ndarray:
        p = 1 / (1 + (K - 1) * np.exp(-t))
        alpha, gamma = problem.smoothing, problem.gamma
        entropy = (1 - p) ** gamma * -np.log(p) + alpha * (K - 1) / K * t
        fit = t * math.sqrt(n) / (math.sqrt(K / (K - 1)) if frozen else 1)  # of the trained factors, K - 1 times
        price = decays[0] / 2 * fit**2 if factors == 1 else math.sqrt(decays.prod()) * fit
        return entropy + (K - 1) * price

    low, high = 0.0, 60.0
    for _ in range(6):
        grid = np.linspace(low, high, 4001)
        best = int(objective(grid).argmin())
        low, high = grid[max(best - 3, 0)], grid[min(best + 3, 4000)]
    optimum = problem.optimum()
    assert optimum.value == pytest.approx(float(objective(grid).min()), rel=1e-12)
    assert optimum.scale == pytest.approx(float(grid[best]), abs=1e-5 * (1 + grid[best]))


def test_frozen_classifier_by_hand() -> None:
    ridge = 5 * 3 * 1e-3  # (K - 1) n lambda_H
    for bias, rest in [("none", 1 / 8), ("free", 0), (0.25, 0.2 / 8)]:
        optimum = Problem(4, 5, 3, feature_decay=1e-3, bias=bias, classifier="etf").optimum()
        assert optimum.value == pytest.approx(3 / 4 * ridge / (1 + ridge) / 2 + rest, rel=1e-14)
        assert optimum.scale == pytest.approx(1 / (1 + ridge), rel=1e-14)
        assert optimum.bias == {"none": None, "free": 0.25, 0.25: 0.2}[bias]
        assert optimum.norms()["W1"] == pytest.approx(2)


@pytest.mark.parametrize("seed", range(6))
def test_narrow_imbalanced_models_keep_the_best_of_all_choices(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts, depth, width = rng.integers(1, 30, 5).tolist(), 1 + seed % 3, 2
    decays, N = 10 ** rng.uniform(-3, -1.5, depth + 1), sum(counts)
    grid = np.linspace(0, 1, 200_001)

    def gain(n: int) -> float:
        """Fall of the objective by fitting a class of n samples, over all fits x."""
        fit = math.sqrt(n) * grid
        price = (depth + 1) / 2 * (np.sqrt(decays.prod()) * fit) ** (2 / (depth + 1))
        return n / (2 * N) - float((n / (2 * N) * (grid - 1) ** 2 + price).min())

    gains = sorted((gain(n) for n in counts), reverse=True)
    problem = Problem(5, counts, width, weight_decay=tuple(decays[1:]), feature_decay=decays[0])
    assert problem.optimum().value == pytest.approx(1 / 2 - sum(gains[:width]), abs=1e-9)


@pytest.mark.parametrize(
    ("problem", "weight", "features", "bias", "from_of", "from_etf"),
    [  # |W|^2, |H|^2, b to the digits given, distances of the classifier's Gram
        (replace(NONNEGATIVE, bias="free"), "3.38410", "16.92051", "0.2500000", ".5176", ".0000"),
        (replace(NONNEGATIVE, bias=5e-3), None, None, "0.2053125", ".4998", ".0184"),
        (CHECK_VALUES["non-negative ce"][0], "27.44827", "27.44827", "0.0000000", ".5176", ".0000"),
        (CHECK_VALUES["non-negative ce of ten classes"][0], "19.14545", None, "0.0000000", None, ".0000"),
    ],
    ids=["free bias", "penalised bias", "ce", "ce of ten classes"],
)
def test_nonnegative_check_values(
    problem: Problem, weight: str | None, features: str | None, bias: str, from_of: str | None, from_etf: str
) -> None:
    point, optimum = problem.construct(), problem.optimum()
    assert point.bias is not None
    row = measure(point.features, point.labels, point.weights[0], point.bias)
    assert f"{optimum.bias:.7f}" == bias
    assert weight is None or f"{float(point.weights[0].square().sum()):.5f}" == weight
    assert features is None or f"{float(point.features.square().sum()):.5f}" == features
    assert from_of is None or f"{row['nc2_weights_of']:.4f}" == f"0{from_of}"
    assert f"{row['nc2_weights_etf']:.4f}" == f"0{from_etf}"
    assert row["nc2_means_of"] < 1e-14


@given(nonnegative_problems(), st.integers(0, 2**31))
@settings(max_examples=cases(100), deadline=None)
def test_nothing_feasible_around_a_nonnegative_optimum_is_below_it(problem: Problem, seed: int) -> None:
    optimum, point = problem.optimum(), problem.construct()
    assert optimum.is_global
    assert float(point.features.min()) >= 0
    assert point.value() == pytest.approx(optimum.value, rel=1e-12)
    objective, generator = Objective.of([problem] * 64, tied=True), torch.Generator().manual_seed(seed)
    steps = torch.randn(64, len(point.pack()), generator=generator, dtype=torch.float64)
    sizes = torch.logspace(-6, 0, 64, dtype=torch.float64)[:, None] * point.pack().norm().clamp_min(0.1)
    values, _ = objective.evaluate(objective.inside(point.pack() + steps * sizes))
    assert float(values.min()) >= optimum.value * (1 - 1e-12)
    _, gradient = Objective.of([problem], tied=True).evaluate(point.pack()[None])
    penalties = torch.tensor([min(problem.decays)], dtype=torch.float64)
    assert float(gradient.norm()) < 1e-7 * float((penalties * optimum.value).sqrt())


def test_classes_of_different_size_have_the_lengths_and_thresholds_of_the_theorem() -> None:
    """Dang et al. 2024: |h_k|^2 = sqrt((K-1) lW / (K n_k lH)) M_k where n_k > N^2 lW lH K/(K-1), else 0, with
    M_k = log((K-1) (sqrt(K n_k / (K-1)) / (N sqrt(lW lH)) - 1)); the classifier is the scaled and centred means."""
    K, counts, N = 4, (40, 20, 5, 3), 68
    weight_decay, feature_decay = 2e-2, 4.5 * 3 / 4 / (N**2 * 2e-2)  # the threshold lies at 4.5 samples
    problem = Problem(K, counts, 3, "ce", weight_decay=weight_decay, feature_decay=feature_decay, nonnegative=True)
    optimum, root = problem.optimum(), math.sqrt(weight_decay * feature_decay)
    M = [math.log((K - 1) * (math.sqrt(K * n / (K - 1)) / (N * root) - 1)) if n > 4.5 else 0.0 for n in counts]
    squares = [math.sqrt((K - 1) * weight_decay / (K * n * feature_decay)) * m for n, m in zip(counts, M)]
    torch.testing.assert_close(optimum.grams()["features"], torch.diag(torch.tensor(squares, dtype=torch.float64)))
    assert (optimum.rank, optimum.is_global, optimum.scale) == (3, True, pytest.approx(M[0]))
    assert optimum.zero_threshold == pytest.approx(math.sqrt(40 / 4.5))
    means, weight = problem.construct().class_features(), problem.construct().weights[0]
    assert float(means[3].abs().max()) == 0
    scaled = torch.tensor([math.sqrt(n / (K - 1) * K) for n in counts]).double()[:, None] * means
    centred = math.sqrt(feature_decay / weight_decay) * (scaled - scaled.mean(dim=0))
    torch.testing.assert_close(weight, centred)
    both = replace(problem, samples=(40, 20, 4, 3), dim=4, feature_decay=4.5 * 3 / 4 / (67**2 * 2e-2)).optimum()
    gram = both.weights_gram()
    assert both.rank == 2
    assert float(gram[2, 2] + gram[3, 3] - 2 * gram[2, 3]) == pytest.approx(0, abs=1e-12)
    with pytest.raises(NoClosedForm, match="with dim 2 < 3 classes whose mean is not zero"):
        replace(problem, dim=2).optimum()


@given(nonnegative_problems())
@settings(max_examples=cases(50), deadline=None)
def test_a_bias_that_costs_all_or_nothing_makes_the_limits_of_a_penalised_one(problem: Problem) -> None:
    unfitted = replace(problem, loss="mse", smoothing=0, samples=3)
    for penalty, bias in [(1e-13, "free"), (1e13, "none")]:
        near, limit = replace(unfitted, bias=penalty).optimum(), replace(unfitted, bias=bias).optimum()
        assert near.value == pytest.approx(limit.value, rel=1e-9)
        assert near.norms() == pytest.approx(limit.norms(), rel=1e-4, abs=1e-4)


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
@settings(max_examples=cases(100), deadline=None)
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
        ({"weight_decay": (1e-3, 1e-3), "activation": "relu", "dim": (9, 3)}, "dim 3 < classes 4"),
        ({"weight_decay": (1e-3, 1e-3), "loss": "ce"}, "extended model with cross entropy"),
        ({"classifier": "etf", "weight_decay": 1e-3, "activation": "relu"}, "ReLU before a frozen classifier"),
        ({"classifier": "etf", "weight_decay": None, "samples": [1, 2, 3, 4]}, "imbalanced"),
        ({"classifier": "etf", "weight_decay": (1e-3, 1e-3), "loss": "ce"}, "extended model with cross entropy"),
        ({"classifier": "etf", "weight_decay": None, "rescale": (2, 1)}, "rescaled squared loss"),
        (
            {"temperature": 3, "loss": "ce", "weight_decay": None, "feature_decay": None, "dim": 2},
            "normalised features with dim 2 < classes - 1 = 3",
        ),
        (
            {"temperature": 3, "loss": "ce", "weight_decay": None, "feature_decay": None, "samples": [1, 2, 3, 4]},
            "imbalanced classes with normalised",
        ),
        ({"loss": "pick_all_labels", "samples": {1: 3}, "weight_decay": (1e-3, 1e-3)}, "several labels"),
        ({"loss": "pick_all_labels", "samples": {1: 3, 2: 1}, "dim": 2}, "several labels with dim 2"),
        ({"loss": "ce", "dim": 2}, "dim 2 < classes - 1 = 3"),
        ({"loss": "focal", "gamma": 2, "weight_decay": (1e-3, 1e-3)}, "extended model with cross entropy or its"),
        ({"loss": "label_smoothing", "smoothing": 0.1, "dim": 2}, "no simplex fits"),
        ({"rescale": (2, 1), "bias": "free"}, "rescaled squared loss: a closed form only"),
        ({"rescale": (2, 1), "dim": 3}, "rescaled squared loss with dim 3 < classes 4"),
        ({"samples": [1, 2, 3, 4], "loss": "ce"}, "imbalanced"),
        ({"samples": [1, 2, 3, 4], "bias": "free"}, "imbalanced"),
        ({"samples": [1, 2, 3, 4], "weight_decay": (1e-3, 1e-3), "activation": "relu"}, "imbalanced"),
        ({"nonnegative": True, "loss": "focal", "gamma": 2}, "^non-negative features: none derived for loss 'focal'"),
        ({"nonnegative": True, "loss": "pick_all_labels", "samples": {1: 3}}, "^non-negative .*'pick_all_labels'"),
        (
            {"nonnegative": True, "rescale": (2, 1), "bias": "free"},
            "^non-negative features: .*rescaled .* with a bias",
        ),
        ({"nonnegative": True, "rescale": (2, 1), "dim": 3}, "rescaled squared loss with dim 3"),
        ({"nonnegative": True, "classifier": "etf"}, "^non-negative features: .*how a frozen classifier lies"),
        ({"nonnegative": True, "classifier": "etf", "loss": "ce"}, "^non-negative features: .*frozen classifier"),
        ({"nonnegative": True, "bias": "free", "dim": 3}, "^non-negative features with dim 3 < 4 classes"),
        ({"nonnegative": True, "loss": "ce", "dim": 3}, "^non-negative features with dim 3 < 4 classes"),
        ({"nonnegative": True, "bias": "free", "weight_decay": (1e-3, 1e-3)}, "^non-negative .*two or more weight"),
        ({"nonnegative": True, "loss": "ce", "weight_decay": (1e-3, 1e-3)}, "^non-negative .*two or more weight"),
        ({"nonnegative": True, "bias": 0.1, "samples": [1, 2, 3, 4]}, "^non-negative features: .*imbalanced"),
        (
            {"nonnegative": True, "loss": "ce", "samples": [1, 2, 3, 4], "bias": "free"},
            "^non-negative features: .*imbalanced",
        ),
    ],
)
def test_no_closed_form_says_why(fields: dict[str, Any], reason: str) -> None:
    problem = Problem(**{"classes": 4, "samples": 5, "dim": 6, "weight_decay": 5e-3, "feature_decay": 1e-3, **fields})
    for ask in (problem.optimum, problem.construct):
        with pytest.raises(NoClosedForm, match=reason):
            ask()


def test_nonnegative_features_cost_nothing_where_the_optimum_has_them_anyway() -> None:
    for fields in ({}, {"dim": 3}, {"samples": (9, 4, 2, 1)}, {"weight_decay": (1e-3, 1e-3), "activation": "relu"}):
        problem = replace(NONNEGATIVE, **fields)
        found, free = problem.optimum(), replace(problem, nonnegative=False).optimum()
        assert (found.value, found.zero_threshold, found.is_global) == (
            free.value,
            free.zero_threshold,
            free.is_global,
        )
        assert found.basis == f"{free.basis}; attained by non-negative features"
        assert found.problem == problem
        assert float(found.construct().features.min()) >= 0
    assert replace(NONNEGATIVE, bias="free", weight_decay=1.0, feature_decay=1.0, dim=2).optimum().is_zero


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


def test_penalised_bias_of_a_narrow_model_leaves_the_ones_direction_to_the_bias() -> None:
    wide, narrow = (Problem(4, 5, dim, weight_decay=5e-3, feature_decay=1e-3, bias=10.0) for dim in (4, 3))
    assert wide.optimum().rank == 4
    optimum = narrow.optimum()
    assert optimum.rank == 3
    assert not optimum.is_global
    assert optimum.value == pytest.approx((3 * (0.02 - 0.02**2 / 2) + 10 / 11 / 2) / 4, rel=1e-14)
    assert narrow.construct().value() == pytest.approx(optimum.value, rel=1e-12)
    assert optimum.bias == pytest.approx(1 / 44)


@pytest.mark.parametrize(("gamma", "jump"), [(2.0, 1.1044951077605738), (5.0, 1.2612191528309045)])
def test_margin_of_focal_loss_jumps_where_the_loss_is_not_convex(gamma: float, jump: float) -> None:
    """With many classes it falls most per margin at a margin above 2: the steepest chord, from a fine grid."""
    price = jump / 99  # that of a margin at which zero becomes optimal
    below, above = (
        Problem(100, 1, 100, "focal", gamma=gamma, weight_decay=price * f, feature_decay=price * f).optimum()
        for f in (0.999, 1.001)
    )
    assert not below.is_zero
    assert below.scale > 2
    assert above.is_zero
    assert below.zero_threshold == pytest.approx(1 / 0.999, rel=1e-6)
