r"""Closed-form optima of the unconstrained-features models, and a minimiser for each.

Every optimum here has one shape. The penalties of factors whose product is Z cost at least

.. math:: \frac{L+1}2 \Lambda^{1/(L+1)} \sum_i \sigma_i(Z)^{2/(L+1)}, \qquad
          \Lambda = \lambda_H \prod_l \lambda_l ,

so the problem is a spectral one in the fit Z = W_L ... W_1 H: its minimiser shares singular directions with
the targets and shrinks each singular value by itself (von Neumann's trace inequality; a rank bound d keeps
the d largest). A closed form is therefore K x r directions, r singular values, and a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ncpipe.ufm.objective import Minimiser

if TYPE_CHECKING:
    from ncpipe.ufm.problem import Problem


class NoClosedForm(Exception):  # noqa: N818 - an answer about the problem, not a fault
    """No theorem or derivation gives this problem's optimum; the message is the reason."""


@dataclass(frozen=True)
class Optimum:
    """The smallest objective of a problem, and what it rests on."""

    value: float
    """f*, penalties included."""
    is_zero: bool
    """All weights and features vanish."""
    scale: float
    """mse: fit x of a class, W_L ... mu_c = x e_c (centred if there is a bias; the largest class if
    imbalanced). Other losses: margin t between the true and the other logits."""
    rank: int
    """Rank of the fit."""
    basis: str
    """The theorem or derivation."""
    is_global: bool
    """Proven to be the global optimum; otherwise the best value known, with its condition in ``basis``."""


@dataclass(frozen=True)
class ClosedForm:
    """An optimum with the fit that attains it: sum_j sigma_j u_j (u_j^T diag(n)^-1/2 Y), and a bias."""

    optimum: Optimum
    directions: Tensor
    """Left singular vectors u_j of the fit, (K, r)."""
    singular_values: Tensor
    """sigma_j, (r,)."""
    bias: float
    """Every entry of the bias."""


def solve(problem: Problem) -> ClosedForm:
    """The closed form of a problem.

    Raises:
        NoClosedForm: with the reason.
    """
    if problem.loss == "focal":
        return _focal(problem)
    if problem.loss != "mse":
        return _cross_entropy(problem)
    if problem.rescale != (1, 1):
        return _rescaled(problem)
    if not problem.balanced:
        return _imbalanced(problem)
    if problem.activation == "relu":
        return _relu(problem)
    if problem.bias == "none":
        return _bias_free(problem)
    if problem.bias == "free":
        return _free_bias(problem)
    return _penalised_bias(problem)


def construct(problem: Problem) -> Minimiser:
    """Factor the fit so that every factor pays the same penalty: lambda_j alpha_j^2 = (Lambda sigma^2)^(1/(L+1)).

    Factor j acts as diag(alpha_j) on the first r coordinates of the feature space; the classifier leads from
    them to the classes, the features lead the samples to them, one point per class.
    """
    form = solve(problem)
    rank, factors = len(form.singular_values), problem.depth + 1
    common = _penalty_product(problem) ** (1 / factors) * form.singular_values ** (2 / factors)
    into = torch.zeros(problem.classes, problem.dim, dtype=torch.float64)
    into[:, :rank] = form.directions

    def spread(decay: float) -> Tensor:
        diagonal = torch.zeros(problem.dim, dtype=torch.float64)
        diagonal[:rank] = (common / decay).sqrt()
        return diagonal

    weights = [torch.diag(spread(decay)) for decay in problem.weight_decays[:-1]]
    weights.append(into * spread(problem.weight_decays[-1]))
    counts = torch.tensor(problem.counts, dtype=torch.float64)
    columns = into * spread(problem.feature_decay) / counts.sqrt()[:, None]
    bias = None if problem.bias == "none" else torch.full((problem.classes,), form.bias, dtype=torch.float64)
    return Minimiser(problem, columns, weights, bias, tied=True)


