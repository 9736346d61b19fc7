"""What a closed form tells of a problem: the smallest objective, its fit, and one point that attains it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ncpipe.collapse.frames import simplex_etf
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.model import Model


class NoClosedForm(Exception):  # noqa: N818 - an answer about the problem, not a fault
    """No theorem or derivation gives this problem's optimum; the message is the reason."""


@dataclass(frozen=True, eq=False)
class Optimum:
    """The smallest objective of a problem, and what it rests on.

    The fit W_L .. W_1 H of all samples has the singular value decomposition sum_j sigma_j u_j v_j^T; every factor is
    diagonal in these directions, but for non-negative features with a classifier that is no orthogonal frame, which
    ``frame`` holds.
    """

    value: float
    """f*, penalties included."""
    is_zero: bool
    """All weights and features vanish; with a frozen classifier, all features."""
    scale: float
    """mse: fit x of a class, W_L ... mu_c = x e_c (centred if there is a bias or a frozen classifier). Other losses:
    margin t between the true and the other logits (of single-tag samples). Of the largest class if imbalanced."""
    rank: int
    """Rank of the fit."""
    basis: str
    """The theorem or derivation."""
    is_global: bool
    """Proven to be the global optimum; otherwise the best value known, with its condition in ``basis``."""
    zero_threshold: float
    """Zero becomes optimal once the penalties of weights and features are all multiplied by this; at most 1 where it
    is optimal already, inf where it never is."""
    bias: float | None
    """Every entry of the bias; None without one."""
    margins: dict[int, float] = field(default_factory=dict)
    """Several labels: margin between tags and other labels by multiplicity; else empty."""
    problem: Model = field(kw_only=True, repr=False)
    singular_values: Tensor = field(kw_only=True, repr=False)
    """sigma_j of the fit of all samples, (r,)."""
    left: Tensor = field(kw_only=True, repr=False)
    """u_j over classes, (K, r)."""
    right: Tensor = field(kw_only=True, repr=False)
    """v_j over classes, or over sets of tags, each entry times the square root of its samples, (r, C)."""
    frame: tuple[Tensor, Tensor] | None = field(default=None, kw_only=True, repr=False)
    """Class means and W_1 on the axes of the J classes whose mean is not zero, (K, J) each, where features are a
    non-negative frame and pay with the classifier, not direction by direction."""

    def gains(self) -> Tensor:
        """Singular values alpha_j of the factors H_1, W_1 .. W_L, (L + 1, r); their products are ``singular_values``.

        Penalised factors pay alike, lambda_j alpha_j^2 = (Lambda sigma^2)^(1/F), Lambda the product of their F
        penalties; a frozen classifier has sqrt(K/(K-1)); with a temperature only norms are given. Those of a
        ``frame`` are of its matrices each, (2, J).
        """
        p, sigma = self.problem, self.singular_values
        if self.frame is not None:
            means, weight = self.frame
            return torch.stack([(means.T * self._root_counts()).norm(dim=1), torch.linalg.svdvals(weight)])
        frozen = math.sqrt(p.classes / (p.classes - 1))
        if p.temperature is not None:
            counts = torch.tensor(p.counts[0], dtype=torch.float64)
            return torch.stack([frozen * counts.sqrt().expand_as(sigma), torch.full_like(sigma, frozen)])
        trained = sigma if p.classifier == "free" else sigma / frozen
        decays = torch.tensor(p.decays, dtype=torch.float64)
        common = decays.log().mean().exp() * trained ** (2 / len(decays))
        alphas = (common / decays[:, None]).sqrt()
        return alphas if p.classifier == "free" else torch.cat([alphas, torch.full_like(sigma, frozen)[None]])

    def norms(self) -> dict[str, float]:
        """Frobenius norms of ``H1`` (all samples) and of ``W1`` .. ``WL``."""
        names = ["H1", *(f"W{level}" for level in range(1, self.problem.depth + 1))]
        norms = dict(zip(names, self.gains().square().sum(dim=1).sqrt().tolist(), strict=True))
        if self.problem.classifier == "etf":
            norms[names[-1]] = math.sqrt(self.problem.classes)
        return norms

    def weights_gram(self) -> Tensor:
        """W_L W_L^T, (K, K)."""
        if self.problem.classifier == "etf":
            frame = simplex_etf(self.problem.classes, self.problem.widths[-1])
            return frame @ frame.T
        if self.frame is not None:
            return self.frame[1] @ self.frame[1].T
        return (self.left * self.gains()[-1].square()) @ self.left.T

    def grams(self) -> dict[str, Tensor]:
        """Uncentred Gram of the class means (of single-tag samples) by layer, (K, K), where it is unique.

        Below a ReLU only what its output is belongs to the optimum; and a width below the rank of the targets leaves
        the live directions free.
        """
        p = self.problem
        if self.frame is not None:
            return {"features": self.frame[0] @ self.frame[0].T}
        if 0 < self.rank < self._full_rank():
            return {}
        names = [*(f"H{level}" for level in range(1, p.depth)), "features"]
        if p.activation == "relu":
            names[0] = ""
        means = (self.right / self._root_counts())[:, : p.classes]
        levels = self.gains().square().cumprod(dim=0)
        return {name: means.T @ (level[:, None] * means) for name, level in zip(names, levels, strict=False) if name}

    def construct(self) -> Minimiser:
        """The point whose factors are diagonal in the first r coordinates; see ``Problem.construct``.

        Non-negative features lie on the axes, in the order of their classes.
        """
        if self.frame is None:
            return diagonal_point(self.problem, self.left, self.right, self.gains(), self.bias)
        return point_of(self.problem, self.frame[0], [self.frame[1]], self.bias)

    def _root_counts(self) -> Tensor:
        return torch.tensor(self.problem.counts, dtype=torch.float64).sqrt()

    def _full_rank(self) -> int:
        """A rank below which some live directions could be exchanged for others."""
        p = self.problem
        if not p.balanced:
            return self.rank if self.rank < min(p.widths) else p.classes
        return p.classes - (p.loss != "mse" or p.bias != "none" or p.classifier == "etf")


