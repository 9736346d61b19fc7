"""Fits: both solvers reach the closed forms, batches equal single fits, divergence stays with its problem."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from extent import cases
from hypothesis import HealthCheck, given, settings
from test_ufm_closed_form import CHECK_VALUES, closed_form_problems, nonnegative_problems
from test_ufm_objective import by_formula, formula_at

from ncpipe.collapse import Moment, layer_statistics, nc3_rows, subspace_alignment
from ncpipe.settings.base import log_spaced
from ncpipe.stages.collapse import collapse_rows
from ncpipe.ufm import Problem, Result, fit
from ncpipe.ufm.minimiser import centred_fit

BATCH = [Problem(3, 4, 5, weight_decay=0.01 * k, feature_decay=1e-3) for k in (1, 2, 3)]
DESCENT: dict[str, Any] = {"steps": 300, "points": 10, "init_scale": 0.5}


@pytest.mark.every(3)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", CHECK_VALUES)
def test_lbfgs_reaches_the_check_values(name: str, tied: bool) -> None:
    problem = CHECK_VALUES[name][0]
    result = fit(problem, starts=8, seed=0, tied=tied)
    assert result.value == pytest.approx(problem.optimum().value, rel=1e-12)
    assert result.status == "done"
    assert result.converged
    assert result.gradient_norm < 1e-8
    assert result.success_fraction >= 1 / 8
    assert result.dead_directions == 0
    expected = by_formula(problem, result.features, result.weights, result.bias)
    assert result.value == pytest.approx(float(expected), rel=1e-12)


@given(closed_form_problems(deepest=2))
@settings(max_examples=cases(30), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_lbfgs_reaches_every_closed_form_and_never_passes_below(problem: Problem) -> None:
    result = fit(problem, starts=8, seed=1, tied=True)
    assert result.gap is not None
    assert -1e-12 * problem.optimum().value <= result.gap <= 1e-8 * problem.optimum().value


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(3, 5, 4, weight_decay=(1e-3,) * 3, feature_decay=1e-3),
        Problem(3, 5, 4, weight_decay=(1e-3,) * 4, feature_decay=2e-3, bias="free"),
        Problem(3, [9, 6, 4], 4, weight_decay=(1e-3, 2e-3), feature_decay=1e-3),
        Problem(2, 5, 6, weight_decay=(1e-3,) * 4, feature_decay=1e-3, activation="relu"),
        Problem(2, 5, 6, weight_decay=(1e-3,) * 3, feature_decay=1e-3, activation="relu", nonnegative=True),
        Problem(3, [9, 6, 4], 6, weight_decay=(1e-3, 2e-3), feature_decay=1e-3, nonnegative=True),
    ],
    ids=["linear", "free bias", "imbalanced", "relu", "non-negative relu", "non-negative imbalanced"],
)
def test_lbfgs_reaches_deep_optima_from_some_of_many_starts(problem: Problem) -> None:
    result = fit(problem, starts=32, seed=0, tied=True)
    assert result.value == pytest.approx(problem.optimum().value, rel=1e-8)
    assert result.success_fraction >= 1 / 32


THRESHOLDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "narrow": {"dim": 2},
    "free bias": {"bias": "free"},
    "penalised bias": {"bias": 0.3},
    "imbalanced": {"samples": (5, 3, 3, 1)},
    "deep imbalanced": {"samples": (5, 3, 3, 1), "weight_decay": (0.1, 0.1)},
    "deep": {"weight_decay": (0.1, 0.2, 0.1)},
    "deep with bias": {"weight_decay": (0.1, 0.2), "bias": "free"},
    "deep with penalised bias": {"weight_decay": (0.1, 0.2), "bias": 0.3},
    "relu": {"weight_decay": (0.1, 0.2), "activation": "relu", "classes": 3},
    "rescaled": {"rescale": (3.0, 2.0)},
    "frozen": {"classifier": "etf", "weight_decay": 0.1},
    "deep frozen": {"classifier": "etf", "weight_decay": (0.1, 0.2), "bias": 0.1},
    "ce": {"loss": "ce"},
    "label smoothing": {"loss": "label_smoothing", "smoothing": 0.2},
    "focal": {"loss": "focal", "gamma": 2.0},
    "steep focal": {"loss": "focal", "gamma": 10.0},
    "frozen ce": {"loss": "ce", "classifier": "etf", "weight_decay": 0.1},
    "frozen focal": {"loss": "focal", "gamma": 3.0, "classifier": "etf", "weight_decay": 0.1},
    "pick-all": {"loss": "pick_all_labels", "samples": {1: 2, 2: 1, 3: 1}},
    "pick-all normalised": {"loss": "pick_all_labels_normalized", "samples": {1: 2, 3: 1}},
    "non-negative": {"nonnegative": True},
    "non-negative with bias": {"nonnegative": True, "bias": "free"},
    "non-negative with penalised bias": {"nonnegative": True, "bias": 0.3},
    "non-negative ce": {"nonnegative": True, "loss": "ce", "bias": 0.3},
    "non-negative label smoothing": {"nonnegative": True, "loss": "label_smoothing", "smoothing": 0.2},
    "non-negative ce, imbalanced": {"nonnegative": True, "loss": "ce", "samples": (6, 4, 3, 3), "dim": 8},
}


@pytest.mark.every(3)
@pytest.mark.parametrize("factor", [0.9, 1.1])
@pytest.mark.parametrize("name", THRESHOLDS)
def test_fit_agrees_on_both_sides_of_every_threshold(name: str, factor: float) -> None:
    base = Problem(**{"classes": 4, "samples": 3, "dim": 5, "weight_decay": 0.1} | THRESHOLDS[name])
    scale = factor * base.optimum().zero_threshold
    problem = replace(
        base, feature_decay=scale * base.decays[0], weight_decay=tuple(scale * decay for decay in base.decays[1:])
    )
    result, optimum = fit(problem, starts=32 if name == "relu" else 8, tied=True), problem.optimum()
    assert optimum.is_zero == (factor > 1)
    assert not result.missed
    assert result.value >= optimum.value * (1 - 1e-12)
    if factor > 1:
        assert float(result.features.norm()) < 1e-3
        assert result.dead_directions == problem.classes - centred_fit(problem)
    else:
        assert result.dead_directions < problem.classes - centred_fit(problem)


@pytest.mark.parametrize("factor", [0.8, 1.25])
@pytest.mark.parametrize(
    "fields", [{"weight_decay": 0.1}, {"weight_decay": (0.1, 0.1)}, {"weight_decay": 0.1, "loss": "ce"}]
)
def test_lbfgs_on_both_sides_of_the_zero_threshold(fields: dict[str, Any], factor: float) -> None:
    depth = 2 if isinstance(fields["weight_decay"], tuple) else 1
    threshold = 1 / (16 * 5 * 0.1) if depth == 1 else 1 / (16 * 64 * 5 * 0.01)
    problem = Problem(classes=4, samples=5, dim=6, feature_decay=factor * threshold, **fields)
    result = fit(problem, starts=4, seed=0, init_scale=0.1 if factor > 1 else 1.0)
    assert result.value == pytest.approx(problem.optimum().value, rel=1e-8)
    assert problem.optimum().is_zero == (factor > 1)
    if factor > 1:
        assert float(result.features.norm()) < 1e-4
        assert result.dead_directions == 4 - (problem.loss == "ce")


def test_tied_features_lose_nothing_without_a_closed_form() -> None:
    problem = Problem(3, [6, 3, 2], 4, loss="ce", weight_decay=0.01, feature_decay=0.005, bias=0.1)
    free, tied = fit(problem, starts=4), fit(problem, starts=4, tied=True)
    assert free.optimum is None
    assert free.gap is None
    assert free.success_fraction > 0
    assert tied.value == pytest.approx(free.value, rel=1e-11)


@given(nonnegative_problems(spare=2))
@settings(max_examples=cases(15), deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
def test_fits_of_nonnegative_features_reach_the_closed_form(problem: Problem) -> None:
    result = fit(problem, starts=8, seed=2)
    assert float(result.features.min()) >= 0
    assert result.gap is not None
    assert -1e-12 * result.value <= result.gap <= 1e-8 * result.value
    assert result.converged
    assert result.value == pytest.approx(result.minimiser.value(), rel=1e-14)


NO_THEOREM: dict[str, dict[str, Any]] = {
    "focal": {"loss": "focal", "gamma": 2.0},
    "several labels": {"loss": "pick_all_labels", "samples": {1: 2, 2: 1}},
    "frozen": {"classifier": "etf", "weight_decay": None},
    "narrow with bias": {"bias": "free", "dim": 3},
    "imbalanced ce": {"loss": "ce", "samples": (5, 3, 2, 2), "bias": "free"},
    "deep linear with bias": {"weight_decay": (5e-3, 5e-3), "bias": "free"},
}


@pytest.mark.parametrize("name", NO_THEOREM)
def test_nonnegative_features_are_fitted_where_there_is_no_closed_form(name: str) -> None:
    """The constraint costs something, or nothing; and one feature vector a class loses nothing."""
    problem = Problem(
        **{"classes": 4, "samples": 3, "dim": 8, "weight_decay": 5e-3, "nonnegative": True} | NO_THEOREM[name]
    )
    free, tied = fit(problem, starts=16), fit(problem, starts=16, tied=True)
    assert free.optimum is None
    assert tied.converged
    assert float(free.features.min()) >= 0
    assert tied.value == pytest.approx(free.value, rel=1e-8)
    assert free.value >= fit(replace(problem, nonnegative=False), starts=16, tied=True).value * (1 - 1e-9)


def test_descent_on_nonnegative_features_is_projected_and_reaches_the_optimum() -> None:
    problem = Problem(3, 2, 5, weight_decay=0.05, feature_decay=0.05, bias=0.1, nonnegative=True)
    start, ends = fit(problem, "gradient_descent", steps=1, points=2, seed=1), problem.num_samples * 5
    first = fit(problem, "gradient_descent", steps=20, points=2, seed=1, step_size=0.3)
    x = torch.from_numpy(np.random.default_rng([1, 0]).standard_normal(len(start.minimiser.pack())))
    x[:ends] = x[:ends].abs()
    for _ in range(20):
        leaf = x.clone().requires_grad_()
        formula_at(problem, leaf).backward()
        x = x - 0.3 * leaf.grad
        x[:ends] = x[:ends].relu()
    torch.testing.assert_close(first.minimiser.pack(), x, rtol=1e-11, atol=1e-13)
    assert 0 < float((x[:ends] == 0).sum()) < ends
    last = fit(problem, "gradient_descent", steps=20_000, points=3, seed=1, momentum=0.9)
    assert not last.missed
    assert last.gradient_norm < 1e-9


def test_partial_success_counts_starts_at_the_best_value() -> None:
    problem = CHECK_VALUES["relu"][0]
    together = fit(problem, starts=8, seed=0)
    assert 0 < together.success_fraction < 1
    stuck = fit(problem, starts=1, seed=next(s for s in range(20) if fit(problem, starts=1, seed=s).gap > 1e-6))
    assert stuck.success_fraction == 0


def test_gradient_descent_is_gradient_descent() -> None:
    problem = Problem(3, 4, 5, weight_decay=(0.02, 0.03), feature_decay=0.01, activation="relu", bias=0.1)
    first, third = (fit(problem, "gradient_descent", seed=3, steps=steps, points=2) for steps in (1, 3))
    leaves = [first.features, *first.weights, first.bias]
    for _ in range(2):
        for leaf in leaves:
            leaf.requires_grad_().grad = None
        by_formula(problem, leaves[0], leaves[1:-1], leaves[-1]).backward()
        leaves = [(leaf - 0.1 * leaf.grad).detach() for leaf in leaves]
    for found, expected in zip([third.features, *third.weights, third.bias], leaves):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


def test_gradient_descent_converges_with_an_honest_history() -> None:
    problem = Problem(3, 4, 5, weight_decay=0.02, feature_decay=0.02)
    result = fit(problem, "gradient_descent", steps=6000, points=12, step_size=0.2, seed=0)
    assert result.gap is not None
    assert 0 <= result.gap < 1e-8 * result.value
    assert result.converged
    assert result.history.iterations == [*log_spaced(12, 6000)]
    assert result.history.value[-1] == result.value
    assert all(a >= b for a, b in zip(result.history.value[1:], result.history.value[2:]))
    assert result.history.gradient_norm[-1] == result.gradient_norm < 1e-4 < result.history.gradient_norm[0]


def same(a: Result, b: Result) -> bool:
    """Equal bit for bit."""
    pairs = zip([a.features, *a.weights], [b.features, *b.weights], strict=True)
    return a.value == b.value and a.history == b.history and all(torch.equal(x, y) for x, y in pairs)


@pytest.mark.parametrize(("solver", "options"), [("lbfgs", {"starts": 2}), ("gradient_descent", DESCENT)])
def test_a_fit_depends_on_its_problem_and_seed_alone(solver: str, options: dict[str, Any]) -> None:
    other_shape = Problem(4, 3, 6, loss="ce", weight_decay=0.01, feature_decay=0.01, bias="free")
    problems = [BATCH[0], other_shape, BATCH[1], BATCH[2]]
    batch = fit(problems, solver, seed=[5, 6, 7, 8], **options)
    alone = [fit(p, solver, seed=s, **options) for p, s in zip(problems, (5, 6, 7, 8))]
    assert [r.problem for r in batch] == problems
    assert all(same(a, b) for a, b in zip(batch, alone))
    assert not same(batch[0], fit(problems[0], solver, seed=9, **options))


def test_a_fit_does_not_depend_on_the_number_of_threads() -> None:
    problem = Problem(4, 100, 40, loss="ce", weight_decay=0.01, feature_decay=0.001)  # enough to be shared out
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = fit(problem, starts=1, max_iterations=20)
        torch.set_num_threads(2)
        two = fit([problem, replace(problem, feature_decay=0.002)], starts=1, max_iterations=20)[0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert same(one, two)


def test_divergence_stays_with_its_problem() -> None:
    wild = replace(BATCH[0], feature_decay=50.0)
    batch = fit([BATCH[0], wild, BATCH[1]], "gradient_descent", seed=0, **DESCENT)
    assert [r.status for r in batch] == ["done", "diverged", "done"]
    assert same(batch[2], fit(BATCH[1], "gradient_descent", seed=0, **DESCENT))
    lost = batch[1]
    assert lost.value != lost.value
    assert not lost.converged
    assert lost.success_fraction == 0
    assert lost.history.iterations[0] == 0
    assert lost.iterations == lost.history.iterations[-1] < 300
    assert lost.trace().times == lost.history.iterations
    assert torch.isfinite(lost.features).all()


@pytest.mark.parametrize(
    ("fields", "layers"),
    [
        ({"weight_decay": 0.01, "bias": "free"}, ("features",)),
        ({"weight_decay": (0.01, 0.01)}, ("H1", "features")),
        ({"weight_decay": (0.01, 0.01), "activation": "relu"}, ("H1", "W1H1", "features")),
    ],
)
def test_trace_holds_every_layer_over_time(fields: dict[str, Any], layers: tuple[str, ...]) -> None:
    problem = Problem(3, 4, 5, feature_decay=0.01, **fields)
    result = fit(problem, "gradient_descent", seed=0, **DESCENT)
    trace = result.trace()
    assert trace.layers == layers
    assert trace.times == result.history.iterations
    assert set(trace.statistics) == {Moment(t, layer) for t in trace.times for layer in layers}
    last = trace.times[-1]
    assert trace.scalars[last, "train"]["loss"] < result.value < trace.scalars[0, "train"]["loss"]
    hidden = result.features
    for weight in result.weights[:-1]:
        hidden = hidden @ weight.T
    hidden = hidden.relu() if problem.activation == "relu" else hidden
    labels = torch.arange(3).repeat_interleave(4)
    expected = layer_statistics(hidden, labels, 3, weight=result.weights[-1], bias=result.bias).tensors()
    for name, value in trace.statistics[Moment(last, "features")].tensors().items():
        torch.testing.assert_close(value, expected[name])
    assert trace.statistics[Moment(last, layers[0])].scatter.min() > 0
    assert set(trace.weights) == {(t, "H1") for t in trace.times if len(layers) > 1}
    for _, name in trace.weights:
        assert torch.equal(trace.weights[last, name], result.weights[0])


def test_weights_of_a_deep_model_stand_at_the_features_they_read() -> None:
    problem = Problem(3, 4, (5, 4, 6), weight_decay=(0.01, 0.01, 0.01), feature_decay=0.01, activation="relu")
    result = fit(problem, "gradient_descent", seed=0, **DESCENT)
    trace, last = result.trace(), result.trace().times[-1]
    assert {name for time, name in trace.weights if time == last} == {"H1", "H2"}
    rows = {(row["layer"], row["metric"]): row["value"] for row in collapse_rows("ufm", "run", trace)}
    for name, weight in zip(("H1", "H2"), result.weights, strict=False):
        means = trace.statistics[Moment(last, name)].means
        assert rows[name, "nc3_rows"] == pytest.approx(nc3_rows(weight, means), rel=1e-12)
        assert rows[name, "subspace_alignment"] == pytest.approx(subspace_alignment(weight, means), rel=1e-12)
    assert ("W1H1", "nc3_rows") not in rows
    assert ("features", "nc3_rows") in rows


@pytest.mark.parametrize("bias", ["none", "free", 0.2])
@pytest.mark.parametrize("depth", [1, 2])
def test_parts_of_the_squared_error_sum_to_the_penalised_loss(bias: Any, depth: int) -> None:
    problem = Problem(3, 9, 5, weight_decay=(0.02,) * depth, feature_decay=0.01, bias=bias)
    trace = fit(problem, "gradient_descent", seed=0, **DESCENT).trace()
    for time in trace.times:
        scalars = trace.scalars[time, "train"]
        weight, offset = trace.heads[time]
        penalty = 0.02 * weight.square().sum() / 2
        if offset is not None and bias != "free":
            penalty += bias * offset.square().sum() / 2
        assert scalars["loss_penalised"] == pytest.approx(scalars["loss"] + float(penalty), rel=1e-13)
        parts = scalars["loss_nc1"] + scalars["loss_nc23"] + scalars["loss_perp"]
        assert parts == pytest.approx(scalars["loss_penalised"], rel=1e-10)
        assert 0 < scalars["snr_min"] < scalars["snr_max"]


def test_signal_to_noise_without_noise_has_a_reason() -> None:
    trace = fit(Problem(3, 4, 5, weight_decay=0.01, feature_decay=0.01), "construction").trace()
    (row,) = (row for row in collapse_rows("ufm", "run", trace) if row["metric"] == "snr_min")
    assert math.isnan(row["value"])
    assert row["reason"] == trace.reasons[0, "train"]["snr_min"]
    assert "no scatter within the classes" in row["reason"]


@pytest.mark.parametrize("seed", range(4))
def test_no_fit_goes_below_the_best_known_value_with_a_penalised_bias(seed: int) -> None:
    """Deep or narrow, where it is not proven: around the threshold at which the ones direction dies."""
    rng = np.random.default_rng(seed)
    classes, depth = int(rng.integers(2, 5)), int(rng.integers(2, 4))
    width, penalty = int(rng.integers(1, classes + 2)), float(10 ** rng.uniform(-1, 1))
    base = Problem(classes, 2, width, weight_decay=(0.01,) * depth, feature_decay=0.01, bias=penalty)
    scale = base.optimum().zero_threshold * penalty / (1 + penalty)
    problems = [
        replace(base, feature_decay=decay, weight_decay=(decay,) * depth)
        for decay in (0.01 * scale * factor for factor in (0.9, 0.99, 1.01, 1.1))
    ]
    for problem, result in zip(problems, fit(problems, starts=12, tied=True)):
        assert not problem.optimum().is_global
        assert result.value >= problem.optimum().value * (1 - 1e-12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"init_scale": "big"}, "^init_scale: got 'big'"),
        ({"init_scale": None}, "^init_scale: got None"),
        ({"init_scale": float("nan")}, "^init_scale: got nan"),
        ({"starts": 2.5}, "^starts: got 2.5; needs an integer, at least 1"),
        ({"max_iterations": 0}, "^max_iterations: got 0"),
        ({"solver": "gradient_descent", "step_size": None}, "^step_size: got None"),
        ({"solver": "gradient_descent", "momentum": "much"}, "^momentum: got 'much'"),
        ({"solver": "gradient_flow", "steps": 0}, "^steps: got 0"),
        ({"seed": -1}, "^seed: got -1"),
        ({"seed": 1.5}, "^seed: got 1.5"),
        ({"device": "nowhere"}, "^device: got 'nowhere'"),
        ({"solver": "adam"}, "solver: got 'adam'; needs one of central_path, construction, gradient_descent"),
        ({"solver": "lbfgs", "steps": 10}, "no option 'steps'"),
        ({"starts": 0}, "starts: got 0"),
        ({"solver": "gradient_descent", "points": 1}, "points: got 1"),
        ({"solver": "gradient_descent", "step_size": -0.1}, "step_size: got -0.1"),
        ({"solver": "gradient_descent", "momentum": 1.0}, r"momentum: got 1.0; needs a number in \[0, 1\)"),
        ({"solver": "construction", "steps": 5}, "no option 'steps'; it has none"),
        ({"tied": 1}, "tied: got 1; needs True or False"),
        ({"starts": True}, "starts: got True; needs an integer, at least 1"),
        ({"init_scale": "1"}, "init_scale: got '1'; needs a finite number > 0"),
        ({"seed": [1, 2]}, "seed: got 2 for 1 problems"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit(BATCH[0], **arguments)
