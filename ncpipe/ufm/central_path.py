r"""The central path of Han, Papyan & Donoho (ICLR 2022): features whose classifier is always the least-squares one.

With a free bias and no penalty, squared error is invariant under h -> A h, W -> W A^-1, so features are taken with
within-class covariance Sigma_W = I. Gradient flow of the least-squares loss on that set moves the singular values
w_j of the signal-to-noise matrix Sigma_W^{-1/2} M alone, each by a law of its own. See docs/dynamics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real

import torch
from torch import Tensor

from ncpipe.collapse.arguments import Array, as_count, as_features, as_labels, require_finite
from ncpipe.collapse.moments import class_means
from ncpipe.collapse.statistics import centred_means

NEWTON_STEPS = 50
"""More than the law's equation ever takes: about ten."""
TOLERANCE = 1e-12
"""Tolerance of the integrator, relative."""


def snr_law(start: float | Array, times: Sequence[float] | Array, *, classes: int, samples: int) -> Tensor:
    r"""Singular values of the signal-to-noise matrix on the central path, exact at any time.

    .. math:: N K \log w + N w^2 + \frac{N}{4K} w^4 = a + t, \qquad \dot w = \frac{K w}{N (K + w^2)^2}

    for the loss :math:`\frac{1}{2N} \sum_i |W h_i + b - y_i|^2`, balanced classes, no penalty. w grows as
    :math:`(4Kt/N)^{1/4}` whatever its start.

    Args:
        start: w at time 0, positive: a number, or one for every direction (r,).
        times: (T,), at least 0, in any order.
        classes: K.
        samples: N, of all classes together; a multiple of K.

    Returns:
        w(t) in float64, (T, r); (T,) where ``start`` is a number. Relative error below 1e-13.

    Raises:
        ValueError: naming the argument.

    Example:
        >>> [round(float(w), 8) for w in snr_law(1.0, [0, 1000], classes=4, samples=48)]
        [1.0, 3.22814866]
    """
    w0 = torch.as_tensor(start, dtype=torch.float64)
    t = torch.as_tensor(times, dtype=torch.float64, device=w0.device)
    if w0.ndim > 1 or not bool(((w0 > 0) & w0.isfinite()).all()):
        raise ValueError("start: needs finite numbers > 0, one or a vector; a direction at zero stays at zero")
    if t.ndim != 1 or not bool(((t >= 0) & t.isfinite()).all()):
        raise ValueError("times: needs a vector of finite numbers >= 0")
    if classes < 2 or samples < classes or samples % classes:
        raise ValueError(f"samples: got {samples}; needs the samples of all {classes} classes, a multiple of classes")
    # With v = log(w^2/K) the law is v + 2 e^v + e^2v/2 = const + 2t/(NK): convex and increasing in v.
    initial = (w0.square() / classes).log()
    elapsed = 2 * t / (samples * classes)
    target = _potential(initial) + (elapsed[:, None] if w0.ndim else elapsed)
    # Newton's method descends to the root from above; v <= target, and e^2v/2 <= target where v >= 0
    v = torch.where(target > 2.5, (2 * target.clamp(min=2.5)).log() / 2, target)
    for _ in range(NEWTON_STEPS):
        e = v.exp()
        step = (_potential(v) - target) / (1 + 2 * e + e.square())
        v = v - step
        if bool((step.abs() <= 1e-15 * (1 + v.abs())).all()):
            break
    return math.sqrt(classes) * (v / 2).exp()


def _potential(v: Tensor) -> Tensor:
    e = v.exp()
    return v + 2 * e + e.square() / 2


def snr(features: Array, labels: Array, *, num_classes: int | None = None) -> Tensor:
    r"""Singular values of the signal-to-noise matrix :math:`\Sigma_W^{-1/2} M`, M the centred class means.

    Args:
        features: (N, d), NumPy or Torch, floating point.
        labels: (N,) integers in [0, K).
        num_classes: K; one more than the largest label where it is not given.

    Returns:
        (min(K - 1, d),) in float64, descending.

    Raises:
        ValueError: as for ``ncpipe.measure``, or the within-class covariance is singular.

    Example:
        >>> h = torch.tensor([[2.0, 1.0], [2.0, -1.0], [3.0, 0.0], [1.0, 0.0], [-2.0, 1.0], [-2.0, -1.0]])
        >>> snr(torch.cat([h, torch.tensor([[-3.0, 0.0], [-1.0, 0.0]])]), torch.arange(8) // 4)
        tensor([4.], dtype=torch.float64)
    """
    h, y, count = _checked(features, labels, num_classes)
    _, means = class_means(_whitened(h, y, count), y, count)
    return torch.linalg.svdvals(centred_means(means))[: count - 1]


