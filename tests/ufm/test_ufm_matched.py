"""The matched UFM: a network that is itself a UFM minimiser gets its own penalties and predictions back."""

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch

import ncpipe
from ncpipe.collapse import layer_statistics
from ncpipe.ufm import MatchedUfm, Minimiser, Problem, fit, match
from ncpipe.ufm import matched as matched_models
from ncpipe.ufm.matched import class_nuclear_norm, gram_distance, match_statistics

Rule = Literal["plain", "input", "nuclear"]


def match_to(problem: Problem, **changes: Any) -> MatchedUfm:
    """Match a network that has the minimiser of ``problem`` as its last layers."""
    point = fit(problem, tied=True, starts=16, seed=3).minimiser
    layers = point.layers()
    settings: dict[str, Any] = {
        "kind": "plain" if problem.depth == 1 else "extended",
        "classes": problem.classes,
        "counts": problem.counts,
        "dim": problem.dim,
        "loss": problem.loss,
        "loss_scaling": "half",
        "weight_decay": problem.weight_decays[-1],
        "bias_decay": problem.bias_decay,
        "weight_norm_squared": float(point.weights[-1].square().sum()),
    }
    name, layer = ("features_norm_squared", "features") if problem.depth == 1 else ("input_norm_squared", "H1")
    norm = {name: float(layers[layer].square().sum())}
    return match(**{**settings, **norm, **changes})


def match_point(point: Minimiser, rule: Rule, **changes: Any) -> MatchedUfm:
    """Match the statistics of a network whose last layers are ``point``."""
    problem, seen = point.problem, point.statistics()
    settings: dict[str, Any] = {
        "loss": problem.loss,
        "weight_decay": problem.weight_decays[-1],
        "bias_decay": problem.bias_decay,
        "below": seen["H1"] if rule == "input" else None,
    }
    kind: Literal["plain", "extended"] = "plain" if rule == "plain" else "extended"
    return match_statistics(kind, seen["features"], point.weights[-1], point.bias, **{**settings, **changes})


def random_exact_problem(rng: np.random.Generator, depth: int) -> Problem:
    """A plain or ReLU extended problem with a closed form, far from zero; both weights pay alike."""
    classes, samples = int(rng.integers(2, 7)), int(rng.integers(1, 9))
    decays = tuple(10 ** rng.uniform(-5, -3.5, size=1)) * depth
    dim, feature_decay = classes + int(rng.integers(0, 5)), 10 ** rng.uniform(-5, -3.5)
    kind: Any = {"activation": "relu"} if depth == 2 else {"loss": str(rng.choice(["mse", "ce"]))}
    return Problem(classes, samples, dim, weight_decay=decays, feature_decay=feature_decay, **kind)


@pytest.mark.parametrize("rule", ["plain", "input", "nuclear"])
@pytest.mark.parametrize("seed", range(6))
def test_every_rule_recovers_the_penalty_of_an_exact_network(rule: Rule, seed: int) -> None:
    problem = random_exact_problem(np.random.default_rng(seed), 1 if rule == "plain" else 2)
    point = problem.construct()
    matched = match_point(point, rule)
    assert matched.problem.feature_decay == pytest.approx(problem.feature_decay, rel=1e-12)
    assert matched.problem.weight_decays == problem.weight_decays
    means = point.class_features()
    norm = math.sqrt(point.statistics()["features"].squared_norm)
    goodness = matched.goodness(means, point.weights[-1], feature_norm=norm, loss=point.loss(), stationarity=0.25)
    assert goodness.stationarity == 0.25
    for error in (goodness.means_gram, goodness.weights_gram, goodness.feature_norm, goodness.weight_norm):
        assert error == pytest.approx(0, abs=1e-12)
    assert goodness.loss == pytest.approx(0, abs=1e-10)


