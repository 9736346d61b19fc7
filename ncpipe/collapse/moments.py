"""First pass: counts, means and scatter of classes, which merge exactly over batches, halves and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ncpipe.system.lazy import lazily

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazily("torch")

CPU_CHUNK = 1024, 1 << 20
"""Rows and elements that are widened to float64 at a time, at most: 8 MiB stay in the caches of a CPU."""
DEVICE_CHUNK = 1 << 20, 1 << 24
"""Bytes of a piece on accelerators, which want large kernels: 128 MiB."""


def widened(features: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Chunk by chunk, the slice of rows and these in float64: a copy to write on, in memory that is used again.

    Fresh memory of this size may go back to the system after every chunk, and then costs page faults at each.
    """
    most, elements = CPU_CHUNK if features.device.type == "cpu" else DEVICE_CHUNK
    rows = max(1, min(most, elements // max(1, features.shape[1])))
    buffer = torch.empty(min(rows, len(features)), features.shape[1], dtype=torch.float64, device=features.device)
    for start in range(0, len(features), rows):
        part = features[start : start + rows]
        yield slice(start, start + rows), buffer[: len(part)].copy_(part)


def squared_norms(rows: Tensor) -> Tensor:
    """|h|^2 of every row, (n, d) -> (n,); the norm needs no temporary of the rows' size, unlike the dot product."""
    return torch.linalg.vector_norm(rows, dim=1).square()


@dataclass(frozen=True)
class ClassMoments:
    """Number, mean and scatter of every class in some of the samples. K classes, d features."""

    counts: Tensor
    """Samples per class, (K,) int64."""
    means: Tensor
    """Class means mu_c, (K, d) float64; NaN for a class without a sample."""
    scatter: Tensor
    """sum_i |h_i - mu_c|^2 per class, (K,) float64."""

    def __add__(self, other: ClassMoments) -> ClassMoments:
        """Moments of both sets of samples together (Chan, Golub & LeVeque 1983), exact up to rounding.

        With delta = mu' - mu and n, n' samples: mean mu + delta n'/(n + n'), and the scatters' sum grows by
        |delta|^2 n n'/(n + n'). No large numbers cancel; what is lost of a scatter is eps |mu| over the spread.
        """
        if self.means.shape != other.means.shape:
            mine, its = tuple(self.means.shape), tuple(other.means.shape)
            raise ValueError(f"moments of other classes or features do not add: means of shape {mine} and {its}")
        counts = self.counts + other.counts
        share = other.counts.double() / counts.clamp(min=1)  # integers alone would divide to float32
        first, second = self.means, other.means
        delta = torch.where((self.counts * other.counts > 0)[:, None], second - first, 0.0)
        merged = torch.where((self.counts > 0)[:, None], first + delta * share[:, None], second)
        between = delta.square().sum(dim=1) * self.counts * share
        return ClassMoments(counts, merged, self.scatter + other.scatter + between)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Counts (K,) and class means (K, d) in float64 of features (N, d); the mean of an empty class is NaN.

    Sums are taken from the first sample: means of equal samples are then equal bit for bit, and an offset that all
    features share is rounded once, not at every addition.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    origin = features[:1].double().sum(dim=0)
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    for rows, h in widened(features):
        sums.index_add_(0, labels[rows], h.sub_(origin))
    return counts, origin + sums / counts[:, None]


def class_moments(features: Tensor, labels: Tensor, num_classes: int) -> ClassMoments:
    """Moments of features (N, d) with labels (N,); the scatter is about the means, in a second read."""
    counts, means = class_means(features, labels, num_classes)
    scatter = torch.zeros(num_classes, dtype=torch.float64, device=features.device)
    for rows, h in widened(features):
        own = labels[rows]
        scatter.index_add_(0, own, squared_norms(h.sub_(means[own])))
    return ClassMoments(counts, means, scatter)
