"""Solvers one by one: gradient flow, descent with momentum and on spheres, L-BFGS on spheres, the construction."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_ufm_objective import formula_at
from torch import Tensor

from ncpipe.ufm import Minimiser, NoClosedForm, Problem, Result, fit
from ncpipe.ufm.layout import Layout
from ncpipe.ufm.objective import Objective
from ncpipe.ufm.solvers import _base, lbfgs
from ncpipe.ufm.solvers.gradient_flow import aligned_flow

FLOWS: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 0.02},
    "narrow": {"weight_decay": 0.02, "dim": 2},
    "free bias": {"weight_decay": 0.02, "bias": "free"},
    "penalised bias": {"weight_decay": (0.02, 0.03), "bias": 0.2},
    "imbalanced": {"weight_decay": (0.02, 0.01), "samples": (5, 3, 1)},
    "deep": {"weight_decay": (0.02, 0.01, 0.03), "dim": (3, 5, 4)},
    "deep relu": {"weight_decay": (0.02, 0.01, 0.03), "activation": "relu"},
    "frozen": {"classifier": "etf", "bias": "free"},
    "deep frozen": {"classifier": "etf", "weight_decay": (0.02, 0.01), "dim": (2, 4, 3)},
}


def flow_problem(name: str) -> Problem:
    return Problem(**{"classes": 3, "samples": 4, "dim": 4, "feature_decay": 0.05} | FLOWS[name])


def gradient(problem: Problem, vector: Tensor) -> Tensor:
    """Of the objective as it is written, by autograd."""
    leaf = vector.clone().requires_grad_()
    return torch.autograd.grad(formula_at(problem, leaf), leaf)[0]


def untied(point: Minimiser) -> Tensor:
    return Minimiser(point.problem, point.features, point.weights, point.bias, tied=False).pack()


@pytest.mark.parametrize("name", FLOWS)
def test_flow_is_that_of_all_parameters(name: str) -> None:
    """Runge-Kutta steps of features of all samples, weights and bias, by autograd."""
    problem, time, steps = flow_problem(name), 6.0, 60
    start, middle, end = aligned_flow(problem, [0.0, 1.0, time], 0.7)
    x, h = untied(start), time / steps
    for step in range(1, steps + 1):
        k1 = -gradient(problem, x)
        k2 = -gradient(problem, x + h / 2 * k1)
        k3 = -gradient(problem, x + h / 2 * k2)
        k4 = -gradient(problem, x + h * k3)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        if step == steps // 6:
            torch.testing.assert_close(untied(middle), x, rtol=0, atol=1e-6)
    assert float((x - untied(start)).norm()) > 0.1
    torch.testing.assert_close(untied(end), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("init_scale", [0.01, 0.3, 3.0])
def test_flow_of_equal_penalties_is_the_logistic_function(init_scale: float) -> None:
    problem = Problem(4, 5, 6, weight_decay=2e-3, feature_decay=2e-3)
    result = fit(problem, "gradient_flow", steps=4000, step_size=0.1, init_scale=init_scale, points=12)
    capacity, rate = math.sqrt(5) - 20 * 2e-3, 2 * (math.sqrt(5) / 20 - 2e-3)
    trace = result.trace()
    assert trace.times == result.history.iterations
    for iteration, value in zip(result.history.iterations, result.history.value, strict=True):
        growth = (capacity / init_scale**2 - 1) * math.exp(-rate * 0.1 * iteration)
        gain = capacity / (1 + growth)  # of features times weights, in each of 4 directions
        expected = 4 / 40 * (gain - math.sqrt(5)) ** 2 + 4 * 2e-3 * gain
        assert value == pytest.approx(expected, rel=1e-9)
    assert float(result.features.square().sum()) == pytest.approx(4 * gain, rel=1e-9)
    assert float(result.weights[0].square().sum()) == pytest.approx(4 * gain, rel=1e-9)


def test_flow_is_the_limit_of_gradient_descent() -> None:
    problem = Problem(3, 4, 5, weight_decay=(0.02, 0.03), feature_decay=0.01)
    start = untied(aligned_flow(problem, [0.0], 0.5)[0])
    end = fit(problem, "gradient_flow", steps=100, step_size=0.1, init_scale=0.5).features
    errors = []
    for steps in (100, 200):
        x = start
        for _ in range(steps):
            x = x - 10 / steps * gradient(problem, x)
        errors.append(float((Minimiser.unpack(problem, x).features - end).norm()))
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[0] < 0.05


@pytest.mark.parametrize("name", [name for name in FLOWS if name not in ("penalised bias", "deep relu")])
def test_flow_ends_at_the_optimum(name: str) -> None:
    result = fit(flow_problem(name), "gradient_flow", steps=20_000, points=5)
    assert result.status == "done"
    assert not result.missed
    assert result.stop == "at time 2000"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"loss": "ce"}, "squared error alone"),
        ({"rescale": (2, 1)}, "squared error alone"),
        ({"samples": (1, 2, 3), "bias": "free"}, "different size"),
        ({"weight_decay": (1e-2, 1e-2), "activation": "relu", "bias": 0.1}, "behind a ReLU"),
        ({"loss": "ce", "temperature": 2}, "squared error alone"),
        ({"nonnegative": True}, "constrained to be non-negative"),
    ],
)
def test_flow_says_what_it_does_not_cover(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^solver 'gradient_flow': .*{reason}"):
        fit(Problem(**{"classes": 3, "samples": 4, "dim": 4} | fields), "gradient_flow", steps=10)


def parameters(result: Result) -> Tensor:
    return result.minimiser.pack()


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("name", ["deep relu", "deep frozen", "penalised bias"])
def test_momentum_is_the_heavy_ball(name: str, momentum: float) -> None:
    problem, options = flow_problem(name), {"seed": 3, "points": 2, "momentum": momentum, "init_scale": 0.8}
    first, last = (fit(problem, "gradient_descent", steps=steps, **options) for steps in (1, 7))
    before = torch.from_numpy(_base.draw(len(parameters(first)), 3, 0)) * 0.8
    x, velocity = before, torch.zeros_like(before)
    for step in range(1, 8):
        velocity = momentum * velocity + gradient(problem, x)
        x = x - 0.1 * velocity
        if step == 1:
            torch.testing.assert_close(parameters(first), x, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(parameters(last), x, rtol=1e-12, atol=1e-13)


def test_recording_does_not_change_the_path() -> None:
    for problem in (flow_problem("deep relu"), Problem(3, 4, 5, loss="ce", temperature=3.0)):
        options = {"steps": 60, "momentum": 0.9, "init_scale": 0.5}
        often, seldom = (fit(problem, "gradient_descent", points=points, **options) for points in (40, 2))
        assert torch.equal(parameters(often), parameters(seldom))
        assert often.value == seldom.value


@pytest.mark.parametrize("frozen", [False, True])
def test_descent_on_spheres_steps_along_the_gradient_and_normalises(frozen: bool) -> None:
    problem = Problem(3, 4, 5, loss="ce", temperature=3.0, classifier="etf" if frozen else "free")
    results = [fit(problem, "gradient_descent", seed=2, steps=steps, step_size=0.2, points=2) for steps in (1, 6)]
    features, weight = results[0].features, results[0].weights[0]
    labels = torch.arange(3).repeat_interleave(4)
    for _ in range(5):
        h, w = features.clone().requires_grad_(), weight.clone().requires_grad_()
        loss = torch.nn.functional.cross_entropy(3.0 * h @ w.T, labels)
        in_h, in_w = torch.autograd.grad(loss, [h, w])
        in_h = in_h - (in_h * features).sum(dim=1, keepdim=True) * features
        in_w = in_w - (in_w * weight).sum(dim=1, keepdim=True) * weight
        features = torch.nn.functional.normalize(features - 0.2 * 12 * in_h)
        weight = weight if frozen else torch.nn.functional.normalize(weight - 0.2 * 3 * in_w)
    torch.testing.assert_close(results[1].features, features, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(results[1].weights[0], weight, rtol=1e-12, atol=1e-13)
    slope = Objective.of([problem]).evaluate(parameters(results[1])[None])[1]
    assert results[1].gradient_norm == pytest.approx(float(slope.norm()), rel=1e-9)


def test_descent_on_spheres_reaches_the_simplex() -> None:
    result = fit(
        Problem(4, 5, 6, loss="ce", temperature=4.0), "gradient_descent", steps=3000, step_size=0.1, points=5
    )
    assert not result.missed
    assert result.converged
    gram = (4 * torch.eye(4, dtype=torch.float64) - 1) / 3
    means = result.minimiser.class_features()
    torch.testing.assert_close(means @ means.T, gram, rtol=0, atol=1e-4)
    torch.testing.assert_close(result.weights[0], means, rtol=0, atol=1e-4)


@pytest.mark.every(3)
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("temperature", [1.0, 5.0, 20.0, 40.0])
def test_lbfgs_on_spheres_reaches_the_floor(temperature: float, classes: int, wide: bool) -> None:
    dim = classes + 2 if wide else max(2, classes - 1)
    problem = Problem(classes, 3, dim, loss="ce", temperature=temperature)
    result = fit(problem, starts=4)
    floor = math.log1p((classes - 1) * math.exp(-temperature * classes / (classes - 1)))
    assert result.value == pytest.approx(floor, rel=1e-11, abs=0)
    assert not result.missed
    norms = torch.cat([result.features, *result.weights]).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    tied = fit(problem, starts=4, tied=True)
    assert tied.value == pytest.approx(floor, rel=1e-11, abs=0)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(4, 5, (6, 5), weight_decay=(1e-3, 2e-3), bias="free"),
        Problem(3, (5, 3, 1), 2, weight_decay=(1e-3, 2e-3)),
        Problem(4, {1: 3, 2: 1}, 6, "pick_all_labels"),
        Problem(4, 5, 3, loss="ce", temperature=3.0),
        Problem(4, 5, 3, classifier="etf", bias=0.1),
        Problem(4, 5, 3, weight_decay=1.0, feature_decay=1.0),
    ],
    ids=["bias", "narrow", "labels", "spheres", "frozen", "zero"],
)
def test_construction_is_a_fit(problem: Problem) -> None:
    result = fit(problem, "construction")
    assert result.value == pytest.approx(problem.optimum().value, rel=1e-12)
    assert result.status == "done"
    assert result.converged
    assert not result.missed
    assert result.gradient_norm < 1e-12
    assert result.history.iterations == [0]
    assert result.message.startswith("reached the optimum")
    assert result.message.endswith("constructed")
    assert torch.equal(result.features, problem.construct().features)


def test_construction_without_closed_form_says_why() -> None:
    with pytest.raises(NoClosedForm, match="extended model with cross entropy"):
        fit(Problem(3, 2, 4, "ce", weight_decay=(0.1, 0.1)), "construction")


def test_points_of_code_may_be_more_than_those_of_a_config() -> None:
    result = fit(Problem(3, 4, 5), "gradient_descent", steps=1001, points=10**5)
    assert result.history.iterations == [*range(1002)]


# --- what a fit depends on ---------------------------------------------------------------------------


def same(a: Result, b: Result) -> bool:
    """Equal bit for bit."""
    return a.value == b.value and a.history == b.history and torch.equal(parameters(a), parameters(b))


def test_a_stopped_problem_does_not_move_while_others_go_on() -> None:
    easy, hard = Problem(3, 4, 5, weight_decay=0.02, feature_decay=0.02), Problem(3, 4, 5, weight_decay=1e-6)
    first, second = fit([easy, hard, easy], starts=1, seed=[0, 0, 1])[:2]
    assert first.iterations < second.iterations
    assert same(first, fit(easy, starts=1, seed=0))


# --- how it ended ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_zero_is_found_beyond_the_threshold_of_deep_models(depth: int, activation: Any) -> None:
    below = Problem(2, 5, 4, weight_decay=(0.01,) * depth, feature_decay=0.01, activation=activation)
    decay = 0.01 * below.optimum().zero_threshold * 1.02
    beyond = replace(below, weight_decay=(decay,) * depth, feature_decay=decay)
    result = fit(beyond, starts=4)
    assert result.gap == 0
    assert result.starts == 4
    assert float(result.features.norm()) < 1e-6
    assert not result.missed
    assert result.message.startswith("reached the optimum 0.5")
    assert result.dead_directions == 2


def test_used_up_iterations_are_told() -> None:
    result = fit(Problem(3, 4, 5, weight_decay=0.01), max_iterations=3)
    assert result.iterations == 3
    assert result.stop == "not converged within max_iterations=3"
    assert result.missed
    assert not result.converged
    assert result.message.startswith("missed the optimum 0.0")
    assert result.message.endswith("0% of 8 starts; not converged within max_iterations=3")


def test_a_small_gap_is_a_miss() -> None:
    problem = Problem(3, 4, 5, weight_decay=0.02, feature_decay=0.02)
    gaps = {}
    for steps in (600, 900, 1200, 1800, 6000):
        result = fit(problem, "gradient_descent", steps=steps, points=2, step_size=0.2)
        gaps[result.gap / problem.optimum().value] = result.missed
    assert any(1e-8 < gap < 1e-3 for gap in gaps)
    assert all(missed == (gap > 1e-8) for gap, missed in gaps.items())
    assert not all(gaps.values())


def test_short_descent_is_told() -> None:
    result = fit(Problem(3, 4, 5, weight_decay=0.01), "gradient_descent", steps=20, points=2)
    assert result.missed
    assert result.message.startswith("missed the optimum")
    assert result.message.endswith("after 20 steps")


@pytest.mark.parametrize("temperature", [None, 3.0])
def test_divergence_is_told(temperature: float | None) -> None:
    if temperature is not None:  # on spheres any step ends on them
        result = fit(Problem(3, 4, 5, "ce", temperature=3.0), "gradient_descent", steps=50, step_size=1e6, points=5)
        assert result.status == "done"
        assert math.isfinite(result.value)
        return
    result = fit(Problem(3, 4, 5, weight_decay=0.01), "gradient_descent", steps=500, step_size=20.0, points=10)
    assert result.status == "diverged"
    assert result.missed
    assert not result.converged
    assert result.message.startswith("diverged: not finite by iteration")
    assert "\n" not in result.message


@pytest.mark.parametrize("solver", ["lbfgs", "gradient_descent", "gradient_flow"])
@pytest.mark.parametrize("init_scale", [1e30, 1e200])
def test_overflow_at_the_start_ends_with_a_word(solver: str, init_scale: float) -> None:
    options: dict[str, Any] = {"starts": 2} if solver == "lbfgs" else {"steps": 10, "points": 3}
    try:
        result = fit(Problem(3, 4, 5, weight_decay=0.01), solver, init_scale=init_scale, **options)
    except ValueError as error:
        assert "init_scale" in str(error)  # noqa: PT017 - either is right
    else:
        assert result.missed
        assert "\n" not in result.message


def test_below_an_upper_bound_is_told() -> None:
    problem = Problem(3, 1, 6, weight_decay=(5e-3,) * 5, feature_decay=5e-3, activation="relu")
    result = fit(problem, starts=16, tied=True, max_iterations=300, seed=0)
    assert not problem.optimum().is_global
    assert result.gap is not None
    assert result.gap < -1e-3
    assert not result.missed
    assert "below the value of theory by 0.00" in result.message
    assert 0 < result.success_fraction <= 1


@pytest.mark.parametrize("depth", [2, 3, 4, 5])
def test_binary_relu_of_differing_widths_reaches_the_optimum(depth: int) -> None:
    widths = (6, 4, 7, 3, 5)[:depth]
    problem = Problem(2, 3, widths, weight_decay=(1e-3,) * depth, feature_decay=1e-3, activation="relu")
    result = fit(problem, starts=24, tied=True, max_iterations=500)
    assert not result.missed
    assert result.gap is not None
    assert result.gap > -1e-12
    assert result.dead_directions == 0
    assert f"{result.success_fraction:.0%} of 24 starts" in result.message
    for name, gram in problem.optimum().grams().items():
        means = result.minimiser.layers()[name][::3]
        torch.testing.assert_close(means @ means.T, gram, rtol=0, atol=1e-4)


def test_dead_directions_are_told() -> None:
    problem = Problem(3, 4, 5, weight_decay=(0.035, 0.035), feature_decay=0.035)
    ends = fit([problem] * 20, starts=1, init_scale=0.3, seed=range(20))
    dead = [result for result in ends if 0 < result.dead_directions < 3]
    assert dead
    live = 3 - dead[0].dead_directions
    cost = problem.optimum().value  # of a live direction, times K; a dead one costs 1/2
    assert dead[0].value == pytest.approx((live * cost + (3 - live) / 2) / 3, rel=1e-8)
    assert f", {dead[0].dead_directions} dead direction" in dead[0].message


def test_tag_averages_of_several_labels() -> None:
    problem = Problem(4, {1: 3, 2: 2, 3: 1}, 6, "pick_all_labels", weight_decay=5e-3)
    optimum = problem.optimum()
    for result in (fit(problem, "construction"), fit(problem, starts=4)):
        point, width = result.minimiser, problem.widths[0]
        assert point.features.shape == (sum(problem.counts), width)
        trace = result.trace()
        scalars = trace.scalars[trace.times[-1], "train"]
        assert scalars["tagwise_angle"] == pytest.approx(0, abs=1e-5)
        means = point.class_features()
        start = 12
        for tags, count in zip(problem.tag_sets[4:], problem.counts[4:]):
            rows = point.features[start : start + count]
            start += count
            ratio = optimum.margins[len(tags)] / optimum.margins[1]
            together = (ratio * means[list(tags)].sum(dim=0)).expand_as(rows)
            torch.testing.assert_close(rows, together, rtol=0, atol=1e-5)
        torch.testing.assert_close(means @ means.T, optimum.grams()["features"], rtol=0, atol=1e-5)
        assert set(scalars) >= {"loss", "tagwise_angle", "tagwise_scale"}
        assert scalars["loss"] == pytest.approx(point.loss())
    assert Layout.of(problem).num_columns == sum(problem.counts)


def test_tagwise_scale_is_the_ratio_of_margins() -> None:
    problem = Problem(4, {1: 3, 2: 1}, 6, "pick_all_labels", weight_decay=5e-3, feature_decay=1e-3)
    scalars = fit(problem, "construction").trace().scalars[0, "train"]
    assert scalars["tagwise_scale"] == pytest.approx(4.7732705367 / 5.3471234468, rel=1e-9)
    assert "tagwise_scale" not in fit(Problem(4, {1: 3}, 6, "pick_all_labels")).trace().scalars


def test_flow_of_a_narrow_model_lives_in_the_largest_classes() -> None:
    result = fit(Problem(3, (1, 3, 5), 2, weight_decay=0.01), "gradient_flow", steps=40_000, points=3)
    assert not result.missed
    assert float(result.minimiser.class_features()[0].norm()) == 0


def test_stiff_flows_end() -> None:
    result = fit(Problem(3, 4, 5, feature_decay=50.0), "gradient_flow", points=3)
    assert result.optimum is not None
    assert result.optimum.is_zero
    assert not result.missed


@pytest.mark.parametrize("bias", ["free", 5.0])
def test_flow_moves_the_mean_with_the_bias(bias: Any) -> None:
    result = fit(Problem(3, 4, 5, weight_decay=0.01, bias=bias), "gradient_flow", points=3)
    assert result.gap == pytest.approx(0, abs=1e-10)


def test_message_where_the_optimum_underflows() -> None:
    result = fit(Problem(3, 2, 3, "ce", temperature=1000), starts=2, max_iterations=50)
    assert result.optimum is not None
    assert result.optimum.value == 0
    assert "the optimum 0" in result.message


def test_starts_that_crawl_at_kinks_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds, once = [], lbfgs.lbfgs_round
    monkeypatch.setattr(lbfgs, "lbfgs_round", lambda *state: rounds.append(1) or once(*state))
    problem = Problem(4, 5, 6, weight_decay=(2e-3, 3e-3), feature_decay=1e-3, activation="relu")
    assert not fit(problem, starts=8, seed=0).missed
    assert len(rounds) < 3000  # 17,000 to the end of all starts


def test_results_are_told_in_a_line_and_are_themselves_alone() -> None:
    result = fit(Problem(3, 4, 5), starts=2)
    assert repr(result) == f"Result({result.message})"
    assert repr(result.minimiser) == "Minimiser(H1 (12, 5), W1 (3, 5))"
    assert result == result
    assert result != fit(Problem(3, 4, 5), starts=2)


@pytest.mark.parametrize("problems", [4, Problem, [Problem(3, 4, 5), None], []])
def test_what_is_no_problem_is_refused(problems: Any) -> None:
    with pytest.raises(ValueError, match=r"problems: got .*; needs a Problem"):
        fit(problems)