def test_nuclear_norm_rule_needs_nothing_of_the_layer_between() -> None:
    """Another split of the product of the two lower penalties has the same last features and classifier."""
    point = Problem(4, 5, 8, weight_decay=(1e-2, 1e-3), feature_decay=1e-5, activation="relu").construct()
    matched = match_point(point, "nuclear")
    assert math.prod(matched.problem.decays[:2]) == pytest.approx(1e-7, rel=1e-12)
    goodness = matched.goodness(point.class_features(), point.weights[-1], loss=point.loss())
    assert max(goodness.means_gram, goodness.weight_norm or 0, goodness.loss or 0) < 1e-10
    by_input = match_point(point, "input").goodness(point.class_features(), point.weights[-1], loss=point.loss())
    assert by_input.weight_norm is not None
    assert by_input.weight_norm > 0.1


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(3, 5, 8, weight_decay=(3e-3, 3e-3), feature_decay=1e-3, activation="relu", bias=0.01),
        Problem(4, [9, 5, 5, 2], 8, weight_decay=(3e-4, 3e-4), feature_decay=1e-3, activation="relu"),
        Problem(4, 5, 8, loss="ce", weight_decay=(3e-4, 3e-4), feature_decay=1e-3, activation="relu"),
    ],
)
def test_nuclear_norm_rule_on_fitted_minimisers(problem: Problem) -> None:
    point = fit(problem, tied=True, starts=16, seed=3).minimiser
    assert match_point(point, "nuclear").problem.feature_decay == pytest.approx(problem.feature_decay, rel=1e-5)


def test_nuclear_norm_of_collapsed_features_is_that_of_all_samples() -> None:
    rng = np.random.default_rng(0)
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    means = torch.from_numpy(rng.normal(size=(3, 5)))
    collapsed = layer_statistics(means[labels], labels, 3)
    assert class_nuclear_norm(collapsed) == pytest.approx(np.linalg.norm(means[labels].numpy(), "nuc"), rel=1e-12)
    spread = means[labels] + torch.from_numpy(rng.normal(size=(6, 5)))
    assert class_nuclear_norm(layer_statistics(spread, labels, 3)) < np.linalg.norm(spread.numpy(), "nuc")


def test_goodness_measures_what_is_wrong_and_nothing_else() -> None:
    problem = Problem(4, 5, 6, weight_decay=5e-3, bias="free")
    point = problem.construct()
    matched = match_point(point, "plain", loss_scaling="mean", weight_decay=2.5e-3, bias_decay=0.0)
    assert matched.problem.weight_decays == problem.weight_decays
    assert matched.problem.bias == "free"
    assert matched.problem.feature_decay == pytest.approx(problem.feature_decay, rel=1e-12)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(0)).double()).Q
    means, weight = 3 * point.class_features() @ rotation, 2 * point.weights[-1] @ rotation
    own_loss = point.loss() * 2 / 4  # MSELoss divides by K, and has no 1/2
    goodness = matched.goodness(means, weight, feature_norm=matched.feature_norm / 3, loss=own_loss * math.e)
    assert goodness.means_gram == pytest.approx(0, abs=1e-12)
    assert goodness.weights_gram == pytest.approx(0, abs=1e-12)
    assert goodness.weight_norm == pytest.approx(math.log(2))
    assert goodness.feature_norm == pytest.approx(math.log(3))
    assert goodness.loss == pytest.approx(1, rel=1e-10)
    assert matched.goodness(torch.eye(4).double()).means_gram == pytest.approx(math.sqrt(2 - 2 * math.sqrt(3 / 4)))


def test_goodness_of_another_split_takes_what_is_given() -> None:
    point = Problem(4, 5, 6, weight_decay=5e-3).construct()
    goodness = match_point(point, "plain").goodness(torch.eye(4).double(), loss=2 * point.loss())
    assert goodness.means_gram == pytest.approx(0, abs=1e-12)
    assert goodness.loss == pytest.approx(math.log(2))
    assert (goodness.weights_gram, goodness.feature_norm, goodness.weight_norm, goodness.stationarity) == (None,) * 4
    with pytest.raises(ValueError, match=r"means: got shape \(3, 6\); needs 4 rows"):
        match_point(point, "plain").goodness(point.class_features()[:3])


def test_goodness_of_a_predicted_zero() -> None:
    problem = Problem(4, 5, 6, weight_decay=5e-3)
    point = problem.construct()
    zero = match_point(point, "plain", weight_decay=10.0)
    goodness = zero.goodness(point.class_features(), point.weights[-1], feature_norm=1.0, loss=0.0)
    assert math.isnan(goodness.means_gram)
    assert (goodness.weight_norm, goodness.feature_norm, goodness.loss) == (math.inf,) * 3
    assert zero.goodness(point.class_features(), feature_norm=0.0).feature_norm == 0


