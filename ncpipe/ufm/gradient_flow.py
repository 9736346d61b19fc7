r"""Gradient flow from starts that are aligned with the targets, where it is a few ordinary differential equations.

If all factors are diagonal in the singular directions of the targets, they stay so. With gains alpha_ij of factor i
in direction j, target singular values s_j = sqrt(n_j) and the singular value f of a frozen classifier (else 1),

.. math:: \dot\alpha_{ij} = -\frac1N \Big(f \prod_l \alpha_{lj} - s_j\Big) f \prod_{l \ne i} \alpha_{lj}
          - \lambda_i \alpha_{ij} .

With L = 1, equal penalties and equal gains it is the logistic equation: a = alpha^2 obeys
a' = 2 a [(s - a)/N - lambda]. A bias leaves the mean to itself: b' = -(b - 1/K) - lambda_b b.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncpipe.ufm.frames import helmert
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.optimum import diagonal_point
from ncpipe.ufm.problem import Problem

TOLERANCE = 1e-12
"""Of the integrator, relative."""
MOST_CALLS = 10**6
"""Slopes that the integrator may ask for."""


def aligned_flow(problem: Problem, times: Sequence[float], init_scale: float) -> list[Minimiser]:
    """Points of the gradient flow at increasing times from 0 on; all gains start at ``init_scale``, the bias at 0.

    Raises:
        ValueError: the flow of this problem does not reduce to its singular directions.
    """
    _check(problem)
    left = torch.eye(problem.classes, dtype=torch.float64) if problem.bias == "none" else helmert(problem.classes)
    if problem.classifier == "etf":
        left = helmert(problem.classes)
    left = left[:, : min(*problem.widths, left.shape[1])]
    targets = np.full(left.shape[1], math.sqrt(problem.counts[0]))
    if not problem.balanced:
        targets = np.sqrt(np.array(problem.counts[: left.shape[1]], dtype=float))
    path, points = _integrate(problem, targets, np.asarray(times, dtype=float), init_scale), []
    for time, gains in zip(times, path, strict=True):
        points.append(diagonal_point(problem, left, left.T, _with_classifier(problem, gains), _bias(problem, time)))
    return points


def _check(problem: Problem) -> None:
    reason = None
    if problem.loss != "mse" or problem.rescale != (1, 1):
        reason = "exact for the half squared error alone"
    elif not problem.balanced and (problem.bias != "none" or problem.classifier == "etf"):
        reason = "classes of different size need bias 'none' and a trained classifier"
    elif problem.activation == "relu" and (problem.bias != "none" or problem.classifier == "etf"):
        reason = "behind a ReLU it needs bias 'none' and a trained classifier"
    if reason:
        raise ValueError(f"solver 'gradient_flow': {reason}")


def _integrate(problem: Problem, targets: NDArray, times: NDArray, init_scale: float) -> NDArray:
    """Gains at every time, (T, F, r)."""
    from scipy.integrate import solve_ivp

    decays, N, shape = np.array(problem.decays)[:, None], problem.num_samples, (len(problem.decays), len(targets))
    frame = math.sqrt(problem.classes / (problem.classes - 1)) if problem.classifier == "etf" else 1.0

    calls = count()

    def slope(_: float, flat: NDArray) -> NDArray:
        if next(calls) > MOST_CALLS or not np.isfinite(flat).all():
            raise ValueError(f"init_scale: got {init_scale}, from which the flow is too stiff; needs a smaller one")
        gains = flat.reshape(shape)
        others = np.stack([np.delete(gains, i, axis=0).prod(axis=0) for i in range(len(gains))]) * frame
        residual = frame * gains.prod(axis=0) - targets
        return (-residual * others / N - decays * gains).ravel()

    start = np.full(shape, init_scale).ravel()
    if len(times) == 1 or times[-1] == 0:
        return np.broadcast_to(start.reshape(shape), (len(times), *shape))
    found = solve_ivp(slope, (0, times[-1]), start, "DOP853", t_eval=times, rtol=TOLERANCE, atol=TOLERANCE * 1e-3)
    if not found.success:
        raise ValueError(f"solver 'gradient_flow': the integrator stopped: {found.message}")
    return found.y.T.reshape(-1, *shape)


def _with_classifier(problem: Problem, gains: NDArray) -> Tensor:
    """Gains of H_1, W_1 .. W_L, a frozen classifier's included; from (F, r)."""
    trained = torch.from_numpy(gains.copy())
    return trained if problem.classifier == "free" else torch.cat([trained, torch.ones_like(trained[:1])])


def _bias(problem: Problem, time: float) -> float | None:
    if problem.bias_decay is None:
        return None
    rate = 1 + problem.bias_decay
    return -math.expm1(-rate * time) / (rate * problem.classes)
