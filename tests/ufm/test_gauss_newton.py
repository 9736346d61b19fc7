"""Second order: the Jacobian of a sum of squares, the steps made of it, and the solver ``newton``."""

from typing import Any

import pytest
import torch

from ncpipe.ufm import Problem, fit
from ncpipe.ufm.gauss_newton import Preconditioned, SumOfSquares
from ncpipe.ufm.layout import balancing_scales
from ncpipe.ufm.objective import Objective
from ncpipe.ufm.settings import UfmSpec

MODELS: dict[str, dict[str, Any]] = {
    "plain": {"weight_decay": 5e-3},
    "narrow": {"weight_decay": 5e-3, "dim": 3},
    "imbalanced": {"weight_decay": 1e-3, "samples": (20, 10, 5, 5)},
    "free bias": {"weight_decay": 5e-3, "bias": "free"},
    "penalised bias": {"weight_decay": (5e-3, 1e-3), "bias": 0.1},
    "deep": {"weight_decay": (2e-3, 3e-3, 1e-3), "dim": (8, 5, 6)},
    "extended relu": {"weight_decay": (2e-3, 3e-3), "activation": "relu"},
    "binary deep relu": {"classes": 2, "weight_decay": (1e-3,) * 3, "activation": "relu"},
    "frozen": {"classifier": "etf", "bias": "free"},
    "deep frozen": {"classifier": "etf", "weight_decay": (2e-3, 1e-2), "activation": "linear"},
}


def problem_of(name: str) -> Problem:
    return Problem(**{"classes": 4, "samples": 5, "dim": 8, "feature_decay": 1e-3} | MODELS[name])


def batch_of(name: str, smoothing: float = 0.0) -> tuple[Objective, SumOfSquares]:
    """Two equal problems at two points."""
    given = Objective.of([problem_of(name)] * 2, tied=True)
    objective = Objective(given.layout, balancing_scales(given.layout, given.decays)[1])
    points = torch.randn(2, sum(given.layout.sizes), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges = torch.full((2,), smoothing, dtype=torch.float64)
    return objective, SumOfSquares(given.layout, objective.decay, points, edges)


def jacobian(squares: SumOfSquares) -> torch.Tensor:
    """(B, M K, P) by automatic differentiation, rows in the order of ``gram``."""
    rows = []
    for number, vector in enumerate(squares.vectors):

        def residuals(at: torch.Tensor, n: int = number) -> torch.Tensor:
            one = SumOfSquares(squares.layout, squares.decay[n : n + 1], at[None], squares.smoothing[n : n + 1])
            return one.residuals[0].T.flatten()

        rows.append(torch.autograd.functional.jacobian(residuals, vector))
    return torch.stack(rows)


@pytest.mark.parametrize("name", MODELS)
def test_sum_of_squares_is_the_objective(name: str) -> None:
    objective, squares = batch_of(name)
    value, gradient = objective.evaluate(squares.vectors)
    torch.testing.assert_close(squares.value, value, rtol=1e-13, atol=0)
    torch.testing.assert_close(squares.gradient, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.7])
@pytest.mark.parametrize("name", MODELS)
def test_products_with_the_jacobian(name: str, smoothing: float) -> None:
    _, squares = batch_of(name, smoothing)
    full, shift = jacobian(squares), squares.decay + torch.tensor([[0.3], [0.02]], dtype=torch.float64)
    steps = torch.randn_like(squares.vectors)
    torch.testing.assert_close(squares.along(steps).mT.flatten(1), (full @ steps[:, :, None])[:, :, 0])
    torch.testing.assert_close(squares.back(squares.along(steps)), (full.mT @ full @ steps[:, :, None])[:, :, 0])
    torch.testing.assert_close(squares.gram(shift[:, :1], shift[:, -1:]), full / shift[:, None] @ full.mT)
    system = full.mT @ full + torch.diag_embed(shift)
    step = squares.damped_step(shift[:, 0] - squares.decay[:, 0])
    torch.testing.assert_close(step, -torch.linalg.solve(system, squares.gradient), rtol=1e-7, atol=1e-9)
    model = (step[:, None] @ (full.mT @ full + torch.diag_embed(squares.decay)) @ step[:, :, None])[:, 0, 0]
    predicted = -(squares.gradient * step).sum(dim=1) - model / 2
    torch.testing.assert_close(squares.predicted(step), predicted)


@pytest.mark.parametrize("name", ["deep", "extended relu", "deep frozen"])
def test_preconditioner_is_the_inverse_root(name: str) -> None:
    objective, squares = batch_of(name)
    flat, full = Preconditioned(objective, squares), jacobian(squares)
    vectors = torch.randn_like(squares.vectors)
    twice = flat.transformed(flat.transformed(vectors))
    inverse = torch.linalg.inv(full.mT @ full + torch.diag_embed(squares.decay))
    torch.testing.assert_close(twice, (inverse @ vectors[:, :, None])[:, :, 0], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("name", MODELS)
def test_newton_reaches_the_optimum(name: str) -> None:
    problem = problem_of(name)
    result = fit(problem, "newton", starts=4)
    assert result.gap is not None
    assert abs(result.gap) <= 1e-12 * result.value
    assert result.converged
    assert result.success_fraction > 0.5
    assert result.features.shape == (problem.num_samples, problem.widths[0])


def test_newton_succeeds_more_often_than_lbfgs_and_in_fewer_iterations() -> None:
    problem = Problem(6, 5, 16, weight_decay=(1e-3, 1e-3), feature_decay=1e-3, activation="relu")
    newton, usual = fit(problem, "newton"), fit(problem)
    assert newton.value == pytest.approx(usual.value, rel=1e-9)
    assert newton.success_fraction >= usual.success_fraction
    assert newton.iterations < usual.iterations / 2


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_newton_finds_zero_where_it_is_optimal(activation: str) -> None:
    result = fit(
        Problem(4, 5, 8, weight_decay=(0.3, 0.3), feature_decay=5e-3, activation=activation), "newton", starts=2
    )
    assert result.optimum is not None
    assert result.optimum.is_zero
    assert not result.missed


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"loss": "ce"}, "half squared error"),
        ({"rescale": (2.0, 1.0)}, "half squared error"),
        ({"nonnegative": True}, "non-negative"),
        ({"classes": 33}, "at most 32 classes"),
    ],
)
def test_newton_says_what_it_is_not_for(fields: dict[str, Any], reason: str) -> None:
    settings: dict[str, Any] = {"classes": 3, "samples": 4, "dim": 40} | fields
    with pytest.raises(ValueError, match=f"solver 'newton': .*{reason}"):
        fit(Problem(**settings), "newton")
    with pytest.raises(ValueError, match=f"solver 'newton': .*{reason}"):
        UfmSpec.model_validate(settings | {"solver": {"name": "newton"}})
