"""The matched UFM: a network that is itself a UFM minimiser gets its own penalties and predictions back."""

from typing import Any

import pytest
import torch

from ncpipe.ufm import MatchedUfm, Problem, fit, match


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
        "features_norm_squared": float(layers["features"].square().sum()),
        "input_norm_squared": None if problem.depth == 1 else float(layers["H1"].square().sum()),
    }
    return match(**{**settings, **changes})


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
        matched.means_gram.diagonal().sort().values, (means @ means.T).diagonal().sort().values, rtol=1e-4, atol=0
    )
    assert matched.weights_gram.trace() == pytest.approx(matched.weight_norm**2)
    if problem.activation == "relu":
        assert matched.class_features.min() >= 0
        assert all(weight.shape[1] == problem.dim for weight in matched.minimiser.weights)


def test_zero_is_found_where_nothing_else_is_as_good() -> None:
    network = {"weight_norm_squared": 1.0, "input_norm_squared": 1.0, "features_norm_squared": 1.0}
    problem = Problem(4, 5, 6, loss="mse", weight_decay=(0.1, 0.1), activation="relu", bias="free")
    matched = match_to(problem, weight_decay=0.16, **network)
    assert matched.basis.startswith("numerical")
    assert matched.optimum_value == pytest.approx(3 / 8, rel=1e-10)
    assert matched.weight_norm < 1e-4


def test_basis_says_theorem_or_number_of_starts() -> None:
    assert "Theorem" in match_to(Problem(4, 5, 6, weight_decay=5e-3)).basis
    numerical = match_to(Problem(3, [3, 2, 1], 6, loss="ce", weight_decay=5e-3)).basis
    assert numerical.startswith("numerical: best of 16 starts, found by 16 of them (imbalanced")


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
        ({"kind": "extended"}, "input_norm_squared: got None"),
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
