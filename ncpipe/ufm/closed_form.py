r"""Closed-form optima of the unconstrained-features models.

Every optimum here has one shape. The penalties of F factors whose product is Z cost at least

.. math:: \frac F2 \Lambda^{1/F} \sum_i \sigma_i(Z)^{2/F}, \qquad \Lambda \text{ the product of their penalties},

so the problem is a spectral one in the fit Z = W_L ... W_1 H: its minimiser shares singular directions with
the targets and shrinks each singular value by itself (von Neumann's trace inequality; a width d below the rank
keeps the d largest). F = L + 1; a frozen classifier, a simplex whose singular values are sqrt(K/(K-1)), is none of
them: F = L, and Z / sqrt(K/(K-1)) takes the place of Z on its K - 1 directions.

Non-negative features are the exception: class means are an orthogonal frame on the axes, also along directions that
the classifier does not read, and the penalties of a direction are not alike in features and classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from statistics import geometric_mean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncpipe.collapse.frames import helmert
from ncpipe.ufm.model import Model
from ncpipe.ufm.optimum import NoClosedForm, Optimum

Real = Any
"""A number or an array of them."""


def solve(problem: Model) -> Optimum:
    """The closed form of a problem.

    Raises:
        NoClosedForm: with the reason; for a loss that is none of those below.
    """
    form = problem.sample_loss.closed_form
    if not form:
        raise NoClosedForm(f"loss {problem.loss_name!r}: no closed form derived")
    if problem.nonnegative:
        return _nonnegative(problem)
    if form == "pick_all_labels":
        return _pick_all_labels(problem)
    if problem.temperature is not None:
        return _normalised(problem)
    if form in MARGINS:
        return _margin(problem)
    if problem.rescale != (1, 1):
        return _rescaled(problem)
    if not problem.balanced:
        return _imbalanced(problem)
    if problem.classifier == "etf":
        return _frozen(problem)
    if problem.activation == "relu":
        return _relu(problem)
    if problem.bias == "none":
        return _bias_free(problem)
    if problem.bias == "free":
        return _free_bias(problem)
    return _penalised_bias(problem)


def shrunken_fit(strength: float, depth: int) -> tuple[float, float]:
    r"""Minimise phi(x) = 1/2 [(x - 1)^2 + F kappa x^(2/F)] over x >= 0, kappa the ``strength``, F = ``depth`` + 1.

    x is the largest root of x + kappa x^(2/F - 1) = 1, a convex function of x, so that Newton's method
    from x = 1 descends to it. Zero is at least as good once x falls to (L-1)/L; for L = 1, x = 1 - kappa.

    Returns:
        x and phi(x).
    """
    power = 2 / (depth + 1)
    if strength >= vanishing_strength(depth):
        return 0.0, 0.5
    x = 1.0
    for _ in range(100):
        step = (x + strength * x ** (power - 1) - 1) / (1 + strength * (power - 1) * x ** (power - 2))
        x -= step
        if step <= 1e-16:
            break
    return x, ((x - 1) ** 2 + (depth + 1) * strength * x**power) / 2


def vanishing_strength(depth: int) -> float:
    """kappa from which on zero minimises phi: 1 for L = 1, inf for L = 0 (a ridge)."""
    if depth == 0:
        return math.inf
    last = (depth - 1) / depth
    return (1 - last) * last ** (1 - 2 / (depth + 1))


def _strength(problem: Model, n: int | None = None) -> float:
    """kappa = K (n Lambda / s^2)^(1/F), s the singular value of a frozen classifier; c of the plain model."""
    K, n = problem.classes, n or problem.counts[0]
    squared = K / (K - 1) if problem.classifier == "etf" else 1.0
    return K * (n / squared) ** (1 / len(problem.decays)) * geometric_mean(problem.decays)


def _identity(problem: Model) -> Tensor:
    return torch.eye(problem.classes, dtype=torch.float64)


def _optimum(
    problem: Model, value: float, scale: float, left: Tensor, sigma: Tensor | float, basis: str, **fields: Any
) -> Optimum:
    """An optimum with the directions ``left`` (K, r) and singular values ``sigma``, by default for one label each."""
    rank = left.shape[1]
    sizes = sigma if isinstance(sigma, Tensor) else torch.full((rank,), sigma, dtype=torch.float64)
    usual = {"is_global": True, "bias": None if problem.bias == "none" else 0.0, "right": left.T, "rank": rank}
    return Optimum(
        value, rank == 0, scale, basis=basis, problem=problem, left=left, singular_values=sizes, **(usual | fields)
    )


# --- squared loss ------------------------------------------------------------------------------------


def _equal_directions(
    problem: Model, directions: Tensor, basis: str, unfitted: float = 0.0, **fields: Any
) -> Optimum:
    """All target singular values are sqrt(n): shrink each alike, keep as many as the narrowest layer allows.

    ``unfitted``: objective that no fit can change.
    """
    strength, depth = _strength(problem), len(problem.decays) - 1
    x, cost = shrunken_fit(strength, depth)
    available = directions.shape[1]
    rank = min(*problem.widths, available) if x > 0 else 0
    value = (rank * cost + (available - rank) / 2) / problem.classes + unfitted
    fields["zero_threshold"] = vanishing_strength(depth) / strength
    return _optimum(problem, value, x, directions[:, :rank], x * math.sqrt(problem.counts[0]), basis, **fields)


def _bias_free(problem: Model) -> Optimum:
    basis = "soft-thresholded singular values (Tirer & Bruna 2022, Theorem 3.1)"
    if problem.depth > 1:
        basis = "Schatten quasi-norm of the product of all factors (Tirer & Bruna 2022, linear extended model)"
    return _equal_directions(problem, _identity(problem), basis)


def _free_bias(problem: Model) -> Optimum:
    basis = "the bias takes the mean: centred targets, singular values shrunken (derived in docs/ufm.md)"
    return _equal_directions(problem, helmert(problem.classes), basis, bias=1 / problem.classes)


def _frozen(problem: Model) -> Optimum:
    """A simplex reaches the K - 1 centred directions; the mean of the targets, 1/K, is the bias's alone."""
    if problem.activation == "relu":
        raise NoClosedForm("ReLU before a frozen classifier: non-negative features cannot be its frame")
    K, penalty = problem.classes, problem.bias_decay
    unfitted = 1 / (2 * K) if penalty is None else penalty / (1 + penalty) / (2 * K)
    bias = None if penalty is None else 1 / (K * (1 + penalty))
    basis = "a simplex as classifier: ridge of the features in its directions (derived in docs/ufm.md)"
    return _equal_directions(problem, helmert(K), basis, unfitted, bias=bias)


