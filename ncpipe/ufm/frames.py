"""Exact frames of K directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def helmert(classes: int) -> Tensor:
    """Orthonormal basis of the vectors that sum to zero, (K, K - 1)."""
    basis = torch.zeros(classes, classes - 1, dtype=torch.float64)
    for j in range(1, classes):
        basis[:j, j - 1] = 1 / math.sqrt(j * (j + 1))
        basis[j, j - 1] = -j / math.sqrt(j * (j + 1))
    return basis


def simplex_etf(classes: int, dim: int) -> Tensor:
    """Simplex equiangular tight frame in the first K - 1 of d >= K - 1 coordinates, (K, d): rows of unit norm."""
    frame = torch.zeros(classes, dim, dtype=torch.float64)
    frame[:, : classes - 1] = math.sqrt(classes / (classes - 1)) * helmert(classes)
    return frame
