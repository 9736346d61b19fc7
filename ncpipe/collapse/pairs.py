"""Sums over pairs of classes: tables K x K of which a block is held at a time, so that memory is O(K d)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from ncpipe.collapse.strands import in_order
from ncpipe.system.lazy import Tensor, torch

BLOCK = 512
"""Classes by classes that are held at a time: 2 MiB, of which a few stay in the caches of a core."""
CLOSE = 1e-3
"""Squared distance over squared lengths from which on a Gram matrix gives it to 12 digits; it has lost more below."""
DIFFERENCES = 1 << 20
"""Elements of the differences of close pairs that are held at a time, 8 MiB."""


class Block(NamedTuple):
    """Part of a table by pairs of classes, and how often it counts: twice where its mirror image is left out."""

    rows: slice
    columns: slice
    weight: int

    @property
    def on_diagonal(self) -> bool:
        return self.rows == self.columns

    def off_diagonal(self, table: Tensor) -> Tensor:
        """The entries of pairs c != c', flat."""
        if not self.on_diagonal:
            return table.flatten()
        return table[~torch.eye(len(table), dtype=torch.bool, device=table.device)]


def rows_by(classes: int) -> int:
    """Rows of a table (n, K) that are held at a time: 64 MiB, for products that run as fast as larger ones."""
    return max(1, (1 << 23) // classes)


Work = Callable[[Block, "Tensor"], "Tensor"]


@dataclass(eq=False)
class Products:
    """A B^T of two matrices (K, d), or A A^T, of which the blocks below the diagonal mirror those above."""

    first: Tensor
    second: Tensor | None = None

    def over_blocks(self, work: Work) -> Tensor:
        """What ``work`` finds in every block, stacked in their order."""
        starts, symmetric = range(0, len(self.first), BLOCK), self.second is None
        places = [(a, b) for a in starts for b in starts if a <= b or not symmetric]
        blocks = [Block(slice(a, a + BLOCK), slice(b, b + BLOCK), 1 + (symmetric and a != b)) for a, b in places]
        return torch.stack(in_order(self.first, blocks, lambda block: work(block, self._table(block))))

    def _table(self, block: Block) -> Tensor:
        if len(self.first) <= BLOCK:
            return self._whole
        second = self.first if self.second is None else self.second
        return self.first[block.rows] @ second[block.columns].T

    @cached_property
    def _whole(self) -> Tensor:
        return self.first @ (self.first if self.second is None else self.second).T

    @cached_property
    def norm(self) -> float:
        """|A B^T|_F: of many classes by d x d, where that keeps 11 digits."""
        first, second = self.first, self.first if self.second is None else self.second
        if len(first) > max(BLOCK, first.shape[1]):
            squared = float(((first.T @ first) * (second.T @ second)).sum())
            if squared > 1e-5 * float(first.square().sum() * second.square().sum()):
                return math.sqrt(squared)
        return math.sqrt(self.over_blocks(lambda block, table: block.weight * table.square().sum()).sum())

    def frame_distances(self) -> tuple[float, float]:
        """|| A B^T/|A B^T|_F - target ||_F for a simplex ETF and an orthogonal frame; NaN where A B^T = 0."""
        norm = self.norm
        return distances_of(self.over_blocks(lambda block, table: off_frames(block, table / norm, len(self.first))))


def off_frames(block: Block, gram: Tensor, classes: int) -> Tensor:
    """|G - E|^2 and |G - I/sqrt(K)|^2 in a block of G, (K, K) of norm one, and E of a simplex ETF."""
    etf, of = gram + 1 / (classes * math.sqrt(classes - 1)), gram
    if block.on_diagonal:
        etf.diagonal().sub_(1 / math.sqrt(classes - 1))
        of = of - torch.diag_embed(of.new_full(of.shape[:1], 1 / math.sqrt(classes)))
    return block.weight * torch.stack([etf.square().sum(), of.square().sum()])


def distances_of(parts: Tensor) -> tuple[float, float]:
    """Both distances from what ``off_frames`` found in all blocks, (n, 2)."""
    etf, of = parts.sum(dim=0).sqrt().tolist()
    return etf, of


def over_distances(vectors: Tensor, work: Work) -> Tensor:
    """What ``work`` finds in the blocks of |v_c - v_c'|^2 on and above the diagonal, stacked, of rows (K, d).

    From the Gram matrix about the rows' mean, and for close pairs from differences: all have 12 digits or more.
    """
    centred = vectors - vectors.mean(dim=0)
    squares = centred.square().sum(dim=1)

    def squared(block: Block, gram: Tensor) -> Tensor:
        lengths = squares[block.rows, None] + squares[block.columns]
        found = torch.add(lengths, gram, alpha=-2)
        close = (found <= CLOSE * lengths).nonzero()
        for pairs in close.split(max(1, DIFFERENCES // vectors.shape[1])):
            a, b = pairs.T
            apart = vectors[block.rows][a] - vectors[block.columns][b]
            found[a, b] = apart.square().sum(dim=1)
        return work(block, found)

    return Products(centred).over_blocks(squared)


def distances(vectors: Tensor) -> Tensor:
    """Distances between rows, (K, d) -> (K, K): near rows keep their digits."""
    table = vectors.new_empty(len(vectors), len(vectors))

    def fill(block: Block, squared: Tensor) -> Tensor:
        table[block.rows, block.columns] = squared.sqrt()
        table[block.columns, block.rows] = squared.sqrt().T
        return squared.new_zeros(())

    over_distances(vectors, fill)
    return table


def moments(block: Block, values: Tensor) -> Tensor:
    """Number, mean and variance (ddof = 0) of the values of a block, which ``pooled`` merges."""
    if not len(values):  # one class is left over in the last block
        return values.new_zeros(3)
    number = values.new_tensor(block.weight * len(values))
    return torch.stack([number, values.mean(), values.var(correction=0)])


def pooled(parts: Tensor) -> tuple[float, float]:
    """Mean and variance of the values of all blocks, from (n, 3); no large numbers cancel."""
    share = parts[:, 0] / parts[:, 0].sum()
    mean = (share * parts[:, 1]).sum()
    return float(mean), float((share * (parts[:, 2] + (parts[:, 1] - mean).square())).sum())