def _relu(problem: Model) -> Optimum:
    if problem.bias != "none":
        raise NoClosedForm("ReLU with a bias: the linear value is not reached, and no other is known")
    if min(problem.widths) < problem.classes:
        raise NoClosedForm(
            f"ReLU with dim {min(problem.widths)} < classes {problem.classes}: no non-negative orthogonal frame fits"
        )
    binary = problem.classes == 2
    basis = "non-negative orthogonal frame (Tirer & Bruna 2022, under a nuclear-norm assumption)"
    if binary:
        basis = "binary deep UFM (Súkeník et al. 2023)"
    elif problem.depth > 2:
        basis = "upper bound: deep neural collapse, which solutions of lower rank can beat (Súkeník et al. 2024)"
    return _equal_directions(problem, _identity(problem), basis, is_global=binary)


def _penalised_bias(problem: Model) -> Optimum:
    """Along the ones direction the bias competes with the fit; elsewhere there is only the fit.

    There the best bias leaves mu/2 (x - 1)^2, mu = lambda_b / (1 + lambda_b), that is mu phi(x) at strength kappa/mu.
    """
    K, strength, depth = problem.classes, _strength(problem), problem.depth
    penalty = problem.bias_decay
    assert penalty
    mu = penalty / (1 + penalty)
    (x, cost), (common, shared) = shrunken_fit(strength, depth), shrunken_fit(strength / mu, depth)
    width = min(problem.widths)
    centred = min(width, K - 1) if x > 0 else 0
    both = common > 0 and width >= K  # the ones direction gains least: a narrow model leaves it to the bias
    value = (centred * cost + (K - 1 - centred) / 2 + mu * (shared if both else 1 / 2)) / K
    sigma = torch.full((centred,), x, dtype=torch.float64)
    directions = helmert(K)[:, :centred]
    if both:
        ones = torch.full((K, 1), 1 / math.sqrt(K), dtype=torch.float64)
        directions, sigma = torch.cat([directions, ones], 1), torch.cat([sigma, sigma.new_tensor([common])])
    convex = depth == 1 and width >= K - 1 + (common > 0)
    basis = "fit and bias share the ones direction (derived in docs/ufm.md)"
    return _optimum(
        problem, value, x, directions, sigma * math.sqrt(problem.counts[0]),
        basis if convex else f"{basis}; best known: not convex, proven for plain models of full width only",
        is_global=convex,
        zero_threshold=vanishing_strength(depth) / strength,
        bias=(1 - (common if both else 0)) / (K * (1 + penalty)),
    )  # fmt: skip


