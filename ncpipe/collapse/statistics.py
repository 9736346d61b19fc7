"""Second pass: what is left of one layer's features about given class means. Statistics of size O(K d).

Everything is float64 whatever the features are, and no d x d matrix is formed unless it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import reduce
from types import ModuleType

from ncpipe.collapse.frames import RowSpace, right_singular
from ncpipe.collapse.moments import class_counts, class_means, kernels_for, squared_norms
from ncpipe.collapse.pairs import rows_by
from ncpipe.collapse.strands import Chunks, by_one_thread, in_strands
from ncpipe.system.lazy import Tensor, torch

LOGITS_OF_CLASSES = 1024
"""Most classes whose logits at all class means, K x K, are kept: up to 8 MiB these save a second product."""
GEMM_COLUMNS = 24
"""Products are padded to a multiple of so many columns: CPU kernels in float64 are 2-3 times faster on these."""


def centred_means(means: Tensor) -> Tensor:
    """M = [mu_c - mu_G], (K, d), with mu_G the mean of the class means."""
    return means - means.mean(dim=0, keepdim=True)


def class_mean_basis(means: Tensor) -> RowSpace:
    """Thin SVD of M, M^T = U S V^T, cut at its rank r <= K - 1: Sigma_B has the square of its condition number.

    Singular values below ``max(K, d) * eps * s_max`` are dropped, and so are those below the rounding
    error of M itself, ``max(K, d) * eps * max |mu_c|``: the centring cancels the mean of the class means.
    """
    sizes, directions = right_singular(centred_means(means))
    scale = max(float(sizes[0]), float(means.norm(dim=1).max()))
    keep = sizes > max(means.shape) * torch.finfo(torch.float64).eps * scale
    return RowSpace(sizes[keep], directions[keep], int(keep.sum()))


def whitened_products(products: Tensor, basis: RowSpace) -> Tensor:
    """sum_i |S^-1 U^T d_i|^2 of deviations d_i whose products sum to (d, d); rounding is eps of the largest direction
    over that of the class means, of their squares."""
    return (basis.whitening @ products * basis.whitening).sum().clamp(min=0)


@dataclass(frozen=True)
class LayerStatistics:
    """What the metrics read of one layer and one split. K classes, d features.

    All but ``means`` and ``singular_values`` are sums over samples, and statistics about the same means add.
    """

    counts: Tensor
    """Samples per class, (K,) int64."""
    means: Tensor
    """Class means mu_c, (K, d) float64; NaN for a class without a sample."""
    scatter: Tensor
    """sum_i |h_i - mu_c|^2 per class, (K,) float64."""
    singular_values: Tensor | None = None
    """S of the centred class means above rounding, (r,) float64."""
    whitened_scatter: Tensor | None = None
    """sum_i |S^-1 U^T (h_i - mu_c)|^2 per class, (K,) float64, in the basis of these means."""
    nearest_mean_hits: Tensor | None = None
    """Samples per class whose nearest *train* class mean is their own, (K,) int64."""
    classifier_hits: Tensor | None = None
    """Samples per class that argmax(W h + b) gets right, (K,) int64."""
    agreements: Tensor | None = None
    """Samples per class on which argmax(W h + b) is the nearest train class mean, (K,) int64."""
    train_whitened_scatter: Tensor | None = None
    """sum_i |S^-1 U^T (h_i - mu_c)|^2 per class, (K,), with S, U and mu_c of given train class means."""
    within_products: Tensor | None = None
    """sum_i (h_i - mu_c) (h_i - mu_c)^T over all samples, (d, d) float64; only on request."""

    @property
    def num_samples(self) -> int:
        return int(self.counts.sum())

    @property
    def squared_norm(self) -> float:
        """|H|_F^2 = sum_i |h_i|^2."""
        return float(self.scatter.sum() + (self.counts[:, None] * self.means.nan_to_num().square()).sum())

    def whitened_total(self) -> Tensor | None:
        """``whitened_scatter`` of all classes together, from the products where only these are known."""
        if self.whitened_scatter is None and self.within_products is not None:
            return whitened_products(self.within_products, class_mean_basis(self.means))
        return None if self.whitened_scatter is None else self.whitened_scatter.sum()

    def train_whitened_total(self, train_means: Tensor, own_means: Tensor) -> Tensor | None:
        """``train_whitened_scatter`` about the rows of the train means that are these classes' own."""
        if self.train_whitened_scatter is None and self.within_products is not None:
            basis = class_mean_basis(train_means)
            moved = ((self.means - own_means) @ basis.whitening.T).square().sum(dim=1)
            return whitened_products(self.within_products, basis) + (self.counts * moved).sum()
        return None if self.train_whitened_scatter is None else self.train_whitened_scatter.sum()

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are set, by name, for writing."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def of_classes(self, mask: Tensor) -> LayerStatistics:
        """Statistics of some of the classes alone, (K,) bool; the within-class products stay those of all."""
        parts = self.tensors()
        by_class = parts.keys() - {"singular_values", "within_products"}
        return LayerStatistics(**{n: parts[n][mask] for n in by_class}, within_products=self.within_products)

    def cpu(self) -> LayerStatistics:
        return LayerStatistics(**{name: value.cpu() for name, value in self.tensors().items()})

    def __add__(self, other: LayerStatistics) -> LayerStatistics:
        """Statistics of both sets of samples, taken about the same means.

        Raises:
            ValueError: the means differ, or one has a statistic that the other lacks.
        """
        mine, its = self.tensors(), other.tensors()
        if mine.keys() != its.keys():
            raise ValueError(f"statistics differ in what they hold: {sorted(mine.keys() ^ its.keys())}")
        if not torch.equal(self.means.nan_to_num(), other.means.nan_to_num()):
            raise ValueError(
                "statistics about different class means do not add: merge ClassMoments first and take the"
                " second pass about the merged means"
            )
        sums = {n: mine[n] + its[n] for n in mine.keys() - {"means", "singular_values"}}
        return replace(self, **sums)


