"""Checks of the arrays that users pass: a wrong one is a ``ValueError`` that names it and what it needs."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
MOST_CLASSES = 30_000
"""Distances between all classes are held, 7 GB of them for this many."""
MANY_CLASSES = 1000
"""Largest label from which on a label may be a mistake: an index, or a mark of what is to be ignored."""


def as_count(value: Any) -> int:
    """K, at least 1."""
    try:
        count = operator.index(value)
    except TypeError:
        raise ValueError(f"num_classes must be a whole number, got {value!r}") from None
    if isinstance(value, bool) or count < 1:
        raise ValueError(f"num_classes must be at least 1, got {value}")
    if count > MOST_CLASSES:
        raise ValueError(f"num_classes must be at most {MOST_CLASSES:,}, got {count}: K x K distances are held")
    return count


def as_tensor(name: str, value: Any, kind: str = "floating point") -> Tensor:
    if not isinstance(value, Tensor | np.ndarray) or isinstance(value, np.ma.MaskedArray):
        raise ValueError(f"{name} must be a NumPy array or a Torch tensor, got {type(value).__name__}")
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("="), copy=False)  # torch knows the native byte order only
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
            try:
                return torch.as_tensor(np.ascontiguousarray(value))  # torch takes no negative strides
            except (TypeError, ValueError):
                raise ValueError(f"{name} must be {kind}, got {value.dtype}") from None
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {value.layout}: call to_dense()")
    # Apple's GPUs have no float64
    return value.detach().cpu() if value.device.type == "mps" else value.detach()


def as_features(name: str, value: Any) -> Tensor:
    """A floating-point matrix (N, d); finiteness is left to ``require_finite``, where sums tell for free."""
    tensor = as_tensor(name, value)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
    if tensor.ndim != 2 or 0 in tensor.shape:
        needs = "(N, d), non-empty: flatten or pool maps first"
        raise ValueError(f"{name} must have shape {needs}, got {tuple(tensor.shape)}")
    return tensor


def as_parameter(name: str, value: Any, shape: tuple[int, ...], features: Tensor) -> Tensor:
    """A finite floating-point tensor of a known shape, on the device of the features."""
    tensor = as_tensor(name, value)
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {tensor.dtype}")
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    tensor = on_device_of(features, name, tensor, value)
    require_finite(name, tensor, "the network has diverged, or a class has no mean")
    return tensor


def as_classifier(
    weight: Array | None, bias: Array | None, num_classes: int, features: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """Weight (K, d) and bias (K,), checked."""
    if weight is None:
        if bias is not None:
            raise ValueError("bias is given without weight: pass the classifier's weight too")
        return None, None
    w = as_parameter("weight", weight, (num_classes, features.shape[1]), features)
    return w, None if bias is None else as_parameter("bias", bias, (num_classes,), features)


def require_finite(
    name: str, tensor: Tensor, remedy: str = "drop these samples, or look for the layer where the network diverged"
) -> None:
    """Say how many values are not finite, and where the first is."""
    bad = ~torch.isfinite(tensor)
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise ValueError(f"{name} has {int(bad.sum())} non-finite values, the first at index {first}: {remedy}")


def as_labels(value: Any, features: Tensor, num_classes: int | None) -> Tensor:
    """int64 labels (N,) in [0, K), on the device of the features."""
    tensor = as_tensor("labels", value, "integers")
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {tensor.dtype}: call labels.long()")
    if tuple(tensor.shape) != (len(features),):
        raise ValueError(
            f"labels must have shape ({len(features)},), one per row of features, got {tuple(tensor.shape)}"
            + (": take argmax(1) of one-hot labels, flatten() a column" if tensor.ndim == 2 else "")
        )
    tensor = on_device_of(features, "labels", tensor.long(), value)
    low, high = (int(end) for end in tensor.aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        upper = "K" if num_classes is None else num_classes
        raise ValueError(
            f"labels must lie in [0, {upper}), got values from {low} to {high}: drop ignored samples, count from 0"
        )
    if num_classes is None and high >= max(MANY_CLASSES, 10 * len(features)):
        raise ValueError(f"labels go up to {high} for {len(features)} samples: if that is right, pass num_classes")
    if high >= MOST_CLASSES:
        raise ValueError(f"labels go up to {high}: at most {MOST_CLASSES:,} classes, numbered from 0")
    return tensor


def on_device_of(features: Tensor, name: str, tensor: Tensor, value: Any) -> Tensor:
    """A NumPy array has no device and follows the features; a tensor on another device is a mistake."""
    if isinstance(value, np.ndarray):
        return tensor.to(features.device)
    if tensor.device != features.device:
        raise ValueError(f"{name} is on {tensor.device}, features on {features.device}: move one of them")
    return tensor
