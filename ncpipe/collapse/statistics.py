"""Sufficient statistics of one layer's features: all that the collapse metrics read, of size O(K d).

Two passes over the features: class means first, then what is left about them. Sums, means and the
singular value decomposition are float64 whatever the features are, and no d x d matrix is formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 22
"""Features are widened to float64 in chunks of about this many elements (32 MiB)."""


@dataclass(frozen=True)
class ClassMeanBasis:
    """Thin SVD of the centred class means, M^T = U S V^T, cut at the numerical rank r <= K - 1."""

    directions: Tensor
    """U, (d, r)."""
    singular_values: Tensor
    """S, (r,), descending."""

    @property
    def rank(self) -> int:
        return len(self.singular_values)

    @property
    def condition(self) -> float:
        """Smallest kept over largest singular value; NaN at rank 0."""
        if self.rank == 0:
            return float("nan")
        return float(self.singular_values[-1] / self.singular_values[0])


def centred_means(means: Tensor) -> Tensor:
    """M = [mu_c - mu_G], (K, d), with mu_G the mean of the class means."""
    return means - means.mean(dim=0, keepdim=True)


def class_mean_basis(means: Tensor) -> ClassMeanBasis:
    """SVD of M rather than of Sigma_B, whose condition number is squared.

    Singular values below ``max(K, d) * eps * s_max`` are dropped, and so are those below the rounding
    error of M itself, ``max(K, d) * eps * max |mu_c|``: the centring cancels the mean of the class means.
    """
    centred = centred_means(means)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    scale = max(float(values[0]) if len(values) else 0.0, float(means.norm(dim=1).max()))
    keep = values > max(means.shape) * torch.finfo(torch.float64).eps * scale
    return ClassMeanBasis(directions[keep].T.contiguous(), values[keep])


@dataclass(frozen=True)
class LayerStatistics:
    """What the metrics read of one layer and one split. K classes, d features."""

    counts: Tensor
    """Samples per class, (K,) int64."""
    means: Tensor
    """Class means mu_c, (K, d) float64."""
    scatter: Tensor
    """sum_i |h_i - mu_c|^2 per class, (K,) float64."""
    whitened_scatter: Tensor
    """sum_i |S^-1 U^T (h_i - mu_c)|^2 per class, (K,) float64, in the basis of these means."""
    nearest_mean_hits: Tensor
    """Samples per class whose nearest *train* class mean is their own, (K,) int64."""
    classifier_hits: Tensor | None = None
    """Samples per class that argmax(W h + b) gets right, (K,) int64."""
    agreements: Tensor | None = None
    """Samples per class on which argmax(W h + b) is the nearest train class mean, (K,) int64."""

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def squared_norm(self) -> float:
        """|H|_F^2 = sum_i |h_i|^2."""
        return float(self.scatter.sum() + (self.counts[:, None] * self.means.square()).sum())

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are set, by name, for writing."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


def _chunks(features: Tensor) -> Iterator[slice]:
    rows = max(1, CHUNK_ELEMENTS // max(1, features.shape[1]))
    for start in range(0, len(features), rows):
        yield slice(start, start + rows)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Counts (K,) and class means (K, d) in float64; the mean of an empty class is NaN."""
    counts = torch.bincount(labels, minlength=num_classes)
    sums = torch.zeros(num_classes, features.shape[1], dtype=torch.float64, device=features.device)
    for rows in _chunks(features):
        sums.index_add_(0, labels[rows], features[rows].double())
    return counts, sums / counts[:, None]


def layer_statistics(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    train_means: Tensor | None = None,
) -> LayerStatistics:
    """Statistics of features (N, d) with labels (N,).

    ``weight`` (K, d) and ``bias`` (K,) are the classifier that reads the layer; ``train_means`` (K, d) are
    the means that nearest-class-mean decisions use, these features' own where none are given.
    """
    counts, means = class_means(features, labels, num_classes)
    filled = torch.nan_to_num(means)
    basis = class_mean_basis(filled)
    whitening = basis.directions / basis.singular_values
    reference = torch.nan_to_num(means if train_means is None else train_means.to(means), nan=torch.inf)
    head = None if weight is None else _Classifier(weight.to(means), None if bias is None else bias.to(means))

    scatter = torch.zeros(num_classes, dtype=torch.float64, device=features.device)
    whitened = torch.zeros_like(scatter)
    hits, correct, agree = (torch.zeros_like(counts) for _ in range(3))
    for rows in _chunks(features):
        wide, own = features[rows].double(), labels[rows]
        nearest = nearest_means(wide, reference)
        deviation = wide - filled[own]
        scatter.index_add_(0, own, deviation.square().sum(dim=1))
        whitened.index_add_(0, own, (deviation @ whitening).square().sum(dim=1))
        hits.index_add_(0, own, (nearest == own).to(hits.dtype))
        if head is not None:
            predicted = head(wide).argmax(dim=1)
            correct.index_add_(0, own, (predicted == own).to(hits.dtype))
            agree.index_add_(0, own, (predicted == nearest).to(hits.dtype))
    known = head is not None
    return LayerStatistics(
        counts, means, scatter, whitened, hits, correct if known else None, agree if known else None
    )


def nearest_means(features: Tensor, means: Tensor) -> Tensor:
    """Index of the nearest row of ``means`` for each row of ``features``; rows of inf are never nearest."""
    empty = torch.isinf(means).any(dim=1)
    finite = torch.where(empty[:, None], 0.0, means)
    origin = finite[~empty].mean(dim=0)
    offsets = finite - origin
    distances = offsets.square().sum(dim=1) - 2 * (features - origin) @ offsets.T
    return distances.masked_fill(empty, torch.inf).argmin(dim=1)


@dataclass(frozen=True)
class _Classifier:
    weight: Tensor
    bias: Tensor | None

    def __call__(self, features: Tensor) -> Tensor:
        return torch.nn.functional.linear(features, self.weight, self.bias)