def diagonal_point(problem: Model, left: Tensor, right: Tensor, gains: Tensor, bias: float | None) -> Minimiser:
    """The point with factors diag(gains_j) on the first r coordinates, one column per class (set of tags).

    Args:
        problem: whose domain the point is in.
        left: directions over classes that the classifier leads to, (K, r); a frozen classifier has its own.
        right: directions over the columns that the features lead from, (r, C).
        gains: of H_1, W_1 .. W_L, (L + 1, r).
        bias: every entry of the bias.
    """
    diagonal = [torch.diag(gain) for gain in gains[1:-1]]
    columns = (gains[0][:, None] * right).T / torch.tensor(problem.counts, dtype=torch.float64).sqrt()[:, None]
    return point_of(problem, columns, [*diagonal, left * gains[-1]], bias)


def point_of(problem: Model, columns: Tensor, weights: list[Tensor], bias: float | None) -> Minimiser:
    """The tied point with these features (C, r), weights (.., r) and entries of the bias, and zeros on further
    coordinates; a frozen classifier is put in place of the last weight."""
    sizes = problem.widths
    heights = [*sizes[1:], problem.classes]
    padded = [_padded(weight, height, width) for weight, height, width in zip(weights, heights, sizes, strict=True)]
    if problem.classifier == "etf":
        padded[-1] = simplex_etf(problem.classes, sizes[-1])
    entries = None if bias is None else torch.full((problem.classes,), bias, dtype=torch.float64)
    return Minimiser(problem, _padded(columns, len(columns), sizes[0]), padded, entries, tied=True)


def _padded(matrix: Tensor, height: int, width: int) -> Tensor:
    full = torch.zeros(height, width, dtype=torch.float64)
    full[: matrix.shape[0], : matrix.shape[1]] = matrix
    return full
