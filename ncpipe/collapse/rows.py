"""Features that do not fit into memory: rows that are read a piece at a time, as often as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import Tensor

PIECE = 1 << 26
"""Bytes that are read at a time, 64 MiB: enough for all strands, and for a disk to be read at its speed."""


@dataclass(frozen=True)
class Rows:
    """Features (N, d) for ``ncpipe.measure``, which reads them twice."""

    like: Tensor
    """A tensor of their shape and type without the memory: one number, expanded to (N, d)."""
    read: Callable[[int], Iterator[Tensor]]
    """All rows in their order, at most so many at a time; a piece may be overwritten by the next."""

    def pieces(self, num_classes: int) -> Iterator[tuple[slice, Tensor]]:
        """Places and rows of every piece: no fewer than classes, whose means every piece is merged into."""
        start, size = 0, self.like.shape[1] * self.like.element_size()
        for piece in self.read(max(num_classes, PIECE // size, 1)):
            yield slice(start, start + len(piece)), piece
            start += len(piece)
