r"""The perturbation model of Tirer, Huang & Niles-Weed (ICML 2023): free features that stay near given ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
import torch
from torch import Tensor

from ncpipe.collapse.arguments import Array, as_count, as_features, as_labels, require_finite
from ncpipe.ufm.model import penalty

GRADIENT_TOLERANCE = 1e-9
"""Largest gradient in W, relative to the penalty's part of it, lambda_W |W|."""
ROUNDING = 64 * torch.finfo(torch.float64).eps
"""Relative to |Y^T H_0|/N, the largest part of the gradient at W = 0: what rounding leaves of it."""
NEWTON_STEPS = 10
"""At the end, after L-BFGS has come as far as the rounding of the objective lets it."""


@dataclass(frozen=True, eq=False)
class Perturbation:
    """A minimiser of the perturbation model."""

    features: Tensor = field(repr=False)
    """H, (N, d) float64, samples in the given order."""
    weight: Tensor = field(repr=False)
    """W, (K, d) float64."""
    value: float
    """Objective."""
    loss: float
    """1/(2N) |W H - Y|^2, its part without penalties."""
    gradient_norm: float
    """Norm of the objective's gradient in W; the gradient in H vanishes by construction."""
    proximity: float
    """beta."""
    movement: float
    """|H - H0| / |H0|, Frobenius norms."""
    iterations: int
    converged: bool
    """The gradient is below 1e-9 lambda_W |W|, or is rounding."""


@overload
def perturb(
    features: Array,
    labels: Array,
    *,
    proximity: float,
    weight_decay: float,
    feature_decay: float,
    num_classes: int | None = None,
) -> Perturbation: ...


@overload
def perturb(
    features: Array,
    labels: Array,
    *,
    proximity: Sequence[float] | Array,
    weight_decay: float,
    feature_decay: float,
    num_classes: int | None = None,
) -> list[Perturbation]: ...


def perturb(
    features: Array,
    labels: Array,
    *,
    proximity: float | Sequence[float] | Array,
    weight_decay: float,
    feature_decay: float,
    num_classes: int | None = None,
) -> Perturbation | list[Perturbation]:
    r"""Let features loose from where they are: minimise over W and H, from the least-squares W of H0,

    .. math:: \frac{1}{2N} |W H - Y|^2 + \frac{\lambda_W}{2} |W|^2 + \frac{\lambda_H}{2} |H|^2
              + \frac{\beta}{2} |H - H_0|^2

    with samples as columns. Large beta keeps H at H0; for small beta the value is the optimum of the
    unconstrained-features model, ``Problem``. The paper writes lambda_W K, lambda_H K n and beta K n for these
    three (K n = N, balanced). Where beta is below about 1e-6 lambda_H, rotations of the features are next to free:
    the value is right, W and H are known up to a rotation, and ``converged`` can be False.

    Args:
        features: H0 (N, d), one sample a row; NumPy or Torch, floating point; not all zero.
        labels: (N,) integers in [0, K); classes may differ in size.
        proximity: beta > 0: a number, or several.
        weight_decay: lambda_W > 0.
        feature_decay: lambda_H > 0.
        num_classes: K; one more than the largest label where it is not given.

    Returns:
        One ``Perturbation``, or a list with one for every ``proximity``, in their order.

    Raises:
        ValueError: naming the argument.

    Source: Tirer, Huang & Niles-Weed, *Perturbation analysis of neural collapse*.

    Example:
        >>> labels = torch.arange(40) % 4
        >>> near = torch.eye(4, 6)[labels] + 0.1 * torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
        >>> moved = perturb(near, labels, proximity=[1e-3, 1.0], weight_decay=1e-3, feature_decay=1e-4)
        >>> [round(m.movement, 3) for m in moved]
        [0.15, 0.004]
    """
    h, targets = _checked(features, labels, num_classes)
    penalties = penalty("weight_decay", weight_decay), penalty("feature_decay", feature_decay)
    betas = [penalty("proximity", beta) for beta in np.atleast_1d(np.asarray(proximity)).tolist()]
    small = _rotated(h, targets)
    start = _ridge(*small, len(h) * penalties[0])
    results = [_minimise(h, targets, small, start, beta, *penalties) for beta in betas]
    return results[0] if np.ndim(proximity) == 0 else results


def _checked(features: Array, labels: Array, num_classes: int | None) -> tuple[Tensor, Tensor]:
    """H0 (N, d) and the classes as unit vectors (N, K), in float64."""
    h = as_features("features", features)
    require_finite("features", h)
    known = None if num_classes is None else as_count(num_classes)
    y = as_labels(labels, h, known)
    h = h.double()
    if not bool(h.any()):
        raise ValueError("features: all are zero; needs features to stay near to")
    return h, torch.eye(int(y.max()) + 1 if known is None else known, dtype=h.dtype, device=h.device)[y]


