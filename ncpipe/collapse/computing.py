"""All metrics of one layer and split: those that are registered, and their breakdowns."""

from __future__ import annotations

from torch import Tensor

from ncpipe.collapse.arguments import MOST_IN_PAIRS, of_shape
from ncpipe.collapse.breakdown import add_breakdown
from ncpipe.collapse.frames import NAN, require_same_width
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
    whole = _checked(Layer(stats.cpu(), weight, bias, next_weight, train_means, None, penalties, ood_mean))
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
    sizes, reason = layer.singular_values, layer.lacks("frame")
    row["rank"] = float(len(sizes))
    row.fill({"condition": NAN if reason else float(sizes[-1] / sizes[0])}, reason or "")
    row.singular_values = sizes.numpy()


def product_metrics(stats: LayerStatistics, weight: Tensor, bias: Tensor | None) -> Measurement:
    """The metrics that need the within-class products of statistics, on their device, of the layer that a classifier
    reads."""
    row, layer = Measurement(), Layer(stats, weight, bias)
    for metric in families():
        if "products" in metric.needs:
            metric.fill(row, layer)
    return row


def _checked(layer: Layer) -> Layer:
    """The layer with arrays in float64 and on the CPU, if they are as they should be."""
    if layer.weight is not None and layer.next_weight is not None:
        raise ValueError("weight and next_weight are given: a layer is read by one of them")
    classes, width = layer.means.shape
    shapes = {"weight": (classes, width), "bias": (classes,), "train_means": (classes, width), "ood_mean": (width,)}
    for name, shape in shapes.items():
        if (value := getattr(layer, name)) is not None:
            setattr(layer, name, of_shape(name, value, shape).cpu().double())
    layer.own_train_means = layer.train_means
    if layer.next_weight is not None:
        layer.next_weight = layer.next_weight.detach().cpu().double()
        require_same_width(layer.next_weight, layer.means)
    if layer.penalties is not None:
        if layer.weight is None or layer.within_products is None:
            raise ValueError("penalties are given without weight, or statistics without within_products")
        check_penalties(*layer.penalties)
    return layer
