"""``ncpipe.measure``: every collapse metric of an array of features in one call."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncpipe.collapse.metrics import collapse_metrics
from ncpipe.collapse.statistics import layer_statistics

Array = Tensor | np.ndarray


def measure(
    features: Array,
    labels: Array,
    weight: Array | None = None,
    bias: Array | None = None,
    *,
    num_classes: int | None = None,
    train_means: Array | None = None,
) -> dict[str, float]:
    """Neural-collapse metrics of features, exact in float64 whatever their type.

    Args:
        features: (N, d), one sample a row; NumPy or Torch, floating point, on any device.
        labels: (N,) integers in [0, K).
        weight: classifier W (K, d) that reads the features; adds NC2 of the weights, NC3 and NC4.
        bias: classifier bias b (K,).
        num_classes: K; one more than the largest label where it is not given.
        train_means: (K, d) class means that nearest-class-mean decisions use; pass the training split's
            when ``features`` are the test split's. Default: the class means of ``features``.

    Returns:
        Metric name -> value, names and formulas as in docs/metrics.md, with the ``rank`` and ``condition``
        (smallest kept over largest singular value) of the centred class means. A metric is NaN where it is
        undefined.

    Raises:
        ValueError: an argument has the wrong shape or type, is not finite, or lies on another device.

    Example:
        >>> import torch, ncpipe
        >>> labels = torch.arange(3).repeat_interleave(4)
        >>> row = ncpipe.measure(torch.eye(3)[labels], labels, weight=torch.eye(3))
        >>> row["nc1_pinv"], row["nc2_means_of"] < 1e-12
        (0.0, True)
    """
    h = _matrix("features", features)
    y = _labels(labels, len(h), num_classes).to(h.device)
    count = int(y.max()) + 1 if num_classes is None else num_classes
    if count < 2:
        raise ValueError(f"num_classes must be at least 2, got {count}: collapse is about several classes")
    w = None if weight is None else _same_device(_matrix("weight", weight, (count, h.shape[1])), h, "weight")
    if bias is not None and w is None:
        raise ValueError("bias is given without weight: pass the classifier's weight too")
    b = None if bias is None else _same_device(_vector("bias", bias, count), h, "bias")
    t = None
    if train_means is not None:
        t = _same_device(_matrix("train_means", train_means, (count, h.shape[1])), h, "train_means")
    stats = layer_statistics(h, y, count, weight=w, bias=b, train_means=t)
    if empty := (stats.counts == 0).nonzero().flatten().tolist():
        warnings.warn(f"no sample of class {empty}: metrics that need its mean are NaN", stacklevel=2)
    return collapse_metrics(stats, w, b)


def _tensor(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray):
        raise ValueError(f"{name} must be a NumPy array or a Torch tensor, got {type(value).__name__}")
    # torch takes no negative strides
    return torch.as_tensor(np.ascontiguousarray(value) if isinstance(value, np.ndarray) else value).detach()


def _matrix(name: str, value: Any, shape: tuple[int, int] | None = None) -> Tensor:
    tensor = _tensor(name, value)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.ndim != 2 or 0 in tensor.shape:
        needs = "(N, d), non-empty: flatten or pool maps first" if shape is None else str(shape)
        raise ValueError(f"{name} must have shape {needs}, got {tuple(tensor.shape)}")
    if shape is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return _finite(name, tensor)


def _vector(name: str, value: Any, length: int) -> Tensor:
    tensor = _tensor(name, value)
    if tuple(tensor.shape) != (length,):
        raise ValueError(f"{name} must have shape ({length},), got {tuple(tensor.shape)}")
    return _finite(name, tensor)


def _finite(name: str, tensor: Tensor) -> Tensor:
    if torch.isfinite(tensor.sum()):
        return tensor
    bad = ~torch.isfinite(tensor)
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise ValueError(f"{name} has {int(bad.sum())} non-finite values, the first at index {first}")
    return tensor


def _labels(value: Any, length: int, num_classes: int | None) -> Tensor:
    tensor = _tensor("labels", value)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {tensor.dtype}")
    if tuple(tensor.shape) != (length,):
        raise ValueError(f"labels must have shape ({length},), one per row of features, got {tuple(tensor.shape)}")
    low, high = int(tensor.min()), int(tensor.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        upper = "K" if num_classes is None else num_classes
        raise ValueError(f"labels must lie in [0, {upper}), got values from {low} to {high}")
    return tensor.long()


def _same_device(tensor: Tensor, features: Tensor, name: str) -> Tensor:
    if tensor.device != features.device:
        raise ValueError(f"{name} is on {tensor.device}, features on {features.device}: move one of them")
    return tensor