def layer_statistics(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    train_means: Tensor | None = None,
    products: bool = False,
) -> LayerStatistics:
    """Statistics of features (N, d) with labels (N,), in two passes.

    ``weight`` (K, d) and ``bias`` (K,) are the classifier that reads the layer; ``train_means`` (K, d) are
    the means that nearest-class-mean decisions use, these features' own where none are given; ``products``
    asks for the (d, d) sum of within-class products.
    """
    counts, means = class_means(features, labels, num_classes)
    second = SecondPass(counts, means, weight=weight, bias=bias, train_means=train_means, products=products)
    return second(features, labels)


class SecondPass:
    """Statistics of any rows of features about class means that are known.

    A sample is known from one product of its deviation, h - mu_c, with a (d, <= 3K) matrix that holds U, the
    basis of the training means where these are given too, and the classifier. Nearest means need no more: the
    differences of the means lie in their span.
    """

    def __init__(
        self,
        counts: Tensor,
        means: Tensor,
        *,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        train_means: Tensor | None = None,
        products: bool = False,
    ) -> None:
        """``counts`` (K,) and ``means`` (K, d) of all samples; the rest as in ``layer_statistics``."""
        self.means, self.products = means, products
        self.has_head, self.has_train = weight is not None, train_means is not None
        by_one_thread(means, lambda: self._set_up(counts, weight, bias, train_means))

    def _set_up(self, counts: Tensor, weight: Tensor | None, bias: Tensor | None, train_means: Tensor | None) -> None:
        means, known = self.means, self.means.nan_to_num()
        reference = known if train_means is None else train_means.to(means).nan_to_num()
        basis = class_mean_basis(known[counts > 0])
        span = basis if train_means is None else class_mean_basis(reference)
        self.singular_values = basis.sizes
        blocks = [basis.whitening, *([span.whitening] if self.has_train else [])]
        if weight is not None:
            self._weight = weight.to(means)
            self._bias = means.new_zeros(len(means)) if bias is None else bias.to(means)
            if len(means) <= LOGITS_OF_CLASSES:
                blocks.append(self._weight)
                self._class_logits = torch.addmm(self._bias, known, self._weight.T)
        padding = -sum(map(len, blocks)) % GEMM_COLUMNS
        self._matrix = torch.cat([*blocks, means.new_zeros(padding, means.shape[1])])
        self._widths = [*map(len, blocks), padding]
        self._means = known

        # <h, m> - |m|^2/2, largest for the nearest m, with h and m from the origin in the whitened basis
        origin, scale = reference.mean(dim=0), span.sizes
        places = (reference - origin) @ span.whitening.T
        self._own_places = (known - origin) @ span.whitening.T
        self._directions = places * scale.square()
        self._lengths = -(places * scale).square().sum(dim=1) / 2
        missing = counts == 0 if train_means is None else train_means.isnan().any(dim=1)
        self._lengths[missing] = -torch.inf
        self._shift = self._own_places - places if self.has_train else None

    def __call__(self, features: Tensor, labels: Tensor) -> LayerStatistics:
        """Statistics of features (n, d) with labels (n,): some or all of the samples that the means are of."""
        size = max(3 * len(self.means), features.shape[1] ** 2 if self.products else 0)
        if (fused := kernels_for(features)) is not None:
            reals, counts, *products = self._fused(fused, features, labels)
        else:
            strands = in_strands(features, size, lambda chunks: self._summed(chunks, labels))
            reals, counts, *products = (reduce(torch.Tensor.add_, sums) for sums in zip(*strands))
        return LayerStatistics(
            class_counts(labels, len(self.means)),
            self.means,
            reals[0],
            self.singular_values,
            reals[1],
            counts[0],
            counts[1] if self.has_head else None,
            counts[2] if self.has_head else None,
            reals[2] if self.has_train else None,
            *products,
        )

    def _fused(self, fused: ModuleType, features: Tensor, labels: Tensor) -> list[Tensor]:
        """What ``_summed`` gives, by the kernels of ``ncpipe.collapse.fused``."""
        classes, products = len(self.means), self._no_products()
        tiles = fused.Tiles.of(labels, classes)
        if not products and fused.in_one_read(features, classes):
            own, span = self._widths[0], self._widths[self.has_train]
            by = fused.Projections(
                self._matrix,
                own,
                span,
                self._own_places,
                self._directions,
                self._lengths,
                self._shift,
                self._class_logits if self.has_head else None,
            )
            table = fused.projected(features, tiles, self._means, by)
        else:
            samples = self._means.new_zeros(len(features), fused.QUANTITIES)
            for places, own, deviation, squares in fused.centred(features, tiles, self._means):
                reals, counts = self._values(deviation, own, squares)
                for column, values in [*enumerate(reals), *enumerate(counts, 3)]:
                    samples[places, column] = values
                for total in products:
                    total.addmm_(deviation.T, deviation)
            table = tiles.summed(samples)
        return [table[:, :3].T, table[:, 3:].T.round().long(), *products]

    def _no_products(self) -> list[Tensor]:
        width = self.means.shape[1]
        return [self.means.new_zeros(width, width)] if self.products else []

    def _summed(self, chunks: Chunks, labels: Tensor) -> list[Tensor]:
        """Sums over the samples of every class: of up to three real and three yes-or-no quantities, (3, K) each, and
        of products (d, d)."""
        sums = [self.means.new_zeros(3, len(self.means), dtype=kind) for kind in (torch.float64, torch.int64)]
        products = self._no_products()
        gathered = self.means.new_empty(0)
        for rows, deviation in chunks:
            own = labels[rows]
            if len(gathered) != len(deviation):  # the first and the last chunk
                gathered = torch.empty_like(deviation)
            deviation.sub_(torch.index_select(self._means, 0, own, out=gathered))
            for totals, values in zip(sums, self._values(deviation, own, squared_norms(deviation))):
                for total, value in zip(totals, values):
                    total.index_add_(0, own, value)
            for total in products:
                total.addmm_(deviation.T, deviation)
        return sums + products

    def to(self, device: torch.device) -> SecondPass:
        """Move to a device, in place."""
        for name, value in vars(self).items():
            if isinstance(value, torch.Tensor):
                setattr(self, name, value.to(device))
        return self

    def _values(self, deviation: Tensor, own: Tensor, squares: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What is summed, of deviations (n, d) of these classes and with these squares, (n,) each."""
        *projected, _ = (deviation @ self._matrix.T).split(self._widths, dim=1)
        reals = [squares, squared_norms(projected[0])]
        in_span = projected[1 if self.has_train else 0]
        if self._shift is not None:
            reals.append(squared_norms(in_span + self._shift[own]))
        nearest = _largest(in_span + self._own_places[own], self._directions, self._lengths)
        counts = [nearest == own]
        if self.has_head:
            if len(self.means) <= LOGITS_OF_CLASSES:
                decided = (self._class_logits[own] + projected[-1]).argmax(dim=1)
            else:
                decided = _largest(deviation + self._means[own], self._weight, self._bias)
            counts += [decided == own, decided == nearest]
        return reals, [flags.long() for flags in counts]


def _largest(rows: Tensor, matrix: Tensor, offsets: Tensor) -> Tensor:
    """argmax over c of <row, m_c> + o_c of rows (n, r), (K, r) and (K,), in memory that does not grow with n K."""
    pieces = rows.split(rows_by(len(matrix)))
    return torch.cat([torch.addmm(offsets, piece, matrix.T).argmax(dim=1) for piece in pieces])