def _imbalanced(problem: Model) -> Optimum:
    """Targets have singular values sqrt(n_k), each shrunken by itself; the d largest are kept.

    kappa_k = N (Lambda n_k)^(1/(L+1)) / n_k is the strength of class k; for L = 1 it vanishes once kappa_k >= 1.
    """
    if problem.activation == "relu" or problem.bias != "none" or problem.classifier == "etf":
        raise NoClosedForm("imbalanced classes: a closed form only for linear bias-free mse models, all trained")
    N, factors = problem.num_samples, len(problem.decays)
    root = geometric_mean(problem.decays)
    order = sorted(range(problem.classes), key=lambda k: -problem.counts[k])
    strengths = {k: N * root * problem.counts[k] ** (1 / factors - 1) for k in order}
    value, scales = 0.0, dict[int, float]()
    for rank, k in enumerate(order):
        x, cost = shrunken_fit(strengths[k], problem.depth)
        kept = rank < min(problem.widths) and x > 0
        value += problem.counts[k] / N * (cost if kept else 1 / 2)
        scales |= {k: x} if kept else {}
    sigma = torch.tensor([x * math.sqrt(problem.counts[k]) for k, x in scales.items()], dtype=torch.float64)
    basis = "singular values sqrt(n_k) of the targets, shrunken one by one (derived in docs/ufm.md)"
    threshold = vanishing_strength(problem.depth) / strengths[order[0]]
    scale = max(scales.values(), default=0.0)
    left = _identity(problem)[:, list(scales)]
    return _optimum(problem, value, scale, left, sigma, basis, zero_threshold=threshold)


def _rescaled(problem: Model) -> Optimum:
    """x = M - K c'/k, f* = K c' M - (K c')^2/(2k), c' = sqrt(n lW lH) < k M/K."""
    if problem.depth > 1 or problem.bias != "none" or not problem.balanced or problem.classifier == "etf":
        raise NoClosedForm("rescaled squared loss: a closed form only for the plain bias-free balanced model")
    (k, target), K, n = problem.rescale, problem.classes, problem.counts[0]
    strength = _strength(problem)  # K c'
    x = max(0.0, target - strength / k)
    if x > 0 and min(problem.widths) < K:
        raise NoClosedForm(
            f"rescaled squared loss with dim {min(problem.widths)} < classes {K}: no orthogonal frame fits"
        )
    value = strength * target - strength**2 / (2 * k) if x > 0 else k * target**2 / 2
    basis = "convex in the fit, symmetric in the classes (derived in docs/ufm.md; loss of Hui & Belkin 2021)"
    left, threshold = _identity(problem)[:, : K if x > 0 else 0], k * target / strength
    return _optimum(problem, value, x, left, x * math.sqrt(n), basis, zero_threshold=threshold)