@dataclass(frozen=True, eq=False)
class CentralPath:
    """Renormalised gradient flow from given features, recorded at T times."""

    times: Tensor = field(repr=False)
    """(T,), from 0 to the end."""
    singular_values: Tensor = field(repr=False)
    """Singular values of the signal-to-noise matrix, measured on the features, (T, K - 1), descending."""
    loss: Tensor = field(repr=False)
    """1/(2N) sum_i |W_LS h_i + b_LS - y_i|^2 of the features, (T,)."""
    nc1_pinv: Tensor = field(repr=False)
    """Tr(Sigma_W Sigma_B^+)/K, which is the sum of 1/w_j^2, (T,)."""
    features: Tensor = field(repr=False)
    """At the last time, with Sigma_W = I, (N, d) float64."""


def renormalized_flow(
    features: Array, labels: Array, *, time: float, points: int = 40, num_classes: int | None = None
) -> CentralPath:
    r"""Simulate renormalised gradient flow on the features themselves, every sample a free vector.

    Features are whitened, H -> Sigma_W^{-1/2} H. At every instant the classifier is the least-squares one (free
    bias, no penalty), and the features follow the negative gradient of
    :math:`L = \frac{1}{2N} \sum_i |W_{LS} h_i + b_{LS} - y_i|^2` projected on the tangent space of
    :math:`\{\Sigma_W = I\}`. Of a sample's gradient, :math:`W^\top W \delta_i / N` for its deviation
    :math:`\delta_i` from the class mean is normal to that set, and the rest is common to its class. So deviations
    stay, class means move, and Sigma_W remains I. The law of ``snr_law`` is not used.

    Args:
        features: (N, d), NumPy or Torch, floating point, d >= K - 1; balanced, with an invertible Sigma_W.
        labels: (N,) integers in [0, K).
        time: length of the flow, in which the gradient is that of L with respect to every sample's features.
        points: recorded times, 0 and log-spaced from ``time``/10^4.
        num_classes: K; one more than the largest label where it is not given.

    Raises:
        ValueError: classes of different size, d < K - 1, a singular Sigma_W, or class means of too low a rank.

    Source: Han, Papyan & Donoho, *Neural collapse under MSE loss: proximity to and dynamics on the central path*.

    Example:
        >>> labels = torch.arange(48) % 4
        >>> rows = torch.randn(48, 6, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(4, 6)[labels]
        >>> path = renormalized_flow(rows, labels, time=1e4, points=5)
        >>> law = snr_law(path.singular_values[0], path.times, classes=4, samples=48)
        >>> torch.allclose(path.singular_values, law, rtol=1e-8)
        True
    """
    h, y, count = _checked(features, labels, num_classes)
    _check_course(time, points)
    _require_central_path(h, y, count)
    white = _whitened(h, y, count)
    _, means = class_means(white, y, count)
    centre, deviations = means.mean(dim=0), white - means[y]
    start = centred_means(means)
    values = torch.linalg.svdvals(start)[: count - 1]
    if float(values[-1]) <= 1e-10 * float(values[0]):
        raise ValueError(
            f"features: the centred class means have rank below K - 1 = {count - 1}, and the flow keeps it: "
            "join the classes whose means depend on the others, or move them apart"
        )
    times, path = _integrate(start, len(h), float(time), points)
    w = torch.linalg.svdvals(path)[:, : count - 1]
    losses = torch.stack([_loss(centred) for centred in path])
    return CentralPath(times, w, losses, w.pow(-2).sum(dim=1), deviations + (centre + path[-1])[y])


def _check_course(time: float, points: int) -> None:
    if not (isinstance(time, Real) and 0 < time < math.inf):
        raise ValueError(f"time: got {time!r}; needs a finite number > 0")
    if not isinstance(points, int) or points < 2:
        raise ValueError(f"points: got {points!r}; needs an integer, at least 2")


