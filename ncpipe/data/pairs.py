"""Images of several labels, composed of images of one as in the code of Li et al., ICML 2024 (multi-label collapse).

A canvas has twice the height and width and is zero elsewhere. An image of one class stands below right; an image of a
pair of classes has one of each there and above left. Every image is shifted by less than a quarter of its side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor


def tag_sets(num_classes: int) -> list[tuple[int, ...]]:
    """The classes that every label means: the K single classes, then the pairs in lexicographic order."""
    return [*((label,) for label in range(num_classes)), *combinations(range(num_classes), 2)]


def with_pairs(
    images: Tensor, labels: Tensor, num_classes: int, per_pair: int, seed: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """All ``images`` (N, C, H, W) on canvases (N, C, 2H, 2W), and ``per_pair`` images of every pair of classes.

    The images of a pair are drawn from ``images`` without putting back, once more where a class has too few. Either
    stands above left with the same chance. Where the two overlap a pixel is the larger of them. Every pair draws from
    a stream of its own, so that a larger ``per_pair`` holds the smaller.

    Returns:
        The canvases, pairs last, and their labels: rows of ``tag_sets``.
    """
    members = [np.flatnonzero(labels.numpy() == label) for label in range(num_classes)]
    singles = _placed(images, np.ones(len(images), int), np.random.default_rng(seed))
    canvases, found = [singles], [labels]
    for label, (first, second) in enumerate(combinations(range(num_classes), 2), num_classes):
        draws = [np.random.default_rng([*seed, first, second, part]) for part in range(3)]
        is_below = draws[2].integers(2, size=per_pair)
        rows = [np.resize(draw.permutation(members[of]), per_pair) for draw, of in zip(draws, (first, second))]
        parts = [_placed(images[row], side, draw) for row, side, draw in zip(rows, (is_below, 1 - is_below), draws)]
        canvases.append(torch.maximum(*parts))
        found.append(torch.full((per_pair,), label, dtype=labels.dtype))
    return torch.cat(canvases), torch.cat(found)


def _placed(images: Tensor, is_below: np.ndarray, random: np.random.Generator) -> Tensor:
    """Images on canvases of twice the side, above left or below right, shifted down and to the right; what is shifted
    over an edge comes back at the other."""
    count, channels, *sides = images.shape
    shifts = random.integers([max(1, side // 4) for side in sides], size=(count, 2))
    down, right = (
        torch.from_numpy(((is_below * side + shift)[:, None] + np.arange(side)) % (2 * side))
        for side, shift in zip(sides, shifts.T)
    )
    canvases = images.new_zeros(count, *(2 * side for side in sides), channels)
    canvases[torch.arange(count)[:, None, None], down[:, :, None], right[:, None]] = images.permute(0, 2, 3, 1)
    return canvases.permute(0, 3, 1, 2).contiguous()