# --- losses of margins -------------------------------------------------------------------------------


def _margin(problem: Model) -> Optimum:
    """A fit t (I - 11^T/K): the margin t minimises l(t) + (K-1) F/2 p t^(2/F), p = (n Lambda / s^2)^(1/F).

    l is the loss of a sample all of whose other logits are t below its own.
    """
    K, factors = problem.classes, len(problem.decays)
    if factors > 2 or problem.activation == "relu":
        raise NoClosedForm("extended model with cross entropy or its relatives: no closed form derived")
    if not problem.balanced:
        raise NoClosedForm("imbalanced classes with cross entropy or its relatives: no closed form")
    margin, value, threshold = MARGINS[problem.sample_loss.closed_form](problem, _strength(problem) / K)
    if margin > 0 and min(problem.widths) < K - 1:
        raise NoClosedForm(f"loss of margins with dim {min(problem.widths)} < classes - 1 = {K - 1}: no simplex fits")
    basis = "convex in the fit, symmetric in the classes (derived in docs/ufm.md; cf. Zhu et al. 2021)"
    convex = problem.sample_loss.closed_form == "cross_entropy"
    if not convex:
        basis = "simplex ETF (Zhou et al. 2022), its margin by a one-dimensional search"
    proven = convex or problem.classifier == "free" or (factors == 1 and problem.bias == "none")
    left, sigma = helmert(K)[:, : K - 1 if margin > 0 else 0], margin * math.sqrt(problem.counts[0])
    basis = basis if proven else f"{basis}; best known: proven for trained classifiers"
    return _optimum(problem, value, margin, left, sigma, basis, zero_threshold=threshold, is_global=proven)


def _cross_entropy(problem: Model, price: float) -> tuple[float, float, float]:
    """Margin, objective and zero threshold of cross entropy, alpha its label smoothing.

    F = 2: t = log(1/c_e - (K-1)), f* = -log(1 - (K-1) c_e) + (K-1) c_e t, c_e = c' + alpha/K; zero is optimal from
    c' = (1 - alpha)/K on. F = 1: the root of the slope, which is never at zero.
    """
    K, alpha = problem.classes, problem.smoothing
    if len(problem.decays) == 1:

        def slope(t: float) -> float:
            r = (K - 1) * math.exp(-t)
            return (K - 1) * (alpha / K + price * t) - r / (1 + r)

        t = _root(slope, 0, 1 / (price * K))  # where the penalty's slope alone is the loss's at 0
        value = math.log1p((K - 1) * math.exp(-t)) + (K - 1) * (alpha / K * t + price / 2 * t**2)
        return t, value, math.inf
    smoothed, threshold = price + alpha / K, (1 - alpha) / (K * price)
    if threshold <= 1:
        return 0.0, math.log(K), threshold
    t = math.log(1 / smoothed - (K - 1))
    return t, -math.log1p(-(K - 1) * smoothed) + (K - 1) * smoothed * t, threshold


