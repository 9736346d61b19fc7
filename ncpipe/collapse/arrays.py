"""``ncpipe.measure``: every collapse metric of an array of features in one call."""

from __future__ import annotations

from functools import reduce
from itertools import starmap
from typing import Any

import torch
from torch import Tensor

from ncpipe.collapse.arguments import (
    Array,
    as_classifier,
    as_features,
    as_labels,
    as_parameter,
    num_classes_of,
    number_classes,
    on_device_of,
    require_finite,
)
from ncpipe.collapse.computing import collapse_metrics
from ncpipe.collapse.layer import missing_means
from ncpipe.collapse.least_squares import check_penalties
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.moments import ClassMoments, class_means
from ncpipe.collapse.rows import Rows
from ncpipe.collapse.statistics import LayerStatistics, SecondPass


def measure(
    features: Array | Rows,
    labels: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    num_classes: int | None = None,
    train_means: Array | None = None,
    per_class: bool = False,
    present_only: bool = False,
    products: bool = False,
    ridge: float | None = None,
    bias_decay: float | None = None,
    ood_features: Array | None = None,
) -> Measurement:
    """Neural-collapse metrics of features, exact in float64 whatever their type; arrays are NumPy's or Torch's.

    Args:
        features: (N, d), one sample a row; floating point, on any device; or ``Rows``, read twice from a file.
        labels: (N,) integers in [0, K).
        weight: classifier W (K, d) that reads the features; adds NC2 of the weights, NC3 and NC4.
        bias: its bias b (K,).
        num_classes: K; else the rows of ``weight`` or ``train_means``, else one more than the largest label.
        train_means: (K, d) class means of training where ``features`` are others: decisions use them, NC1 is added.
        per_class: also break down by class and by pair of classes, see ``Measurement.per_class``, ``.per_pair``.
        present_only: leave classes without a sample out, as if they did not exist; they leave means undefined else.
        products: also form the d x d matrix Sigma_W; adds ``snr_min``, ``snr_max`` and ``vci``.
        ridge: penalty lambda of ``lambda/2 |W|^2``; adds ``products`` and Han's split, see ``least_squares_split``.
        bias_decay: the bias' penalty in that split; default: ``ridge``.
        ood_features: (N', d), features of out-of-distribution samples; adds ``nc5_ood``.

    Returns: values by the names of docs/metrics.md; NaN where undefined, with the reason in ``.undefined``.

    Raises:
        ValueError: an argument has the wrong shape or type, is not finite, or lies on another device.

    >>> measure(torch.eye(3), torch.arange(3)).undefined["nc1_pinv"]
    'one sample only of class 0, 1, 2: it has no variability'
    """
    given = labels, weight, bias, num_classes, train_means, products, ridge, bias_decay, ood_features
    return _measured(_rows(features), *given, per_class=per_class, present_only=present_only)


def stored_means(features: Array | Rows, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """``class_means`` of an array or of rows that are read a piece at a time."""
    rows = _rows(features)

    def moments(where: slice, piece: Tensor) -> ClassMoments:
        counts, means = class_means(piece, labels[where], num_classes)
        return ClassMoments(counts, means, means.new_zeros(num_classes))

    found = reduce(ClassMoments.__add__, starmap(moments, rows.pieces(num_classes)))
    return found.counts, found.means


def _rows(features: Array | Rows) -> Rows:
    if isinstance(features, Rows):
        as_features("features", features.like)
        return features
    whole = as_features("features", features)
    return Rows(whole, lambda size: iter([whole]))


def _measured(
    rows: Rows,
    labels: Array,
    weight: Array | None,
    bias: Array | None,
    num_classes: int | None,
    train_means: Array | None,
    products: bool,
    ridge: float | None,
    bias_decay: float | None,
    ood_features: Array | None,
    **breakdown: Any,
) -> Measurement:
    h = rows.like
    known, told_by = num_classes_of(num_classes, h, ("weight", weight), ("train_means", train_means))
    y = as_labels(labels, h, known, told_by)
    count = int(y.max()) + 1 if known is None else known
    w, b = as_classifier(weight, bias, count, h)
    t = None if train_means is None else as_parameter("train_means", train_means, (count, h.shape[1]), h)
    penalties = _penalties(w, b, ridge, bias_decay)
    outside = None if ood_features is None else _mean_outside(ood_features, h)

    counts, means = stored_means(rows, y, count)
    if not torch.isfinite(means[counts > 0]).all():
        for where, piece in rows.pieces(count):
            require_finite("features" + f" from row {where.start} on" * (where.start > 0), piece)
    products = products or penalties is not None
    second = SecondPass(counts, means, weight=w, bias=b, train_means=t, products=products)
    seen = reduce(LayerStatistics.__add__, (second(piece, y[where]) for where, piece in rows.pieces(count)))
    row = collapse_metrics(seen, w, b, train_means=t, penalties=penalties, ood_mean=outside, **breakdown)
    if known is None and not counts.all():  # the largest label alone told K
        row.advise(missing_means(counts, means), f"{number_classes(labels)}, or pass present_only=True")
    return row


def _penalties(
    weight: Tensor | None, bias: Tensor | None, ridge: float | None, bias_decay: float | None
) -> tuple[float, float | None] | None:
    """lambda and lambda_b of the split of the squared error, if it is asked for."""
    if ridge is None:
        if bias_decay is not None:
            raise ValueError("bias_decay is given without ridge: the split has both")
        return None
    if weight is None:
        raise ValueError("ridge is given without weight: the split is about a classifier")
    if bias_decay is not None and bias is None:
        raise ValueError("bias_decay is given without bias")
    check_penalties(ridge, bias_decay)
    return ridge, bias_decay


def _mean_outside(features: Array, inside: Tensor) -> Tensor:
    """Mean (d,) of features out of the distribution."""
    outside = on_device_of(inside, "ood_features", as_features("ood_features", features), features)
    if outside.shape[1] != inside.shape[1]:
        raise ValueError(f"ood_features must have {inside.shape[1]} columns as features, got {outside.shape[1]}")
    _, mean = class_means(outside, torch.zeros(len(outside), dtype=torch.int64, device=outside.device), 1)
    if not torch.isfinite(mean).all():
        require_finite("ood_features", outside)
    return mean[0]