def shrunken_fit(strength: float, depth: int) -> tuple[float, float]:
    r"""Minimise phi(x) = 1/2 [(x - 1)^2 + (L + 1) kappa x^(2/(L+1))] over x >= 0, kappa the ``strength``.

    x is the largest root of x + kappa x^(2/(L+1) - 1) = 1, a convex function of x, so that Newton's method
    from x = 1 descends to it. Zero is at least as good once x falls to (L-1)/L; for L = 1, x = 1 - kappa.

    Returns:
        x and phi(x).
    """
    power = 2 / (depth + 1)
    last = (depth - 1) / depth
    if strength >= (1 - last) * last ** (1 - power):
        return 0.0, 0.5
    x = 1.0
    for _ in range(100):
        step = (x + strength * x ** (power - 1) - 1) / (1 + strength * (power - 1) * x ** (power - 2))
        x -= step
        if step <= 1e-16:
            break
    return x, ((x - 1) ** 2 + (depth + 1) * strength * x**power) / 2


def _penalty_product(problem: Problem) -> float:
    return problem.feature_decay * math.prod(problem.weight_decays)


def _strength(problem: Problem) -> float:
    """kappa = K (n Lambda)^(1/(L+1)); c of the plain model."""
    n = problem.counts[0]
    return problem.classes * (n * _penalty_product(problem)) ** (1 / (problem.depth + 1))


def _helmert(classes: int) -> Tensor:
    """Orthonormal basis of the vectors that sum to zero, (K, K - 1)."""
    basis = torch.zeros(classes, classes - 1, dtype=torch.float64)
    for j in range(1, classes):
        basis[:j, j - 1] = 1 / math.sqrt(j * (j + 1))
        basis[j, j - 1] = -j / math.sqrt(j * (j + 1))
    return basis


def _equal_directions(problem: Problem, directions: Tensor, basis: str, is_global: bool = True) -> ClosedForm:
    """All target singular values are sqrt(n): shrink each alike, keep d of them, leave the others unfitted."""
    x, cost = shrunken_fit(_strength(problem), problem.depth)
    available = directions.shape[1]
    rank = min(problem.dim, available) if x > 0 else 0
    value = (rank * cost + (available - rank) / 2) / problem.classes
    sigma = torch.full((rank,), x * math.sqrt(problem.counts[0]), dtype=torch.float64)
    bias = 0.0 if problem.bias == "none" else 1 / problem.classes
    return ClosedForm(Optimum(value, rank == 0, x, rank, basis, is_global), directions[:, :rank], sigma, bias)


def _bias_free(problem: Problem) -> ClosedForm:
    basis = "soft-thresholded singular values (Tirer & Bruna 2022, Theorem 3.1)"
    if problem.depth > 1:
        basis = "Schatten quasi-norm of the product of all factors (Tirer & Bruna 2022, linear extended model)"
    return _equal_directions(problem, torch.eye(problem.classes, dtype=torch.float64), basis)


def _free_bias(problem: Problem) -> ClosedForm:
    basis = "the bias takes the mean: centred targets, singular values shrunken (derived in docs/ufm.md)"
    return _equal_directions(problem, _helmert(problem.classes), basis)


def _relu(problem: Problem) -> ClosedForm:
    if problem.bias != "none":
        raise NoClosedForm("ReLU with a bias: the linear value is not reached, and no other is known")
    if problem.dim < problem.classes:
        raise NoClosedForm(
            f"ReLU with dim {problem.dim} < classes {problem.classes}: no non-negative orthogonal frame fits"
        )
    binary = problem.classes == 2
    basis = "non-negative orthogonal frame (Tirer & Bruna 2022, under a nuclear-norm assumption)"
    if binary:
        basis = "binary deep UFM (Súkeník et al. 2023)"
    elif problem.depth > 2:
        basis = "upper bound: deep neural collapse, which solutions of lower rank can beat (Súkeník et al. 2024)"
    directions = torch.eye(problem.classes, dtype=torch.float64)
    return _equal_directions(problem, directions, basis, is_global=binary)