def _focal(problem: Model, price: float) -> tuple[float, float, float]:
    """Minimum of (r/(1+r))^gamma log(1+r) + (K-1) penalty(t), r = (K-1) e^-t: found, not in closed form."""
    K, gamma, ridge = problem.classes, problem.gamma, len(problem.decays) == 1

    def loss(t: Real) -> Real:
        r = (K - 1) * np.exp(-t)
        return (r / (1 + r)) ** gamma * np.log1p(r)

    def objective(t: float) -> float:
        return float(loss(t)) + (K - 1) * price * (t * t / 2 if ridge else t)

    def steepness(t: Real) -> Real:
        """-dl/dt."""
        r = (K - 1) * np.exp(-t)
        p = r / (1 + r)
        return gamma * p**gamma * np.log1p(r) / (1 + r) + p ** (gamma + 1)

    # Beyond the end the penalty alone costs more than zero does.
    end = math.sqrt(2 * loss(0) / ((K - 1) * price)) if ridge else loss(0) / ((K - 1) * price)
    stops = _valleys(lambda t: (K - 1) * price * (t if ridge else 1) - steepness(t), end)
    margin = min([0.0, *stops], key=objective)
    # The price at which the line from (0, l(0)) touches l: largest fall per margin.
    tangents = _valleys(lambda t: loss(0) - loss(t) - t * steepness(t), 50 * (1 + gamma))
    falls = [steepness(0), *((loss(0) - loss(t)) / t for t in tangents)]
    return margin, objective(margin), math.inf if ridge else float(max(falls)) / ((K - 1) * price)


MARGINS = {"cross_entropy": _cross_entropy, "focal": _focal}
"""Closed forms of losses of margins: margin, objective and zero threshold of a problem with a price."""


def _valleys(slope: Callable[[Real], Real], end: float) -> list[float]:
    """Where a function turns from negative to non-negative between 0 and ``end``, to the last digit."""
    grid = np.union1d(np.linspace(0, end, 5_000), np.geomspace(1e-6 * min(end, 1), end, 5_000))
    signs = slope(grid) >= 0
    turns = np.flatnonzero(~signs[:-1] & signs[1:])
    return [_root(slope, float(grid[i]), float(grid[i + 1])) for i in turns]


