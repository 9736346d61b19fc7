"""First pass with products: moments of classes and the scatter within them, d x d, which merge to rounding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncpipe.collapse.moments import ClassMoments, class_counts, squared_norms
from ncpipe.collapse.strands import in_order, widened

BLOCK = 128
"""Columns of the symmetric product that are taken at once: half of it need not be, and is 40 % of the time."""

SHARED = 1 << 26
"""Multiplications that are worth several threads, which share out the blocks."""


@dataclass(frozen=True)
class ProductMoments:
    """Moments of K classes and the products of deviations from their means, d features, in one tensor.

    A mean is the sum of two float64, of which the second holds what the first rounds off: differences of means are
    then exact to eps times the spread within a class, not to eps times the mean, and near collapse the scatter
    between batches keeps its digits.
    """

    packed: Tensor
    """(2K + d, 2 + d) float64: number of samples, scatter and mean of every class; 0, 0 and the mean's second part;
    0, 0 and a row of the products, above the diagonal. All 0 for a class without a sample, (2K, 2) before anything is
    seen."""

    @property
    def num_classes(self) -> int:
        rows, columns = self.packed.shape
        return (rows - columns + 2) // 2

    @property
    def counts(self) -> Tensor:
        return self.packed[: self.num_classes, 0]

    @property
    def scatter(self) -> Tensor:
        return self.packed[: self.num_classes, 1]

    @property
    def means(self) -> Tensor:
        return self.packed[: self.num_classes, 2:]

    @property
    def remainders(self) -> Tensor:
        return self.packed[self.num_classes : 2 * self.num_classes, 2:]

    @property
    def products(self) -> Tensor:
        """sum_i (h_i - mu_c) (h_i - mu_c)^T over all samples, (d, d)."""
        return self._upper.triu() + self._upper.triu(1).T

    @property
    def _upper(self) -> Tensor:
        """The products on and above the diagonal; below it is what blocks on it leave."""
        return self.packed[2 * self.num_classes :, 2:]

    def moments(self) -> ClassMoments:
        counts = self.counts.round().long()
        return ClassMoments(counts, self.means.masked_fill((counts == 0)[:, None], torch.nan), self.scatter)

    def of_width(self, width: int) -> ProductMoments:
        """A copy for features of d = ``width``; what is narrower has seen nothing."""
        grown = 2 + width - self.packed.shape[1]
        return ProductMoments(torch.nn.functional.pad(self.packed, (0, grown, 0, grown)))

    def add_(self, features: Tensor, labels: Tensor) -> None:
        """Add samples (n, d) with labels (n,), in place, in one product of deviations.

        With n and n' samples and delta = mu' - mu, deviations from mu' - delta sqrt(n/(n + n')) have the products
        about mu' and delta delta^T n n'/(n + n') at once: their cross terms sum to zero.
        """
        present, own = labels.unique(return_inverse=True)  # of many classes, a batch has few
        added, before = class_counts(own, len(present)).double()[:, None], self.counts[present, None]
        origin = torch.where(before > 0, self.means[present], features[_first(own, len(present))].double())
        sums = torch.zeros_like(origin)
        for rows, h in widened(features):
            sums.index_add_(0, own[rows], h.sub_(origin[own[rows]]))
        known, mean = self.remainders[present], sums / added  # from the origin
        share = before / (before + added)
        centre = mean - (mean - known) * share.sqrt()
        scatter = self.packed.new_zeros(len(present))
        for rows, h in widened(features):
            h.sub_(origin[own[rows]]).sub_(centre[own[rows]])
            scatter.index_add_(0, own[rows], squared_norms(h))
            self._add_products(h, h)
        self.scatter[present] += scatter
        self.means[present], self.remainders[present] = _sum(origin, mean - (mean - known) * share)
        self.counts[present] += added.flatten()

    def _add_products(self, first: Tensor, second: Tensor) -> None:
        def add(start: int) -> None:
            rows = slice(start, start + BLOCK)
            self._upper[rows, start:].addmm_(first[:, rows].T, second[:, start:])

        blocks = range(0, len(self._upper), BLOCK)
        if first.numel() * len(self._upper) < SHARED:
            for start in blocks:
                add(start)
        else:
            in_order(first, blocks, add)

    def __add__(self, other: ProductMoments) -> ProductMoments:
        """Moments and products of both sets of samples (Chan, Golub & LeVeque 1983)."""
        both = ProductMoments(self.packed + other.packed)
        mine, its = self.counts[:, None], other.counts[:, None]
        share = its / (mine + its).clamp(min=1)
        delta = (other.means - self.means) + (other.remainders - self.remainders)
        delta = torch.where(mine * its > 0, delta, 0.0)
        both.scatter.add_((delta.square() * mine * share).sum(dim=1))
        both._add_products(delta * mine * share, delta)
        origin = torch.where(mine > 0, self.means, other.means)
        known = torch.where(mine > 0, self.remainders, other.remainders)
        both.means[:], both.remainders[:] = _sum(origin, known + delta * share)
        return both


def _first(labels: Tensor, num_classes: int) -> Tensor:
    """Index of the first sample of every class, each of which has one."""
    indices = torch.arange(len(labels), device=labels.device)
    return indices.new_zeros(num_classes).scatter_reduce_(0, labels, indices, "amin", include_self=False)


def _sum(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """a + b and its rounding error (Knuth 1969)."""
    total = first + second
    part = total - first
    return total, (first - (total - part)) + (second - part)