def test_gram_distance_ignores_scale_and_is_undefined_at_zero() -> None:
    rng = np.random.default_rng(1)
    rows = [torch.from_numpy(rng.normal(size=(5, 3))) for _ in range(2)]
    one, other = (r @ r.T for r in rows)
    expected = np.linalg.norm((one / one.norm() - other / other.norm()).numpy())
    assert gram_distance(one, other) == pytest.approx(expected, rel=1e-12)
    assert gram_distance(one, 7 * one) == pytest.approx(0, abs=1e-12)
    assert math.isnan(gram_distance(0 * one, one))
    assert math.isnan(gram_distance(one, 0 * one))


def test_metrics_are_those_of_the_predicted_features() -> None:
    point = Problem(4, 5, 6, weight_decay=5e-3, bias="free").construct()
    matched = match_point(point, "plain")
    layers, labels = matched.minimiser.layers()["features"], matched.minimiser.labels
    direct = ncpipe.measure(layers, labels, matched.weight, matched.bias)
    assert matched.metrics() == pytest.approx(direct, nan_ok=True)
    assert matched.metrics()["nc2_means_uncentred_etf"] < 1e-12


@pytest.mark.every(3)
@pytest.mark.parametrize(
    "problem",
    [
        Problem(4, 5, 30, weight_decay=5e-3, feature_decay=1e-3),
        Problem(4, 5, 30, weight_decay=5e-3, feature_decay=1e-3, bias=0.1),
        Problem(4, 5, 30, weight_decay=5e-3, feature_decay=1e-3, bias="free"),
        Problem(4, 5, 30, loss="ce", weight_decay=5e-3, feature_decay=1e-3, bias="free"),
        Problem(3, [9, 4, 2], 30, loss="ce", weight_decay=5e-3, feature_decay=1e-3, bias=5e-3),
        Problem(3, 5, 8, weight_decay=(3e-3, 3e-3), feature_decay=1e-3, activation="relu"),
        Problem(3, 5, 8, weight_decay=(3e-3, 3e-3), feature_decay=1e-3, activation="relu", bias="free"),
    ],
)
def test_a_minimiser_is_matched_by_its_own_problem(problem: Problem) -> None:
    matched, point = match_to(problem), fit(problem, tied=True, starts=16, seed=3).minimiser
    assert matched.problem.feature_decay == pytest.approx(problem.feature_decay, rel=1e-5)
    assert matched.optimum_value == pytest.approx(point.value(), rel=1e-5)
    assert matched.minimiser.value() == pytest.approx(matched.optimum_value, rel=1e-11)
    assert matched.weight_norm == pytest.approx(float(point.weights[-1].norm()), rel=1e-5)
    assert matched.feature_norm == pytest.approx(float(point.layers()["features"].norm()), rel=1e-5)
    assert matched.loss == pytest.approx(point.loss(), rel=1e-4)
    assert matched.class_features.shape == (problem.classes, problem.dim)
    means = point.class_features()
    torch.testing.assert_close(
        matched.means_gram.diagonal().sort().values, (means @ means.T).diagonal().sort().values, rtol=1e-4, atol=1e-12
    )
    assert matched.weights_gram.trace() == pytest.approx(matched.weight_norm**2)
    if problem.activation == "relu":
        assert matched.class_features.min() >= 0
        assert all(weight.shape[1] == problem.dim for weight in matched.minimiser.weights)


def test_zero_is_found_where_nothing_else_is_as_good() -> None:
    network = {"weight_norm_squared": 1.0, "input_norm_squared": 1.0}
    problem = Problem(4, 5, 6, loss="mse", weight_decay=(0.1, 0.1), activation="relu", bias="free")
    matched = match_to(problem, weight_decay=0.16, **network)
    assert matched.basis.startswith("numerical")
    assert matched.optimum_value == pytest.approx(3 / 8, rel=1e-10)
    assert matched.weight_norm < 1e-4


def test_basis_says_theorem_or_number_of_starts() -> None:
    assert "Theorem" in match_to(Problem(4, 5, 6, weight_decay=5e-3)).basis
    numerical = match_to(Problem(3, [3, 2, 1], 6, loss="ce", weight_decay=5e-3)).basis
    assert numerical.startswith("numerical: best of 16 starts, found by 16 of them (imbalanced")