def _root(slope: Callable[[Real], Real], low: float, high: float) -> float:
    """Where an increasing function crosses zero, by bisection to the last digit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return high


def _normalised(problem: Model) -> Optimum:
    """h = w_y, W a simplex ETF of unit rows: margin t = tau K/(K-1), f* = log(1 + (K-1) e^-t)."""
    K, tau = problem.classes, problem.temperature
    assert tau is not None
    if not problem.balanced:
        raise NoClosedForm("imbalanced classes with normalised features: no closed form")
    if problem.widths[0] < K - 1:
        raise NoClosedForm(
            f"normalised features with dim {problem.widths[0]} < classes - 1 = {K - 1}: no simplex fits"
        )
    margin = tau * K / (K - 1)
    basis = "simplex ETF with features on the classifier (Yaras et al. 2022; derived in docs/ufm.md)"
    sigma = margin * math.sqrt(problem.counts[0])
    value = math.log1p((K - 1) * math.exp(-margin))
    return _optimum(problem, value, margin, helmert(K), sigma, basis, zero_threshold=math.inf)


def _pick_all_labels(problem: Model) -> Optimum:
    r"""One margin t_m per multiplicity m (Li et al. 2024): the fit of the tags S is t_m (1_S - m/K).

    .. math:: G(t) = \frac1N \sum_m w_m N_m \log(m + (K-m) e^{-t_m}) + \sqrt{\lambda_W \lambda_H K A(t)}, \qquad
              A(t) = \sum_m b_m t_m^2, \quad b_m = N_m m (K-m)(K-1)/K^2,

    w_m = m, or 1 if normalised. It is convex. With rho = sqrt(lambda_W lambda_H K / A) the t_m are roots of a
    decreasing function each, and rho^2 A(t(rho)) increases with rho: one bisection within another.
    """
    if problem.depth > 1 or problem.classifier == "etf":
        raise NoClosedForm("several labels: a closed form only for the plain model with a trained classifier")
    assert isinstance(problem.samples, dict)
    K, N, sizes = problem.classes, problem.num_samples, sorted(problem.samples)
    sets = {m: math.comb(K, m) * problem.samples[m] for m in sizes}
    weight = {m: (m if problem.loss == "pick_all_labels" else 1) * sets[m] / N for m in sizes}
    b = {m: sets[m] * m * (K - m) * (K - 1) / K**2 for m in sizes}
    cost = math.prod(problem.decays) * K  # (price of sqrt(A))^2

    def margin(m: int, rho: float) -> float:
        def slope(t: float) -> float:
            odds = (K - m) * math.exp(-t)
            return rho * b[m] * t - weight[m] * odds / (m + odds)

        return _root(slope, 0, weight[m] / (rho * b[m]))

    def excess(log_rho: float) -> float:
        rho = math.exp(log_rho)
        return rho**2 * sum(b[m] * margin(m, rho) ** 2 for m in sizes) - cost

    def loss(m: int, t: float) -> float:
        # log m + log(1 + (K-m)/m e^-t) keeps the digits of single tags
        return weight[m] * (math.log(m) + math.log1p((K - m) / m * math.exp(-t)))

    # At t -> 0, rho -> inf, rho sqrt(A) has its supremum, below which the price leaves zero.
    threshold = math.sqrt(sum((weight[m] * (K - m) / K) ** 2 / b[m] for m in sizes) / cost)
    margins, dim = dict.fromkeys(sizes, 0.0), min(problem.widths)
    if threshold > 1:
        rho = math.exp(_root(excess, math.log(cost) / 2 - 50, math.log(cost) / 2 + 50))
        margins = {m: margin(m, rho) for m in sizes}
        if dim < K - 1:
            raise NoClosedForm(f"several labels with dim {dim} < classes - 1 = {K - 1}: no simplex fits")
    area = sum(b[m] * margins[m] ** 2 for m in sizes)
    value = sum(loss(m, margins[m]) for m in sizes) + math.sqrt(cost * area)
    left = helmert(K)[:, : K - 1 if threshold > 1 else 0]
    sigma = math.sqrt(area * K) / (K - 1)
    basis = "convex in the fit, symmetric in the tags (derived in docs/ufm.md; Li et al. 2024)"
    return _optimum(
        problem, value, margins[1], left, sigma, basis,
        zero_threshold=threshold, margins=margins, right=_tag_profiles(problem, left, margins, sigma),
    )  # fmt: skip


def _tag_profiles(problem: Model, left: Tensor, margins: dict[int, float], sigma: float) -> Tensor:
    """Right singular vectors over the sets of tags, each entry times the square root of its samples, (r, C)."""
    fits = torch.zeros(problem.classes, len(problem.tag_sets), dtype=torch.float64)
    for column, (tags, count) in enumerate(zip(problem.tag_sets, problem.counts, strict=True)):
        fits[list(tags), column] = margins[len(tags)] * math.sqrt(count)
    return left.T @ fits / sigma


# --- non-negative features ---------------------------------------------------------------------------


def _nonnegative(problem: Model) -> Optimum:
    """The closed form with features >= 0, where one is derived.

    Bias-free squared loss has the optimum of the problem without the constraint: its singular directions are those of
    the classes one by one, so that class means lie on the axes.
    """
    margins = problem.sample_loss.closed_form == "cross_entropy"
    if problem.loss == "mse" and problem.bias == "none" and problem.classifier == "free":
        found = solve(replace(problem, nonnegative=False))
        return replace(found, problem=problem, basis=f"{found.basis}; attained by non-negative features")
    reasons = {
        "the optimum depends on how a frozen classifier lies to the axes": problem.classifier == "etf",
        f"none derived for loss {problem.loss!r}": not margins and problem.loss != "mse",
        "none derived for the rescaled squared loss with a bias": problem.rescale != (1, 1),
        "none derived for two or more weight layers with a bias or with cross entropy": problem.depth > 1,
        "none derived for imbalanced classes with a bias": not problem.balanced and problem.bias != "none",
    }
    for reason, holds in reasons.items():
        if holds:
            raise NoClosedForm(f"non-negative features: {reason}")
    return _nonnegative_margin(problem) if margins else _nonnegative_bias(problem)


def _nonnegative_bias(problem: Model) -> Optimum:
    """MSE with a bias: W = a P + w (I - P), P = I - 11^T/K, class means r e_c, b = rho / (K lambda_b).

    With u = r^2 / (K lambda_W), c = K sqrt(n lW lH) and rho = 1 - r w - K b the residual along ones,

        f(u) = (K-1) / (2K (1 + u)) + rho / (2K) + c^2 u / 2,   rho = lambda_b / (1 + lambda_b (1 + u)),

    is convex; r a = u / (1 + u) and r w = u rho. A free bias is lambda_b = 0.
    """
    K, penalty, c = problem.classes, problem.bias_decay, _strength(problem)
    assert penalty is not None

    def rho(u: float) -> float:
        return penalty / (1 + penalty * (1 + u))

    def fall(u: float) -> float:
        """Square of c at which u is stationary."""
        return (K - 1) / K / (1 + u) ** 2 + rho(u) ** 2 / K

    threshold = math.sqrt(fall(0)) / c
    u = _root(lambda u: c - math.sqrt(fall(u)), 0, 1 / c) if threshold > 1 else 0.0
    value = (K - 1) / (2 * K * (1 + u)) + rho(u) / (2 * K) + c**2 * u / 2
    centred = _identity(problem) - 1 / K
    fits = u / (1 + u) * centred + u * rho(u) / K
    bias = 1 / (K * (1 + penalty * (1 + u)))
    return _nonnegative_frame(problem, value, u / (1 + u), fits, zero_threshold=threshold, bias=bias)


def _nonnegative_margin(problem: Model) -> Optimum:
    """Cross entropy and label smoothing: class k has the margin of a balanced problem without the constraint, with
    N/(K n_k) sqrt(n_k lW lH K/(K-1)) for c' (Dang et al. 2024); a bias changes nothing if classes are balanced."""
    K, N = problem.classes, problem.num_samples
    margins, value, threshold = [], 0.0, 0.0
    for n in problem.counts:
        price = N / (K * n) * (_strength(problem, n) / K * math.sqrt(K / (K - 1)))
        margin, loss, until = _cross_entropy(problem, price)
        margins.append(margin)
        value, threshold = value + n / N * loss, max(threshold, until)
    fits = (_identity(problem) - 1 / K) * torch.tensor(margins, dtype=torch.float64)
    return _nonnegative_frame(problem, value, max(margins), fits, zero_threshold=threshold)


