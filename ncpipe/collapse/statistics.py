"""Sufficient statistics of one layer's features: all that the collapse metrics read, of size O(K d).

Two passes over the features: class means first, then what is left about them. Sums, means and the
singular value decomposition are float64 whatever the features are, and no d x d matrix is formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 18
"""Features are widened to float64 in chunks of about this many elements: 2 MiB, which caches hold."""


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
    second = _SecondPass(means, weight, bias, train_means)
    scatter, whitened = torch.zeros(2, num_classes, dtype=torch.float64, device=features.device)
    hits, correct, agree = torch.zeros(3, num_classes, dtype=torch.int64, device=features.device)
    for rows in _chunks(features):
        own = labels[rows]
        seen = second(features[rows], own)
        scatter.index_add_(0, own, seen.scatter)
        whitened.index_add_(0, own, seen.whitened_scatter)
        hits.index_add_(0, own, (seen.nearest == own).long())
        if seen.decided is not None:
            correct.index_add_(0, own, (seen.decided == own).long())
            agree.index_add_(0, own, (seen.decided == seen.nearest).long())
    if weight is None:
        return LayerStatistics(counts, means, scatter, whitened, hits)
    return LayerStatistics(counts, means, scatter, whitened, hits, correct, agree)


@dataclass(frozen=True)
class _Seen:
    """Of every sample of a chunk: squared deviation from its class mean, plain and whitened, and two decisions."""

    scatter: Tensor
    whitened_scatter: Tensor
    nearest: Tensor
    decided: Tensor | None


class _SecondPass:
    """What is known of a sample from one product of its deviation, h - mu_c, with a (d, <= 3K) matrix.

    The matrix holds U, the basis that nearest means are decided in (U again, unless the means are the training
    split's), and the classifier. Nearest means need no more: the differences of the means lie in their span.
    """

    def __init__(self, means: Tensor, weight: Tensor | None, bias: Tensor | None, train_means: Tensor | None) -> None:
        self.means = torch.nan_to_num(means)
        reference = means if train_means is None else train_means.to(means)
        basis = class_mean_basis(self.means)
        span = basis if train_means is None else class_mean_basis(torch.nan_to_num(reference))
        self.singular_values = basis.singular_values
        blocks = [basis.directions]
        self.one_basis = train_means is None
        if not self.one_basis:
            blocks.append(span.directions)
        if weight is not None:
            weight = weight.to(means)
            blocks.append(weight.T)
            self.offsets = torch.nn.functional.linear(self.means, weight, None if bias is None else bias.to(means))
        self.has_head = weight is not None
        self.matrix = torch.cat(blocks, dim=1)
        self.widths = [block.shape[1] for block in blocks]
        origin = torch.nan_to_num(reference).mean(dim=0)
        self.own_places = (self.means - origin) @ span.directions
        self.places = (torch.nan_to_num(reference) - origin) @ span.directions
        self.empty = torch.isnan(reference).any(dim=1)

    def __call__(self, features: Tensor, labels: Tensor) -> _Seen:
        deviation = features.double() - self.means[labels]
        products = list((deviation @ self.matrix).split(self.widths, dim=1))
        in_basis = products[0]
        in_span = in_basis if self.one_basis else products[1]
        return _Seen(
            torch.linalg.vecdot(deviation, deviation),
            (in_basis / self.singular_values).square().sum(dim=1),
            self._nearest(in_span + self.own_places[labels]),
            (products[-1] + self.offsets[labels]).argmax(dim=1) if self.has_head else None,
        )

    def _nearest(self, positions: Tensor) -> Tensor:
        distances = self.places.square().sum(dim=1) - 2 * positions @ self.places.T
        return distances.masked_fill(self.empty, torch.inf).argmin(dim=1)
