"""All metrics of one layer and split: those that are registered, and their breakdowns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ncpipe.collapse.arguments import MOST_IN_PAIRS, of_shape
from ncpipe.collapse.breakdown import add_breakdown
from ncpipe.collapse.frames import require_same_width
from ncpipe.collapse.layer import Layer
from ncpipe.collapse.least_squares import check_penalties
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import families
from ncpipe.collapse.statistics import LayerStatistics
from ncpipe.collapse.strands import by_one_thread


def collapse_metrics(
    stats: LayerStatistics,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    next_weight: Tensor | None = None,
    train_means: Tensor | None = None,
    penalties: tuple[float, float | None] | None = None,
    ood_mean: Tensor | None = None,
    per_class: bool = False,
    present_only: bool = False,
) -> Measurement:
    """All metrics of one layer and split, by the names of docs/metrics.md.

    Args:
        stats: what ``layer_statistics`` or ``CollapseMetrics`` found; of ``ClassMoments`` alone, the metrics that
            need a second pass are NaN. Their ``within_products`` add signal to noise and ``vci``.
        weight: the classifier (K, d) that reads the layer; adds NC2 of the weights, NC3 and NC4.
        bias: its bias (K,).
        next_weight: the weight (m, d) that reads the layer where no classifier does; adds ``nc3_rows`` and
            ``subspace_alignment``.
        train_means: class means (K, d) of the training split where the statistics are of another; adds NC1
            about them.
        penalties: lambda and lambda_b of ``least_squares_split``, whose parts they add.
        ood_mean: mean feature (d,) of samples of no class; adds ``nc5_ood``.
        per_class: also break down by class and by pair of classes.
        present_only: leave classes without a sample out, as in ``measure``.

    Raises:
        ValueError: both weights are given, ``next_weight`` does not read the layer, an array has another shape, or
            ``per_class`` is asked for more than 30,000 classes.
    """
    if per_class and len(stats.counts) > MOST_IN_PAIRS:
        raise ValueError(f"per_class holds K x K tables: at most {MOST_IN_PAIRS:,} classes, got {len(stats.counts)}")
    whole = _layer(stats.cpu(), weight, bias, next_weight, train_means, penalties, ood_mean)
    layer, row = whole.of_present() if present_only else whole, Measurement()

    def fill() -> None:
        for metric in families():
            metric.fill(row, layer)

    # d x d are worth more threads
    fill() if stats.within_products is not None else by_one_thread(layer.means, fill)
    _fill_spectrum(row, layer)
    if per_class:
        add_breakdown(row, layer)
    if per_class and present_only:
        row.spread(whole.counts.numpy() > 0)
    return row


def _fill_spectrum(row: Measurement, layer: Layer) -> None:
    """Rank, condition and singular values of the centred class means."""
    sizes = layer.singular_values
    row["rank"] = float(len(sizes))
    row.fill(("condition",), layer.lacks("frame"), lambda: {"condition": float(sizes[-1] / sizes[0])}, "")
    row.singular_values = sizes.numpy()


def product_metrics(stats: LayerStatistics, weight: Tensor, bias: Tensor | None) -> Measurement:
    """The metrics that need the within-class products of statistics, on their device, of the layer that a classifier
    reads."""
    row, layer = Measurement(), Layer(stats, weight, bias)
    for metric in families():
        if "products" in metric.needs:
            metric.fill(row, layer)
    return row


def _layer(
    stats: LayerStatistics,
    weight: Tensor | None,
    bias: Tensor | None,
    next_weight: Tensor | None,
    train_means: Tensor | None,
    penalties: tuple[float, float | None] | None,
    ood_mean: Tensor | None,
) -> Layer:
    """The layer of checked arguments."""
    if weight is not None and next_weight is not None:
        raise ValueError("weight and next_weight are given: a layer is read by one of them")
    weight = _as_given("weight", weight, stats.means.shape)
    bias = _as_given("bias", bias, stats.counts.shape)
    train_means = _as_given("train_means", train_means, stats.means.shape)
    ood_mean = _as_given("ood_mean", ood_mean, stats.means.shape[1:])
    if next_weight is not None:
        next_weight = next_weight.detach().cpu().double()
        require_same_width(next_weight, stats.means)
    if penalties is not None:
        if weight is None or stats.within_products is None:
            raise ValueError("penalties are given without weight, or statistics without within_products")
        check_penalties(*penalties)
    return Layer(stats, weight, bias, next_weight, train_means, train_means, penalties, ood_mean)


def _as_given(name: str, value: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    return None if value is None else of_shape(name, value, tuple(shape)).cpu().double()