def _nonnegative_frame(problem: Model, value: float, scale: float, fits: Tensor, **fields: Any) -> Optimum:
    """Class means r_k e_k and a classifier that gives class k the logits z_k, columns of ``fits`` (K, K).

    Features and classifier pay alike for every class, lambda_H n_k r_k^2 = lambda_W |z_k|^2 / r_k^2.
    """
    counts, (feature_decay, weight_decay) = torch.tensor(problem.counts, dtype=torch.float64), problem.decays
    basis = "orthogonal frame on the axes, which attains a lower bound (derived in docs/ufm.md; Dang et al. 2024)"
    lengths = (weight_decay / (feature_decay * counts) * fits.square().sum(dim=0)) ** 0.25
    live = lengths > 0
    if min(problem.widths) < (needed := int(live.sum())):
        raise NoClosedForm(
            f"non-negative features with dim {min(problem.widths)} < {needed} classes whose mean is not zero:"
            " no orthogonal frame fits"
        )
    left, sigma, right = torch.linalg.svd(fits * counts.sqrt())
    rank = int((sigma > 1e-12 * sigma[0]).sum())
    return _optimum(
        problem, value, scale, left[:, :rank], sigma[:rank], basis,
        right=right[:rank], frame=(torch.diag(lengths)[:, live], (fits / lengths)[:, live]), **fields,
    )  # fmt: skip