def test_starts_go_on_where_the_best_has_not_converged(monkeypatch) -> None:
    problem = Problem(3, [3, 2, 1], 6, loss="ce", weight_decay=5e-3)
    best = match_to(problem).optimum_value
    monkeypatch.setattr(matched_models, "ITERATIONS", (3,))
    assert match_to(problem).optimum_value > best * (1 + 1e-6)
    monkeypatch.setattr(matched_models, "ITERATIONS", (3, 5000))
    assert match_to(problem).optimum_value == pytest.approx(best, rel=1e-10)


def test_mse_loss_of_torch_multiplies_penalties_by_half_the_classes() -> None:
    problem = Problem(4, 5, 6, weight_decay=5e-3, bias=5e-3)
    half = match_to(problem)
    mean = match_to(problem, loss_scaling="mean", weight_decay=2.5e-3, bias_decay=2.5e-3)
    assert mean.problem == half.problem


@pytest.mark.parametrize(("bias_decay", "bias"), [(None, "none"), (0.0, "free"), (0.2, 0.2)])
def test_bias(bias_decay: float | None, bias: Any) -> None:
    assert match_to(Problem(4, 5, 6, weight_decay=5e-3), bias_decay=bias_decay).problem.bias == bias


def test_trace_has_no_within_class_scatter_and_counts_all_samples() -> None:
    problem = Problem(3, [50, 40, 30], 6, weight_decay=1e-3, feature_decay=1e-4)
    trace = match_to(problem).trace()
    assert trace.times == [0]
    (statistics,) = trace.statistics.values()
    assert statistics.counts.tolist() == [50, 40, 30]
    assert float(statistics.scatter.sum()) == 0
    assert statistics.nearest_mean_hits.tolist() == [50, 40, 30]
    assert statistics.classifier_hits is not None
    assert statistics.classifier_hits.tolist() == [50, 40, 30]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_norm_squared": 0.0}, "weight_norm_squared: got 0.0; .* collapsed to zero or diverged"),
        ({"features_norm_squared": float("nan")}, "features_norm_squared: got nan"),
        (
            {"kind": "extended"},
            "got features_norm_squared; kind 'extended' needs exactly one of input_norm_squared and",
        ),
        (
            {"nuclear_norm": 1.0},
            "got features_norm_squared and nuclear_norm; kind 'plain' needs features_norm_squared",
        ),
        ({"features_norm_squared": None}, "got none; kind 'plain' needs features_norm_squared"),
        ({"kind": "deep"}, "kind: got 'deep'"),
        ({"loss_scaling": "sum"}, "loss_scaling: got 'sum'"),
        ({"loss": "ce", "loss_scaling": "mean"}, "loss_scaling: got 'mean' with loss 'ce'"),
        ({"weight_decay": 0.0}, "weight_decay: got 0.0"),
        ({"counts": [5, 5]}, "samples: got 2 numbers for 4 classes"),
    ],
)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        match_to(Problem(4, 5, 6, weight_decay=5e-3), **changes)


def test_statistics_that_do_not_fit_the_weight_are_named() -> None:
    point = Problem(4, 5, 6, weight_decay=5e-3).construct()
    with pytest.raises(ValueError, match=r"weight: got shape \(4, 5\); needs \(4, 6\)"):
        match_statistics("plain", point.statistics()["features"], torch.ones(4, 5), loss="mse", weight_decay=1e-3)


@pytest.mark.parametrize(("given", "bias"), [({}, 5e-3), ({"bias_decay": 0.0}, "free"), ({"bias_decay": 0.2}, 0.2)])
def test_bias_of_the_network_is_decayed_like_its_weight_unless_told(given: dict[str, float], bias: Any) -> None:
    point = Problem(4, 5, 6, weight_decay=5e-3, bias="free").construct()
    seen = point.statistics()["features"]
    model = match_statistics("plain", seen, point.weights[-1], point.bias, loss="mse", weight_decay=5e-3, **given)
    assert model.problem.bias == bias
    without = match_statistics("plain", seen, point.weights[-1], loss="mse", weight_decay=5e-3, **given)
    assert without.problem.bias == "none"
