"""``ncpipe.measure``: every collapse metric of an array of features in one call."""

from __future__ import annotations

from functools import partial

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
from ncpipe.collapse.frames import ood_orthogonality
from ncpipe.collapse.least_squares import SPLIT, check_penalties, least_squares_split
from ncpipe.collapse.measurement import Measurement
from ncpipe.collapse.metrics import classes_present, collapse_metrics, missing_means
from ncpipe.collapse.moments import class_means
from ncpipe.collapse.statistics import SecondPass
from ncpipe.collapse.strands import by_one_thread


def measure(
    features: Array,
    labels: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    num_classes: int | None = None,
    train_means: Array | None = None,
    per_class: bool = False,
    present_only: bool = False,
    ridge: float | None = None,
    bias_decay: float | None = None,
    ood_features: Array | None = None,
) -> Measurement:
    """Neural-collapse metrics of features, exact in float64 whatever their type.

    Args:
        features: (N, d), one sample a row; NumPy or Torch, floating point, on any device.
        labels: (N,) integers in [0, K).
        weight: classifier W (K, d) that reads the features; adds NC2 of the weights, NC3 and NC4.
        bias: classifier bias b (K,).
        num_classes: K; where it is not given the rows of ``weight`` or ``train_means``, else one more than the
            largest label.
        train_means: (K, d) class means of the training split when ``features`` are another's: nearest-class-mean
            decisions use them, and NC1 about them is added, named ``.._train_means``. Default: the class means
            of ``features``.
        per_class: also break down by class and by pair of classes, see ``Measurement.per_class``, ``.per_pair``.
        present_only: leave the classes without a sample out of all that is measured of means and weights, and of
            K, as if they did not exist; else a class without a sample leaves these undefined. Decisions are among all
            rows of the weight either way.
        ridge: penalty lambda of ``lambda/2 |W|^2``; adds Han's split of the squared error, ``loss_nc1``,
            ``loss_nc23``, ``loss_perp``. See ``least_squares_split``; forms a d x d matrix.
        bias_decay: the bias' penalty in that split; default: ``ridge``.
        ood_features: (N', d), features of out-of-distribution samples; adds ``nc5_ood``.

    Returns:
        Metric name -> value, names and formulas as in docs/metrics.md, with the ``rank`` and ``condition``
        (smallest kept over largest singular value) of the centred class means. A metric is NaN where it is
        undefined; ``.undefined`` of the result says why.

    Raises:
        ValueError: an argument has the wrong shape or type, is not finite, or lies on another device.

    Example:
        >>> import torch, ncpipe
        >>> labels = torch.arange(3).repeat_interleave(4)
        >>> row = ncpipe.measure(torch.eye(3)[labels], labels, weight=torch.eye(3))
        >>> row["nc1_pinv"], row["nc2_means_of"] < 1e-12
        (0.0, True)
        >>> ncpipe.measure(torch.zeros(12, 3), labels).undefined["nc1_pinv"]
        'all class means are zero'
    """
    h = as_features("features", features)
    known, told_by = num_classes_of(num_classes, h, ("weight", weight), ("train_means", train_means))
    y = as_labels(labels, h, known, told_by)
    count = int(y.max()) + 1 if known is None else known
    w, b = as_classifier(weight, bias, count, h)
    t = None if train_means is None else as_parameter("train_means", train_means, (count, h.shape[1]), h)
    if ridge is not None:
        if w is None:
            raise ValueError("ridge is given without weight: the split is about a classifier")
        if bias_decay is not None and b is None:
            raise ValueError("bias_decay is given without bias")
        check_penalties(ridge, bias_decay)
    elif bias_decay is not None:
        raise ValueError("bias_decay is given without ridge: the split has both")
    outside = None if ood_features is None else _mean_outside(ood_features, h)

    counts, means = class_means(h, y, count)
    if not torch.isfinite(means[counts > 0]).all():
        require_finite("features", h)
    about = partial(SecondPass, counts, means, weight=w, bias=b, train_means=t, products=ridge is not None)
    stats = by_one_thread(means, about)(h, y)
    computed = partial(collapse_metrics, train_means=t, per_class=per_class, present_only=present_only)
    row = by_one_thread(means, partial(computed, stats, w, b))
    if present_only:
        stats, w, b = classes_present(stats, w, b)
    reason = missing_means(stats.counts, stats.means)
    if ridge is not None and w is not None:
        split = partial(least_squares_split, stats, w, b, ridge=ridge, bias_decay=bias_decay)
        row.fill(SPLIT, reason, lambda: split().values(), "")
    if outside is not None:
        values = {"nc5_ood": ood_orthogonality(stats.means, outside)}
        row.fill(("nc5_ood",), reason, lambda: values, "a class mean or the mean of ood_features is zero")
    if known is None and not counts.all():
        row.advise(reason, f"{number_classes(labels)}, or pass present_only=True")
    return row


def _mean_outside(features: Array, inside: Tensor) -> Tensor:
    """Mean (d,) of features out of the distribution."""
    outside = on_device_of(inside, "ood_features", as_features("ood_features", features), features)
    if outside.shape[1] != inside.shape[1]:
        raise ValueError(f"ood_features must have {inside.shape[1]} columns as features, got {outside.shape[1]}")
    _, mean = class_means(outside, torch.zeros(len(outside), dtype=torch.int64, device=outside.device), 1)
    if not torch.isfinite(mean).all():
        require_finite("ood_features", outside)
    return mean[0]
