"""The unconstrained-features model of a regression, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ncpipe.collapse.arguments import Array, as_features, require_finite
from ncpipe.ufm.model import FEATURE_DECAY, WEIGHT_DECAY, integer, penalty


@dataclass(frozen=True, eq=False)
class RegressionOptimum:
    """The smallest objective of a regression, and one point that attains it: rotations of the features are free."""

    value: float
    """f*, penalties included."""
    gamma: float
    """c = N lambda_W lambda_H: directions of the targets with a variance of at most c are cut off, and the residuals
    along the others have this variance. The gamma of NRC3 where no direction is cut off."""
    rank: int
    """Directions of the targets that are fitted."""
    weight: Tensor
    """W, (n, d)."""
    bias: Tensor
    """The mean of the targets, (n,)."""
    features: Tensor
    """H, one sample a row, (N, d)."""


def regression_optimum(
    targets: Array, dim: int, weight_decay: float = WEIGHT_DECAY, feature_decay: float = FEATURE_DECAY
) -> RegressionOptimum:
    r"""The global minimum of the plain UFM of a regression (Andriopoulos et al. 2024, theorem 4.1).

    .. math:: f = \frac1{2N} \sum_i |W h_i + b - y_i|^2 + \frac{\lambda_W}2 |W|^2 + \frac{\lambda_H}2 \sum_i |h_i|^2

    With s_j the singular values of the centred targets over sqrt(N), the standard deviations along the axes v_j of
    their covariance, the fit has :math:`\eta_j = s_j - \sqrt c` for the d largest above :math:`\sqrt c` and

    .. math:: WW^T = \sqrt{N\lambda_H/\lambda_W} \sum_j \eta_j v_j v_j^T, \qquad
              f^* = \sum_j \tfrac12 (s_j - \eta_j)^2 + \sqrt c\, \eta_j, \qquad c = N \lambda_W \lambda_H .

    Args:
        targets: (N, n), floating point, NumPy or Torch.
        dim: width d of the features; below n the d directions of largest variance are fitted.
        weight_decay: lambda_W, positive.
        feature_decay: lambda_H, positive, as in ``Problem``; the paper's is N times this.

    Raises:
        ValueError: naming the argument, what it got and what it needs.

    Example:
        >>> optimum = regression_optimum(torch.tensor([[3.0, 0.1], [-3.0, 0.1], [0.0, -0.2]]), 5, 0.1, 0.1)
        >>> optimum.rank, round(optimum.gamma, 6), round(optimum.value, 6)
        (1, 0.03, 0.419264)
    """
    y = as_features("targets", targets)
    require_finite("targets", y, "drop these samples")
    y, width = y.double(), integer("dim", dim, at_least=1)
    lambda_w, lambda_h = penalty("weight_decay", weight_decay), penalty("feature_decay", feature_decay)
    root_n, gamma, bias = math.sqrt(len(y)), len(y) * lambda_w * lambda_h, y.mean(dim=0)
    left, sizes, axes = torch.linalg.svd((y - bias) / root_n, full_matrices=False)
    fitted = (sizes - math.sqrt(gamma)).clamp(min=0)
    fitted[width:] = 0
    rank = int((fitted > 0).sum())
    value = float((sizes - fitted).square().sum() / 2 + math.sqrt(gamma) * fitted.sum())
    balance = (len(y) * lambda_h / lambda_w) ** 0.25
    weight, features = y.new_zeros(y.shape[1], width), y.new_zeros(len(y), width)
    weight[:, :rank] = balance * axes[:rank].T * fitted[:rank].sqrt()
    features[:, :rank] = root_n / balance * left[:, :rank] * fitted[:rank].sqrt()
    return RegressionOptimum(value, gamma, rank, weight, bias, features)
