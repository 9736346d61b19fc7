"""Products of batches of matrices, bit for bit the same in a batch of any size, on every processor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ncpipe.system.lazy import Tensor, torch

ALWAYS_ALONE = 2**19
"""Parameters from which on a problem is solved alone, in a batch of one."""


def batched_product(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """Product of each matrix (B, m, k) with its partner (B, k, n): (B, m, n), in ``out`` where that is given.

    torch hands a batch of one to BLAS as a single product, and BLAS takes a kernel of its own where that is one with
    a vector, whose sums run in another order (MKL on processors of Intel does so even in its strict mode). Such a
    product is computed twice, as a batch.
    """
    alone = len(left) == 1 and min(left.shape[1], right.shape[2]) == 1
    if not alone or max(right.shape[1:]) > ALWAYS_ALONE:
        return torch.bmm(left, right) if out is None else torch.bmm(left, right, out=out)
    first = torch.bmm(left.expand(2, -1, -1), right.expand(2, -1, -1))[:1]
    return first if out is None else out.copy_(first)


@contextmanager
def threads_of_torch(count: int) -> Iterator[None]:
    """So many threads within. Several share out a sum by the batch's size, and lose time on small problems."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
