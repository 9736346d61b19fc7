"""Critical points of UFMs: their values and curvature against closed forms, theorems and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from ncpipe.losses import from_function
from ncpipe.stages.fit import history_rows
from ncpipe.ufm import Problem, critical_points, fit, landscape
from ncpipe.ufm.layout import Layout
from ncpipe.ufm.objective import Objective, penalties
from ncpipe.ufm.settings import UfmSpec

PENALTIES = {"weight_decay": 5e-3, "feature_decay": 1e-3}
SMALL = Problem(3, samples=2, dim=4, **PENALTIES)


def test_the_squared_error_has_a_point_for_every_number_of_live_directions():
    K, n, lw, lh = 4, 5, 5e-3, 1e-3
    points = landscape(Problem(K, samples=n, dim=6, weight_decay=lw, feature_decay=lh))
    c = K * math.sqrt(n * lw * lh)
    values = [(j / K) * (c - c**2 / 2) + (1 - j / K) / 2 for j in range(K, -1, -1)]
    assert [point.value for point in points] == pytest.approx(values, abs=1e-12)
    assert values == pytest.approx([0.0198, 0.13985, 0.2599, 0.37995, 0.5])
    assert [point.live_directions for point in points] == [4, 3, 2, 1, 0]
    least = (lw + lh) / 2 - math.sqrt((lw - lh) ** 2 / 4 + n / (K * n) ** 2)
    assert least == pytest.approx(-0.1088212860, abs=1e-10)
    assert [point.least_eigenvalue for point in points[1:]] == pytest.approx([least] * 4, abs=1e-12)
    # a dead direction of the targets leads down together with any of the d - j of the features that are dead
    assert [point.index for point in points] == [(K - j) * (6 - j) for j in (4, 3, 2, 1, 0)]
    assert [point.is_global for point in points] == [True, False, False, False, False]
    assert all(point.gradient_norm < 1e-14 for point in points)


@pytest.mark.parametrize(
    "model",
    [
        {"loss": "ce"} | PENALTIES,
        {"loss": "ce", "bias": "free"} | PENALTIES,
        {"loss": "label_smoothing", "smoothing": 0.1} | PENALTIES,
        {"bias": "free"} | PENALTIES,
        {"loss": "ce", "temperature": 2.0},
    ],
    ids=lambda model: " ".join(map(str, model.values())),
)
def test_above_the_optimum_all_points_are_strict_saddles(model):
    problem = Problem(3, samples=3, dim=4, **model)
    points = landscape(problem, starts=24)
    assert len(points) > 2
    assert points[0].value == pytest.approx(problem.optimum().value, rel=1e-12)
    assert points[0].is_global
    assert points[0].index == points[0].flat == 0
    assert all(point.is_strict_saddle for point in points[1:])
    assert all(0 < point.negative_share < 1 for point in points[1:])


def test_with_two_weight_layers_zero_is_a_strict_local_minimum():
    points = landscape(
        Problem(3, samples=3, dim=4, weight_decay=(5e-3, 5e-3), feature_decay=1e-3, activation="relu"), 24
    )
    [zero] = [
        point for point in points if point.live_directions == 0 and float(point.point.columns.abs().max()) < 1e-9
    ]
    assert zero.index == 0
    assert zero.least_eigenvalue == pytest.approx(1e-3)  # the decay alone
    assert zero.kinks == 4 * 3


@pytest.mark.parametrize(
    "problem",
    [
        SMALL,
        Problem(3, samples=2, dim=4, loss="ce", bias=1e-2, **PENALTIES),
        Problem(3, samples=(1, 2, 4), dim=3),
        Problem(3, samples=2, dim=3, loss="ce", temperature=1.5),
    ],
    ids=["mse", "ce with bias", "imbalanced", "spheres"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_curvature_is_that_of_the_analytic_gradient(problem, tied):
    point = landscape(problem, starts=8, tied=tied)[-2]
    vector, objective = point.point.pack(), Objective.of([problem], tied)
    value, gradient = objective.evaluate(vector[None])
    assert float(value) == pytest.approx(point.value, rel=1e-13)
    assert float(gradient.norm()) < 1e-12
    step, columns = 1e-5, []
    for axis in torch.eye(len(vector), dtype=torch.float64):
        there, back = (objective.evaluate((vector + sign * step * axis)[None])[1].clone() for sign in (1, -1))
        columns.append((there - back)[0] / (2 * step))
    eigenvalues = torch.linalg.eigvalsh(torch.stack(columns))
    # at a critical point the objective of v/|v| has zeros along the radii, and the Riemannian Hessian beside them
    radii = len(vector) - point.dimension
    assert radii == (0 if problem.temperature is None else problem.classes + len(point.point.columns))
    kept = eigenvalues[eigenvalues.abs().argsort()[radii:].sort().values]
    torch.testing.assert_close(kept, point.eigenvalues, atol=1e-8, rtol=0)


def test_untied_points_of_a_convex_loss_are_the_tied_ones():
    tied, untied = (landscape(SMALL, starts=32, tied=tied) for tied in (True, False))
    assert [point.value for point in tied] == pytest.approx([point.value for point in untied])
    assert [point.index for point in tied] == [point.index for point in untied]


def test_rotations_and_permutations_are_one_point_and_seeds_repeat():
    points = landscape(SMALL, starts=24)
    assert len({round(point.value, 9) for point in points}) == len(points) == 4
    assert sum(point.starts for point in points) <= 24
    again = landscape(SMALL, starts=24)
    assert [point.value for point in again] == [point.value for point in points]
    assert all(torch.equal(a.eigenvalues, b.eigenvalues) for a, b in zip(points, again))


def test_rotations_of_hidden_spaces_explain_zero_eigenvalues():
    best = landscape(Problem(3, samples=2, dim=5, weight_decay=(5e-3, 5e-3), feature_decay=1e-3), starts=16)[0]
    # of each hidden space of 5, those that move the 3 live directions: 5 * 4 / 2 - 2 * 1 / 2
    assert (best.index, best.flat, best.gauge) == (0, 0, 2 * 9)


@pytest.mark.parametrize(
    "problem",
    [
        SMALL,
        Problem(3, samples=2, dim=4, loss="ce", bias="free", **PENALTIES),
        Problem(3, samples=2, dim=4, loss="ce", temperature=1.5),
    ],
    ids=["mse", "ce", "spheres"],
)
def test_without_whole_hessians_all_negative_curvatures_are_found(problem, monkeypatch):
    monkeypatch.setattr(critical_points, "LARGEST_HESSIAN", 10)
    found = landscape(problem, starts=4)
    decays = torch.tensor(penalties(problem), dtype=torch.float64)
    surface = critical_points._Surface(Layout.of(problem, tied=True), decays)
    assert any(point.index > 1 for point in found)
    for point in found:
        every = surface.spectra(point.point.pack()[None])[0][0]
        negative = every[every < -1e-7 * every.abs().max()]
        assert (point.index, point.flat, point.gauge) == (len(negative), None, None)
        assert point.gradient_norm < 1e-9
        torch.testing.assert_close(point.eigenvalues[: point.index], negative, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("problem", "options", "words"),
    [
        (Problem(3, samples=2, dim=4, nonnegative=True), {}, "nonnegative"),
        (SMALL, {"starts": 0}, "starts"),
    ],
)
def test_refuses_in_a_line(problem, options, words):
    with pytest.raises(ValueError, match=words):
        landscape(problem, **options)


def test_reports_the_starts_that_have_ended():
    calls: list[tuple[int, int]] = []
    landscape(SMALL, starts=4, report=lambda done, of: calls.append((done, of)))
    assert calls[-1] == (4, 4)
    assert calls == sorted(calls)


def test_a_loss_without_a_second_derivative_is_told():
    margin = from_function(lambda z, y: F.multi_margin_loss(z, y, p=2, reduction="none"), name="margin")
    with pytest.raises(
        ValueError, match=r"^loss: torch has no second derivative of it .*write it in plain operations$"
    ):
        landscape(Problem(3, samples=2, dim=4, loss=margin, **PENALTIES), starts=4)


# --- the solver of studies ------------------------------------------------------------------------


def test_the_solver_records_every_point_from_the_highest_to_the_lowest():
    points = landscape(SMALL, 24, seed=3)
    result = fit(SMALL, "landscape", seed=3, starts=24)
    assert result.history.value == [point.value for point in reversed(points)]
    assert result.history.iterations == list(range(len(points)))
    assert [row["index"] for row in result.history.more] == [point.index for point in reversed(points)]
    assert (result.value, result.starts) == (points[0].value, 24)
    assert result.success_fraction == points[0].starts / 24
    assert f"{len(points) - 1} of them strict saddles" in result.message
    rows = history_rows(result)
    assert rows[0].keys() >= {"objective", "gap", "least_eigenvalue", "negative_share", "kinks", "starts"}
    assert rows[-1]["gap"] == pytest.approx(0, abs=1e-15)


def test_models_with_bounds_are_refused_where_they_are_declared():
    declared = {"classes": 4, "samples": 5, "dim": 6, **PENALTIES, "solver": {"name": "landscape"}}
    with pytest.raises(ValidationError, match="no Hessian; leave nonnegative out"):
        UfmSpec(**declared, nonnegative=True)
