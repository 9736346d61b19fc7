"""Products of batches: the bits of each are those of the product alone, whatever kernels the processor has."""

from itertools import product

import pytest
import torch

from ncpipe.ufm.products import batched_product

SIZES = (1, 2, 3, 5, 17, 120)


def matrices(rows: int, columns: int, transposed: bool, seed: int) -> torch.Tensor:
    shape = (9, columns, rows) if transposed else (9, rows, columns)
    drawn = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return drawn.mT if transposed else drawn


@pytest.mark.every(3)
@pytest.mark.parametrize(("left_transposed", "right_transposed"), list(product((False, True), repeat=2)))
@pytest.mark.parametrize("contracted", [*SIZES, 1003])
def test_bits_do_not_depend_on_the_batch(contracted: int, left_transposed: bool, right_transposed: bool) -> None:
    for rows, columns in product(SIZES, repeat=2):
        left = matrices(rows, contracted, left_transposed, 0)
        right = matrices(contracted, columns, right_transposed, 1)
        whole = batched_product(left, right)
        torch.testing.assert_close(whole, (left[:, :, :, None] * right[:, None]).sum(dim=2), rtol=1e-12, atol=1e-12)
        for size in (1, 2, 4):
            parts = zip(left.split(size), right.split(size), strict=True)
            assert torch.equal(torch.cat([batched_product(a, b) for a, b in parts]), whole), (rows, columns, size)
            out = torch.empty_like(whole[:size])
            batched_product(left[:size], right[:size], out)
            assert torch.equal(out, whole[:size]), (rows, columns, size)
