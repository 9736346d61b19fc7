"""Images of several labels, composed of images of one, after Li et al., ICML 2024 (multi-label neural collapse).

A canvas has twice the height and width and is zero elsewhere. An image of one class stands in a corner; an image of
a pair of classes has one of each in opposite corners. Li et al. fix the corners and shift the images at random; here
the corners are random.
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

    The images of a pair are drawn from ``images``, each uniformly, and so is the corner of the first; the second
    stands opposite. Every pair draws from a stream of its own, so that a larger ``per_pair`` holds the smaller.

    Returns:
        The canvases, pairs last, and their labels: rows of ``tag_sets``.
    """
    corners = torch.from_numpy(np.random.default_rng(seed).integers(4, size=len(labels)))
    members = [np.flatnonzero(labels.numpy() == label) for label in range(num_classes)]
    drawn = [
        _pair(members[first], members[second], per_pair, np.random.default_rng([*seed, first, second]))
        for first, second in combinations(range(num_classes), 2)
    ]
    pairs = torch.from_numpy(np.concatenate(drawn)) if drawn else torch.empty(0, 3, dtype=torch.int64)

    count, channels, height, width = images.shape
    canvases = torch.zeros(count + len(pairs), channels, 2 * height, 2 * width, dtype=images.dtype)
    _place(canvases[:count], images, torch.arange(count), corners)
    _place(canvases[count:], images, pairs[:, 0], pairs[:, 2])
    _place(canvases[count:], images, pairs[:, 1], 3 - pairs[:, 2])
    of_pairs = torch.arange(num_classes, num_classes + len(drawn)).repeat_interleave(per_pair)
    return canvases, torch.cat([labels, of_pairs])


def _pair(first: np.ndarray, second: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Rows of the images of both classes and the corner of the first, (count, 3)."""
    drawn = random.integers([len(first), len(second), 4], size=(count, 3))
    return np.stack([first[drawn[:, 0]], second[drawn[:, 1]], drawn[:, 2]], axis=1)


def _place(canvases: Tensor, images: Tensor, rows: Tensor, corners: Tensor) -> None:
    """Put image ``rows[i]`` into a corner of canvas i: 0 and 1 above, 2 and 3 below; opposite corners sum to 3."""
    height, width = images.shape[2:]
    for corner in range(4):
        there = (corners == corner).nonzero().flatten()
        top, left = corner // 2 * height, corner % 2 * width
        canvases[there, :, top : top + height, left : left + width] = images[rows[there]]