def _checked(features: Array, labels: Array, num_classes: int | None) -> tuple[Tensor, Tensor, int]:
    """Float64 features on the CPU, labels, K; every class has a sample."""
    h = as_features("features", features)
    require_finite("features", h)
    known = None if num_classes is None else as_count(num_classes)
    y = as_labels(labels, h, known)
    count = int(y.max()) + 1 if known is None else known
    missing = (torch.bincount(y, minlength=count) == 0).nonzero()[:, 0].tolist()
    if count < 2 or missing:
        raise ValueError(f"labels: {f'no sample of class {missing[0]}' if missing else 'one class only'}")
    return h.double().cpu(), y.cpu(), count


def _require_central_path(features: Tensor, labels: Tensor, classes: int) -> None:
    """What the flow needs beyond ``_checked``."""
    counts = torch.bincount(labels, minlength=classes)
    if int(counts.min()) < int(counts.max()):
        raise ValueError(
            f"labels: classes have {int(counts.min())} to {int(counts.max())} samples; the central path is of "
            "balanced classes: take the same number of each"
        )
    if features.shape[1] < classes - 1:
        raise ValueError(f"features: d = {features.shape[1]} is below K - 1 = {classes - 1}; needs d >= K - 1")


def _whitened(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """H Sigma_W^{-1/2}, by the singular values of the deviations, which square to those of Sigma_W."""
    _, means = class_means(features, labels, classes)
    deviations = features - means[labels]
    samples, width = features.shape
    triangle = torch.linalg.qr(deviations, mode="r").R
    _, scale, axes = torch.linalg.svd(triangle, full_matrices=False)
    rank = int((scale > max(samples, width) * torch.finfo(torch.float64).eps * scale[0]).sum())
    if rank < width:
        raise ValueError(
            f"features: the within-class covariance is singular, of rank {rank} in d = {width} dimensions; give more "
            "samples (at least d + K), or project the features on fewer principal components"
        )
    return features @ (axes.T * (math.sqrt(samples) / scale)) @ axes


def _integrate(start: Tensor, samples: int, time: float, points: int) -> tuple[Tensor, Tensor]:
    """Times (T,) and the centred class means at each (T, K, d)."""
    from scipy.integrate import solve_ivp

    first = min(points - 2, 1) * 4
    logs = torch.linspace(math.log10(time) - first, math.log10(time), points - 1, dtype=torch.float64)
    times = torch.cat([logs.new_zeros(1), 10 ** logs[:-1], logs.new_tensor([time])])
    flow = solve_ivp(
        lambda _, state: _velocity(torch.from_numpy(state).view_as(start), samples).flatten().numpy(),
        (0.0, time),
        start.flatten().numpy(),
        method="DOP853",
        t_eval=times.numpy(),
        rtol=TOLERANCE,
        atol=TOLERANCE * float(torch.linalg.svdvals(start)[len(start) - 2]),
    )
    return times, torch.from_numpy(flow.y.T.copy()).view(points, *start.shape)


def _classifier(centred: Tensor) -> tuple[Tensor, Tensor]:
    """Where Sigma_W = I: W_LS (K, d), and W_LS mu_c + b_LS - e_c in row c, (K, K)."""
    classes, centred = len(centred), centred_means(centred)  # again: rounding would make the integration stiff
    identity = torch.eye(classes, dtype=centred.dtype)
    # (M/K) (I + M^T M/K)^-1 with the inverse moved to the side of the classes; b_LS = 1/K - W_LS mu_G
    weight = torch.linalg.solve(classes * identity + centred @ centred.T, centred)
    return weight, centred @ weight.T + 1 / classes - identity


def _loss(centred: Tensor) -> Tensor:
    """Within-class part |W_LS|^2/2 and the residuals of the class means."""
    weight, residuals = _classifier(centred)
    return weight.square().sum() / 2 + residuals.square().sum() / (2 * len(centred))


def _velocity(centred: Tensor, samples: int) -> Tensor:
    """Minus the gradient of the loss, projected: of the class means (K, d), as nothing else moves."""
    weight, residuals = _classifier(centred)
    return -residuals @ weight / samples
