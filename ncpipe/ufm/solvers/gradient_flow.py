r"""Gradient flow from starts that are aligned with the targets, where it is a few ordinary differential equations.

If all factors are diagonal in the singular directions of the targets, they stay so. With gains alpha_ij of factor i
in direction j, target singular values s_j = sqrt(n_j) and the singular value f of a frozen classifier (else 1),

.. math:: \dot\alpha_{ij} = -\frac1N r_j f \prod_{l \ne i} \alpha_{lj} - \lambda_i \alpha_{ij} , \qquad
          r_j = f \prod_l \alpha_{lj} - s_j .

With L = 1, equal penalties and equal gains it is the logistic equation: a = alpha^2 obeys
a' = 2 a [(s - a)/N - lambda]. With a bias the directions are the centred ones and that of ones, in which the bias
shares the residual, r += sqrt(n) K b, and b' = -sqrt(n) r/N - lambda_b b.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ncpipe.settings.base import Count, Positive, log_spaced
from ncpipe.system.lazy import Tensor, torch
from ncpipe.ufm.model import Model
from ncpipe.ufm.solvers._base import BaseSolver, Points

if TYPE_CHECKING:
    from torch import device

    from ncpipe.ufm.minimiser import Minimiser
    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result

TOLERANCE = 1e-12
"""Tolerance of the integrator, relative."""
MOST_CALLS = 2 * 10**5
"""Slopes that the integrator may ask for."""


class Solver(BaseSolver):
    """Exact gradient flow from a start that is aligned with the targets (mse, linear models or a ReLU without bias).

    Iteration i stands for the time i * step_size, so that it is comparable with gradient descent.
    """

    short = label = "flow"

    name: Literal["gradient_flow"]
    steps: Count = Field(100_000, description="Steps of step_size each: the flow ends at time steps * step_size.")
    step_size: Positive = Field(0.1, description="Time that counts as one iteration.")
    init_scale: Positive = Field(1.0, description="Singular values of every factor at the start.")
    points: Points = Field(40, description="Log-spaced times that are measured.")

    def mistakes(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        return (f"solver 'gradient_flow': {reason}" for reason in _not_covered(model))

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: device) -> list[Result]:
        from ncpipe.ufm.result import Recorder

        iterations = log_spaced(self.points, self.steps)
        results = []
        for problem in problems:
            recorder = Recorder(problem)
            path = aligned_flow(problem, [i * self.step_size for i in iterations], self.init_scale)
            for iteration, point in zip(iterations, path, strict=True):
                recorder.record(iteration, point, *point.evaluate())
            results.append(recorder.result(f"at time {self.steps * self.step_size:g}"))
        return results


def aligned_flow(problem: Model, times: Sequence[float], init_scale: float) -> list[Minimiser]:
    """Points of the gradient flow at increasing times from 0 on; all gains start at ``init_scale``, the bias at 0.

    Raises:
        ValueError: the flow of this problem does not reduce to its singular directions, or is too stiff.
    """
    from ncpipe.ufm.optimum import diagonal_point

    for reason in _not_covered(problem):
        raise ValueError(f"solver 'gradient_flow': {reason}")
    left = _directions(problem)
    gains, biases = _integrate(problem, left, np.asarray(times, dtype=float), init_scale)
    points = []
    for at, bias in zip(torch.from_numpy(gains), biases.tolist(), strict=True):
        full = at if problem.classifier == "free" else torch.cat([at, torch.ones_like(at[:1])])
        points.append(diagonal_point(problem, left, left.T, full, None if problem.bias == "none" else bias))
    return points


def _not_covered(model: Model) -> Iterator[str]:
    """Why the flow of a model does not reduce to its singular directions."""
    if model.loss != "mse" or model.rescale != (1, 1):
        yield "exact for the half squared error alone"
    if model.nonnegative:
        yield "not of features that are constrained to be non-negative"
    if not model.balanced and (model.bias != "none" or model.classifier == "etf"):
        yield "classes of different size need bias 'none' and a trained classifier"
    if model.activation == "relu" and (model.bias != "none" or model.classifier == "etf"):
        yield "behind a ReLU it needs bias 'none' and a trained classifier"


def _directions(problem: Model) -> Tensor:
    """Singular directions of the targets over classes, as many as the narrowest layer holds, (K, r)."""
    from ncpipe.collapse.frames import helmert

    identity = torch.eye(problem.classes, dtype=torch.float64)
    if problem.classifier == "etf":
        directions = helmert(problem.classes)
    elif problem.bias == "none":
        directions = identity[:, sorted(range(problem.classes), key=lambda k: -problem.counts[k])]
    else:
        directions = torch.cat(
            [helmert(problem.classes), identity.sum(dim=1, keepdim=True) / problem.classes**0.5], 1
        )
    return directions[:, : min(problem.widths)]


def _integrate(problem: Model, left: Tensor, times: NDArray, init_scale: float) -> tuple[NDArray, NDArray]:
    """Gains (T, F, r) and bias entries (T,) at every time."""
    from scipy.integrate import solve_ivp

    K, N, shape = problem.classes, problem.num_samples, (len(problem.decays), left.shape[1])
    decays, penalty = np.array(problem.decays)[:, None], problem.bias_decay
    frame = math.sqrt(K / (K - 1)) if problem.classifier == "etf" else 1.0
    targets = np.sqrt(np.sort(np.array(problem.counts, dtype=float))[::-1][: shape[1]])
    root, shares_bias = math.sqrt(problem.counts[0]), problem.bias != "none" and shape[1] == K
    calls = count()

    def slope(_: float, state: NDArray) -> NDArray:
        if next(calls) > MOST_CALLS or not np.isfinite(state).all():
            raise ValueError(f"init_scale: got {init_scale}, from which the flow is too stiff; needs a smaller one")
        gains, bias = state[:-1].reshape(shape), state[-1]
        others = np.stack([np.delete(gains, i, axis=0).prod(axis=0) for i in range(len(gains))]) * frame
        residual = frame * gains.prod(axis=0) - targets
        if shares_bias:
            residual[-1] += root * K * bias
        common = residual[-1] if shares_bias else root * (K * bias - 1)
        drift = 0.0 if penalty is None else -root * common / N - penalty * bias
        return np.append((-residual * others / N - decays * gains).ravel(), drift)

    start = np.append(np.full(shape, init_scale).ravel(), 0.0)
    with np.errstate(all="ignore"):
        span = (0, times[-1] or 1.0)
        found = solve_ivp(slope, span, start, "LSODA", t_eval=times, rtol=TOLERANCE, atol=TOLERANCE * 1e-2)
    if not found.success:
        raise ValueError(f"init_scale: got {init_scale}, from which the flow cannot be integrated: {found.message}")
    return found.y[:-1].T.reshape(-1, *shape), found.y[-1]