def _rotated(features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Features and targets after a rotation of the samples that leaves at most K + d rows: F(W) is the same."""
    if len(features) <= sum(features.shape[1:] + targets.shape[1:]):
        return features, targets
    both = torch.linalg.qr(torch.cat([targets, features], dim=1), mode="r").R
    return both[:, targets.shape[1] :].contiguous(), both[:, : targets.shape[1]].contiguous()


def _ridge(features: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Y^T H (H^T H + ridge I)^-1, by the smaller of the two Grams."""
    rows, width = features.shape
    identity = ridge * torch.eye(min(rows, width), dtype=features.dtype, device=features.device)
    if rows < width:
        return torch.linalg.solve(features @ features.T + identity, targets).T @ features
    return torch.linalg.solve(features.T @ features + identity, features.T @ targets).T


@dataclass(frozen=True)
class _Reduced:
    r"""F(W) = min over H of the objective, without the constant beta lambda_H/(2s) |H0|^2; s = beta + lambda_H.

    For a given W every h is a ridge solution about g = (beta/s) h0:

        h = g + W^T c,   c = (N s I + W W^T)^-1 (y - W g),   W h - y = -N s c,

        F = lambda_W/2 |W|^2 + s/2 sum_i c_i^T (y_i - W g_i),   grad F = lambda_W W - s sum_i c_i h_i^T.
    """

    centres: Tensor
    """g, (N, d)."""
    targets: Tensor
    """y, (N, K)."""
    total: float
    """s."""
    samples: int
    """N."""
    weight_decay: float

    def duals(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """c (N, K), y - W g (N, K) and N s I + W W^T (K, K)."""
        system = weight @ weight.T
        system.diagonal().add_(self.samples * self.total)
        errors = self.targets - self.centres @ weight.T
        return torch.linalg.solve(system, errors, left=False), errors, system

    def gradient(self, weight: Tensor) -> tuple[float, Tensor]:
        """F and its gradient in W."""
        c, errors, _ = self.duals(weight)
        gradient = self.weight_decay * weight - self.total * (c.T @ self.centres + (c.T @ c) @ weight)
        value = self.weight_decay / 2 * weight.square().sum() + self.total / 2 * (errors * c).sum()
        return float(value), gradient

    def hessian(self, weight: Tensor) -> Callable[[Tensor], Tensor]:
        """V -> the derivative of the gradient along V."""
        c, _, system = self.duals(weight)

        def product(v: Tensor) -> Tensor:
            cross = v @ weight.T
            change = self.centres @ v.T + c @ (cross + cross.T)
            dc = -torch.linalg.solve(system, change, left=False)
            both = dc.T @ c
            fitted = dc.T @ self.centres + (both + both.T) @ weight + (c.T @ c) @ v
            return self.weight_decay * v - self.total * fitted

        return product


def _minimise(
    features: Tensor,
    targets: Tensor,
    small: tuple[Tensor, Tensor],
    start: Tensor,
    beta: float,
    weight_decay: float,
    feature_decay: float,
) -> Perturbation:
    """L-BFGS on the rotated samples, Newton's method at the end, and H for all samples."""
    from scipy.optimize import minimize

    samples, total = len(features), beta + feature_decay
    reduced = _Reduced(small[0] * (beta / total), small[1], total, samples, weight_decay)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = reduced.gradient(torch.from_numpy(flat).to(start).view_as(start))
        return value, gradient.flatten().cpu().numpy()

    options = {"maxiter": 10_000, "maxfun": 20_000, "maxcor": 20, "ftol": 0.0, "gtol": 0.0}
    found = minimize(objective, start.flatten().cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    w, norm, converged, steps = _newton(reduced, torch.from_numpy(found.x).to(start).view_as(start))

    c, *_ = _Reduced(features * (beta / total), targets, total, samples, weight_decay).duals(w)
    shift = c @ w - (feature_decay / total) * features  # H - H0, without cancellation where beta is large
    h = features + shift
    loss = float((h @ w.T - targets).square().sum()) / (2 * samples)
    penalties = [(weight_decay, w), (feature_decay, h), (beta, shift)]
    return Perturbation(
        features=h,
        weight=w,
        value=loss + sum(decay / 2 * float(x.square().sum()) for decay, x in penalties),
        loss=loss,
        gradient_norm=norm,
        proximity=beta,
        movement=float(shift.norm() / features.norm()),
        iterations=int(found.nit) + steps,
        converged=converged,
    )


def _newton(reduced: _Reduced, weight: Tensor) -> tuple[Tensor, float, bool, int]:
    """Newton's method from near a minimum: W, its gradient's norm, whether that is small enough, steps.

    A first step along a direction that is nearly flat can raise the gradient, the next ones do not: the best counts.
    """
    from scipy.sparse.linalg import LinearOperator, cg

    def flat(tensor: Tensor) -> np.ndarray:
        return tensor.flatten().cpu().numpy()

    def shaped(vector: np.ndarray) -> Tensor:
        return torch.from_numpy(vector).to(weight).view_as(weight)

    tolerance = GRADIENT_TOLERANCE * reduced.weight_decay * float(weight.norm())
    tolerance = max(tolerance, ROUNDING * float((reduced.targets.T @ reduced.centres).norm()) / reduced.samples)
    value, gradient = reduced.gradient(weight)
    ceiling = value * (1 + math.copysign(1e-12, value))  # a saddle is higher
    point, steps, size = weight, 0, weight.numel()
    best = float(gradient.norm())
    while best > tolerance and steps < NEWTON_STEPS:
        product = reduced.hessian(point)
        operator = LinearOperator((size, size), matvec=lambda v, p=product: flat(p(shaped(v))), dtype=np.float64)
        change, _ = cg(operator, -flat(gradient), rtol=1e-6, maxiter=10 * size)
        point, steps = point + shaped(change), steps + 1
        value, gradient = reduced.gradient(point)
        if not value <= ceiling:
            break
        if float(gradient.norm()) < best:
            weight, best = point, float(gradient.norm())
    return weight, best, best <= tolerance, steps