def _penalised_bias(problem: Problem) -> ClosedForm:
    """Along the ones direction the bias competes with the fit; elsewhere there is only the fit."""
    if problem.depth > 1:
        raise NoClosedForm("extended model with a penalised bias: no closed form derived")
    K, c, penalty = problem.classes, _strength(problem), problem.bias_decay
    assert penalty
    x, cost = shrunken_fit(c, depth=1)
    centred = K - 1 if x > 0 else 0
    common = 1 - c * (1 + 1 / penalty)
    both = common > 0
    rank = centred + both
    if problem.dim < rank:
        raise NoClosedForm(f"penalised bias with dim {problem.dim} < {rank}, the rank of the unrestricted fit")
    if both:
        value = (K - 1) / K * cost + (c - c * c / 2 * (1 + 1 / penalty)) / K
        bias = c / (K * penalty)
    else:
        value = (K - 1) / K * cost + penalty / (2 * K * (1 + penalty))
        bias = 1 / (K * (1 + penalty))
    directions = _helmert(K)[:, :centred]
    sigma = torch.full((centred,), x, dtype=torch.float64)
    if both:
        ones = torch.full((K, 1), 1 / math.sqrt(K), dtype=torch.float64)
        directions, sigma = torch.cat([directions, ones], 1), torch.cat([sigma, sigma.new_tensor([common])])
    basis = "convex in fit and bias, solved per direction (derived in docs/ufm.md)"
    optimum = Optimum(value, rank == 0, x, rank, basis, is_global=True)
    return ClosedForm(optimum, directions, sigma * math.sqrt(problem.counts[0]), bias)


def _imbalanced(problem: Problem) -> ClosedForm:
    """Targets have singular values sqrt(n_k), each shrunken by itself; the d largest are kept.

    kappa_k = N (Lambda n_k)^(1/(L+1)) / n_k is the strength of class k; for L = 1 it vanishes once kappa_k >= 1.
    """
    if problem.activation == "relu" or problem.bias != "none":
        raise NoClosedForm("imbalanced classes: a closed form only for linear bias-free mse models")
    N, root = problem.num_samples, _penalty_product(problem) ** (1 / (problem.depth + 1))
    order = sorted(range(problem.classes), key=lambda k: -problem.counts[k])
    value, scales = 0.0, dict[int, float]()
    for rank, k in enumerate(order):
        n = problem.counts[k]
        x, cost = shrunken_fit(N * root * n ** (1 / (problem.depth + 1) - 1), problem.depth)
        kept = rank < problem.dim and x > 0
        value += n / N * (cost if kept else 1 / 2)
        scales |= {k: x} if kept else {}
    sigma = torch.tensor([x * math.sqrt(problem.counts[k]) for k, x in scales.items()], dtype=torch.float64)
    alive = list(scales)
    scale = scales[alive[0]] if alive else 0.0
    basis = "singular values sqrt(n_k) of the targets, shrunken one by one (derived in docs/ufm.md)"
    optimum = Optimum(value, not alive, scale, len(alive), basis, is_global=True)
    return ClosedForm(optimum, torch.eye(problem.classes, dtype=torch.float64)[:, alive], sigma, 0.0)


def _rescaled(problem: Problem) -> ClosedForm:
    """x = M - K c'/k, f* = K c' M - (K c')^2/(2k), c' = sqrt(n lW lH) < k M/K."""
    if problem.depth > 1 or problem.bias != "none" or not problem.balanced:
        raise NoClosedForm("rescaled squared loss: a closed form only for the plain bias-free balanced model")
    (k, target), K, n = problem.rescale, problem.classes, problem.counts[0]
    strength = _strength(problem)  # K c'
    x = max(0.0, target - strength / k)
    if x > 0 and problem.dim < K:
        raise NoClosedForm(f"rescaled squared loss with dim {problem.dim} < classes {K}: no orthogonal frame fits")
    value = strength * target - strength**2 / (2 * k) if x > 0 else k * target**2 / 2
    rank = K if x > 0 else 0
    basis = "convex in the fit, symmetric in the classes (derived in docs/ufm.md; loss of Hui & Belkin 2021)"
    sigma = torch.full((rank,), x * math.sqrt(n), dtype=torch.float64)
    optimum = Optimum(value, x == 0, x, rank, basis, is_global=True)
    return ClosedForm(optimum, torch.eye(K, dtype=torch.float64)[:, :rank], sigma, 0.0)


