"""What the metrics of one layer and split read, and why there may be nothing to measure."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from ncpipe.collapse.frames import RowSpace, row_space
from ncpipe.collapse.statistics import LayerStatistics, centred_means, class_mean_basis
from ncpipe.system.lazy import Tensor, torch
from ncpipe.system.words import listed

NO_SECOND_PASS = "needs a second pass over the features"  # noqa: S105

NEEDS = {
    "finite": "features that are finite",
    "means": "a mean of every class, whose square float64 holds",
    "gram": "`means` of two classes or more, not all zero",
    "frame": "`gram`, and class means that differ",
    "scatter": "`frame`, and two samples of every class",
    "classifier": "a classifier, `layer.weight` and perhaps `layer.bias`",
    "weight": "a classifier whose weight is finite and not zero, of two classes or more",
    "reader": "`layer.reader`, the weight of a classifier or of the next layer, finite and not zero",
    "train_means": "`layer.train_means`, those of the training split, that differ",
    "products": "`layer.statistics.within_products`, the sum of within-class products",
    "penalties": "`products`, and `layer.penalties` of a squared error",
    "ood_mean": "`layer.ood_mean`, the mean feature of samples of no class",
}
"""What a metric may need of a layer. There is no row where it was not given, and a NaN where it is not so."""

_GIVEN = {name: name for name in ("train_means", "penalties", "ood_mean", "reader", "weight")}
_GIVEN |= {"classifier": "weight", "products": "within_products"}


@dataclass(eq=False)
class Layer:
    """One layer and split. Tensors are float64 and on one device; what several metrics share is computed once."""

    statistics: LayerStatistics
    weight: Tensor | None = None
    """W (K, d) of the classifier that reads the layer."""
    bias: Tensor | None = None
    """b (K,)."""
    next_weight: Tensor | None = None
    """(m, d), where no classifier reads the layer."""
    train_means: Tensor | None = None
    """Class means (K, d) of the training split, where the statistics are of another."""
    own_train_means: Tensor | None = None
    """Those of the classes that the statistics are of."""
    penalties: tuple[float, float | None] | None = None
    """lambda and lambda_b of a squared error, see ``least_squares_split``."""
    ood_mean: Tensor | None = None
    """Mean feature (d,) of out-of-distribution samples."""

    def of_present(self) -> Layer:
        """The layer without the classes that have no sample."""
        there = self.counts > 0
        if there.all() or not there.any():
            return self
        parts = (self.weight, self.bias, self.train_means)
        weight, bias, train = (None if part is None else part[there] for part in parts)
        statistics = self.statistics.of_classes(there)
        return replace(self, statistics=statistics, weight=weight, bias=bias, own_train_means=train)

    def gives(self, need: str) -> bool:
        """Whether what a metric needs was given, so that it is asked for."""
        return getattr(self, _GIVEN.get(need, "statistics")) is not None

    def lacks(self, need: str) -> str | None:
        """Why a need is not met, None where it is."""
        return getattr(self, f"_no_{need}")

    @property
    def counts(self) -> Tensor:
        """Samples per class, (K,) int64."""
        return self.statistics.counts

    @property
    def means(self) -> Tensor:
        """Class means, (K, d)."""
        return self.statistics.means

    @cached_property
    def centred(self) -> Tensor:
        """M, the class means minus their mean, (K, d)."""
        return centred_means(self.means)

    @cached_property
    def singular_values(self) -> Tensor:
        """S of M above rounding, (r,), descending; empty where a class has no mean."""
        if self._no_means:
            return self.means.new_empty(0)
        known = self.statistics.singular_values
        return class_mean_basis(self.means).sizes if known is None else known

    @property
    def reader(self) -> Tensor | None:
        """The weight of the classifier, or else of the next layer."""
        return self.next_weight if self.weight is None else self.weight

    @cached_property
    def reader_space(self) -> RowSpace:
        """What the reader reads."""
        assert self.reader is not None
        return row_space(self.reader)

    @property
    def within_products(self) -> Tensor | None:
        """N Sigma_W, (d, d)."""
        return self.statistics.within_products

    @cached_property
    def noise(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues (m,) and eigenvectors (d, m) of Sigma_W that are not rounding."""
        assert self.within_products is not None
        sizes, vectors = torch.linalg.eigh(self.within_products / self.statistics.num_samples)
        step = self.means.shape[1] * torch.finfo(self.means.dtype).eps
        rounding = (step * self.means.norm(dim=1).max()).square()  # of the features
        keep = sizes > torch.maximum(step * sizes[-1], rounding)
        return sizes[keep], vectors[:, keep]

    @property
    def no_direction(self) -> str:
        """Why an angle between centred means is NaN."""
        at_centre = (self.centred.norm(dim=1) == 0).any()
        return "a class mean is the mean of the class means" if at_centre else "two centred means have one direction"

    @cached_property
    def _no_finite(self) -> str | None:
        finite = torch.isfinite(self.means[self.counts > 0]).all()
        return None if finite else "the features are not finite"

    @cached_property
    def _no_means(self) -> str | None:
        return missing_means(self.counts, self.means)

    @cached_property
    def _no_gram(self) -> str | None:
        return self._no_means or _one_point(self.means)

    @cached_property
    def _no_frame(self) -> str | None:
        return self._no_gram or _one_place(self.centred, len(self.singular_values))

    @cached_property
    def _no_scatter(self) -> str | None:
        single = (self.counts == 1).nonzero().flatten().tolist()
        why = f"one sample only of class {listed(single, 5)}: it has no variability" if single else None
        return self._no_frame or why

    _no_classifier = None

    @cached_property
    def _no_weight(self) -> str | None:
        assert self.weight is not None
        return "there is one class only" if len(self.weight) == 1 else self._no_reader

    @cached_property
    def _no_reader(self) -> str | None:
        assert self.reader is not None
        if not torch.isfinite(self.reader).all():
            return "the weight is not finite"
        if not self.reader.any():
            return "the weight is zero"
        in_range = 0 < float(self.reader.square().sum()) < math.inf
        return None if in_range else "squares of the weight leave the range of float64: scale it"

    @cached_property
    def _no_train_means(self) -> str | None:
        assert self.train_means is not None
        if not torch.isfinite(self.train_means).all():
            return "a train class mean is missing"
        rank = class_mean_basis(self.train_means).rank
        why = _one_point(self.train_means) or _one_place(centred_means(self.train_means), rank)
        return why and f"train means: {why}"

    _no_products = _no_penalties = _no_ood_mean = None


def missing_means(counts: Tensor, means: Tensor) -> str | None:
    """Why there are no class means to measure, if so."""
    known = means[counts > 0]
    if not torch.isfinite(known).all():
        return "the features are not finite"
    if not torch.isfinite(known.square().sum()) or (known.any() and not known.square().sum() > 0):
        return "squares of the features leave the range of float64: scale them"
    empty = (counts == 0).nonzero().flatten().tolist()
    return f"no sample of class {listed(empty, 5)}" if empty else None


def _one_point(means: Tensor) -> str | None:
    if len(means) == 1:
        return "there is one class only"
    return None if means.any() else "all class means are zero"


def _one_place(centred: Tensor, rank: int) -> str | None:
    # the square may underflow
    return None if rank and centred.square().sum() > 0 else "all class means agree"
