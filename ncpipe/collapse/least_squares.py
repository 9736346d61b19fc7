"""Han, Papyan & Donoho's split of the squared error: the part of the least-squares classifier, and the rest.

With features extended by a one, h~ = [h; 1], and W~ = [W, b], the penalised half squared error is

    L = 1/(2N) sum_i |W~ h~_i - y_i|^2 + lambda/2 |W|^2 + lambda_b/2 |b|^2 = L_NC1 + L_NC2/3 + L_perp,

    A = Sigma~_W + sum_c (n_c/N) mu~_c mu~_c^T + Lambda,   Lambda = diag(lambda, .., lambda, lambda_b),
    W~_LS = [(n_c/N) mu~_c as rows] A^-1,
    L_NC1 = 1/2 tr W~_LS (Sigma~_W + Lambda) W~_LS^T,
    L_NC2/3 = 1/2 sum_c (n_c/N) |W~_LS mu~_c - e_c|^2,
    L_perp = 1/2 tr (W~ - W~_LS) A (W~ - W~_LS)^T.

For classes of equal size and lambda_b = lambda these are the formulas of the paper.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ncpipe.collapse.statistics import LayerStatistics
from ncpipe.system.lazy import Tensor, torch

SPLIT = ("loss_nc1", "loss_nc23", "loss_perp")


@dataclass(frozen=True)
class LeastSquaresSplit:
    """The three parts, whose sum is the penalised loss, and the classifier that they are about."""

    loss_nc1: float
    """Within-class part of the least-squares classifier's loss, penalty included; 0 at collapse without penalty."""
    loss_nc23: float
    """Its part at the class means: 0 where the least-squares classifier maps each mean to its target."""
    loss_perp: float
    """What the actual classifier loses against the least-squares one; 0 on the central path."""
    weight: Tensor
    """W_LS, (K, d) float64."""
    bias: Tensor | None
    """b_LS, (K,); the given bias where it is fixed; None without a bias."""

    @property
    def loss(self) -> float:
        """L, the penalised half squared error."""
        return self.loss_nc1 + self.loss_nc23 + self.loss_perp

    def values(self) -> dict[str, float]:
        """The parts by metric name."""
        return {name: getattr(self, name) for name in SPLIT}


def least_squares_split(
    statistics: LayerStatistics,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    ridge: float,
    bias_decay: float | None = None,
) -> LeastSquaresSplit:
    r"""Split the penalised half squared error of a classifier on one-hot targets.

    Args:
        statistics: of the features, with ``within_products``.
        weight: W (K, d).
        bias: b (K,); None for a classifier without a bias.
        ridge: lambda, the penalty :math:`\frac\lambda2 |W|^2`. For a network trained with ``torch.nn.MSELoss`` and
            weight decay wd it is K wd/2; for the half squared error, wd.
        bias_decay: lambda_b, which tells four variants apart: equal to ``ridge`` (default) the penalised bias of
            the paper; another number, a penalty of its own; 0, a free bias; ``math.inf``, a bias fixed at ``bias``.
            Without a ``bias`` there is none.

    Raises:
        ValueError: the statistics lack ``within_products`` or a class, or a penalty is negative.
    """
    if statistics.within_products is None:
        raise ValueError("the split needs within_products: take statistics with products=True")
    check_penalties(ridge, bias_decay)
    if not torch.isfinite(statistics.means).all():
        raise ValueError("the split needs finite samples of every class")
    means, total = statistics.means, statistics.num_samples
    bias = None if bias is None else bias.detach().to(means)
    extended = None if bias_decay == math.inf else bias
    targets = torch.eye(len(means), dtype=means.dtype, device=means.device)
    if bias is not None and extended is None:
        targets = targets - bias  # row c: e_c - b
    penalties = torch.full_like(means[0], ridge)
    within, weight = statistics.within_products / total, weight.detach().to(means)
    if extended is not None:
        means = torch.cat([means, means.new_ones(len(means), 1)], dim=1)
        within = torch.nn.functional.pad(within, (0, 1, 0, 1))
        weight = torch.cat([weight, extended[:, None]], dim=1)
        penalties = torch.cat([penalties, penalties.new_tensor([ridge if bias_decay is None else bias_decay])])
    shares = statistics.counts.double() / total
    best, parts = _split(means, within + torch.diag(penalties), weight, shares, targets)
    width = statistics.means.shape[1]
    return LeastSquaresSplit(*parts, best[:, :width], bias if extended is None else best[:, -1])


def _split(
    means: Tensor, within: Tensor, weight: Tensor, shares: Tensor, targets: Tensor
) -> tuple[Tensor, tuple[float, float, float]]:
    """W~_LS and the three parts of the loss; mu~_c (K, d), Sigma~_W + Lambda (d, d), W~ (K, d) and n_c/N (K,)."""
    weighted = shares[:, None] * means
    second = within + means.T @ weighted
    best = _solve(second, weighted.T @ targets).T
    off = weight - best
    return best, (
        float(((best @ within) * best).sum()) / 2,
        float((shares * (means @ best.T - targets).square().sum(dim=1)).sum()) / 2,
        float(((off @ second) * off).sum()) / 2,
    )


def penalised_loss(
    half_squared_error: float,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    ridge: float,
    bias_decay: float | None = None,
) -> float:
    """L itself, to which the three parts sum: the mean half squared error 1/(2N) sum_i |z_i - y_i|^2 of the logits
    plus lambda/2 |W|^2 + lambda_b/2 |b|^2. Arguments as in ``least_squares_split``; a fixed bias is not penalised."""
    check_penalties(ridge, bias_decay)
    decay = ridge if bias_decay is None else bias_decay
    penalty = ridge * float(weight.double().square().sum())
    if bias is not None and decay != math.inf:
        penalty += decay * float(bias.double().square().sum())
    return half_squared_error + penalty / 2


def check_penalties(ridge: float, bias_decay: float | None) -> None:
    """Raise ``ValueError`` where a penalty is negative or not a number."""
    if not isinstance(ridge, int | float) or not 0 <= ridge < math.inf:
        raise ValueError(f"ridge must be a number of at least 0, got {ridge}")
    if bias_decay is not None and not bias_decay >= 0:
        raise ValueError(f"bias_decay must be at least 0, got {bias_decay}")


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """A^-1 B for a positive semidefinite A; the solution of least norm where A is singular."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if not failed and float(factor.diagonal().min() / factor.diagonal().max()) > 1e-6:
        return torch.cholesky_solve(right, factor)
    return torch.linalg.pinv(matrix, hermitian=True) @ right