def _cross_entropy(problem: Problem) -> ClosedForm:
    """t* = log(1/c_e - (K-1)), f* = -log(1 - (K-1) c_e) + (K-1) c_e t*, c_e = c' + alpha/K, c' = sqrt(n lW lH).

    alpha is the label smoothing; zero is optimal from c' = (1 - alpha)/K on. The bias is 0.
    """
    K, c = problem.classes, _margin_price(problem)
    smoothed = c + problem.smoothing / K
    is_zero = smoothed >= 1 / K
    margin = 0.0 if is_zero else math.log(1 / smoothed - (K - 1))
    value = math.log(K) if is_zero else -math.log1p(-(K - 1) * smoothed) + (K - 1) * smoothed * margin
    basis = "convex in the fit, symmetric in the classes (derived in docs/ufm.md; cf. Zhu et al. 2021)"
    return _simplex(problem, margin, value, basis)


def _focal(problem: Problem) -> ClosedForm:
    """The least of (r/(1+r))^gamma log(1+r) + (K-1) c' t over t >= 0, r = (K-1) e^-t: found, not in closed form."""
    K, c, gamma = problem.classes, _margin_price(problem), problem.gamma

    def objective(t: float) -> float:
        r = (K - 1) * math.exp(-t)
        return (r / (1 + r)) ** gamma * math.log1p(r) + (K - 1) * c * t

    def slope(t: float) -> float:
        r = (K - 1) * math.exp(-t)
        p = r / (1 + r)
        return (K - 1) * c - gamma * p**gamma * math.log1p(r) / (1 + r) - p ** (gamma + 1)

    end = objective(0) / ((K - 1) * c)  # beyond it the penalty alone costs more
    grid = [end * i / 10_000 for i in range(10_001)]
    descents = [(low, high) for low, high in pairwise(grid) if slope(low) < 0 <= slope(high)]
    margin = min([0.0, *(_root(slope, low, high) for low, high in descents)], key=objective)
    basis = "simplex ETF (Zhou et al. 2022), its margin by a one-dimensional search"
    return _simplex(problem, margin, objective(margin), basis)


def _root(slope: Callable[[float], float], low: float, high: float) -> float:
    """Where an increasing function crosses zero, by bisection to the last digit."""
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return high


def _margin_price(problem: Problem) -> float:
    """c' = sqrt(n lW lH): K - 1 times this is the penalty of a margin of one."""
    if problem.depth > 1:
        raise NoClosedForm("extended model with cross entropy or its relatives: no closed form derived")
    if not problem.balanced:
        raise NoClosedForm("imbalanced classes with cross entropy or its relatives: no closed form")
    return math.sqrt(problem.counts[0] * _penalty_product(problem))


def _simplex(problem: Problem, margin: float, value: float, basis: str) -> ClosedForm:
    """A fit t (I - 11^T/K)."""
    needed = problem.classes - 1
    if margin > 0 and problem.dim < needed:
        raise NoClosedForm(f"loss of margins with dim {problem.dim} < classes - 1 = {needed}: no simplex fits")
    rank = needed if margin > 0 else 0
    optimum = Optimum(value, rank == 0, margin, rank, basis, is_global=True)
    sigma = torch.full((rank,), margin * math.sqrt(problem.counts[0]), dtype=torch.float64)
    return ClosedForm(optimum, _helmert(problem.classes)[:, :rank], sigma, 0.0)
