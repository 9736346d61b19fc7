"""Checks of the arrays that users pass: a wrong one is a ``ValueError`` that names it and what it needs."""

from __future__ import annotations

import operator
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = Tensor | np.ndarray
MOST_CLASSES = 300_000
"""As many as the largest vocabularies: pairs of so many take hours, and a larger label is hardly a class."""
MOST_IN_PAIRS = 30_000
"""Classes of which tables of pairs are held, each of 7 GB for this many."""
NO_VALUES = "a meta tensor has no values, compute it on a device"
REPLACED = "; a parameter that to_empty() has replaced is passed as a function that returns it"
DIVERGED = "drop these samples, or look for the layer where the network diverged"
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
        raise ValueError(f"num_classes must be at most {MOST_CLASSES:,}, got {count}: pairs of all are measured")
    return count


def as_tensor(name: str, value: Any, kind: str = "floating point", remedy: str = "") -> Tensor:
    """A NumPy array or Torch tensor as a tensor; ``remedy``: for words and whatever else torch has no type for."""
    remedy = remedy or f"{name}.astype(np.float64)"
    if not isinstance(value, Tensor | np.ndarray) or isinstance(value, np.ma.MaskedArray):
        needs = f"{name} must be a NumPy array or a Torch tensor"
        raise ValueError(f"{needs}, got {type(value).__name__}: {_into_array(name, value, remedy)}")
    if isinstance(value, np.ndarray):
        value = value.astype(value.dtype.newbyteorder("="), copy=False)  # torch knows the native byte order only
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # nothing writes to it
            try:
                return torch.as_tensor(np.ascontiguousarray(value))  # torch takes no negative strides
            except (TypeError, ValueError):
                raise ValueError(f"{name} must be {kind}, got {value.dtype}: {remedy}") from None
    if value.layout != torch.strided:
        raise ValueError(f"{name} must be a dense tensor, got {value.layout}: call to_dense()")
    # Apple's GPUs have no float64
    return value.detach().cpu() if value.device.type == "mps" else value.detach()


def _into_array(name: str, value: Any, remedy: str) -> str:
    """What makes an array of what is none."""
    if isinstance(value, torch.nn.Module):
        return "pass its weight"
    if isinstance(value, np.ma.MaskedArray):
        return "drop the samples that are masked, and pass its data"
    try:
        words = np.asarray(value).dtype.kind not in "biufc"
    except ValueError:  # rows of unequal length
        return "pass numbers of one shape"
    if words and name == "labels":
        return remedy
    return f"{name}.to_numpy()" if hasattr(value, "to_numpy") else f"np.asarray({name})"


def _floating(name: str, value: Array) -> Tensor:
    tensor = as_tensor(name, value)
    if not tensor.is_floating_point():
        remedy = f"{name}.double()" if isinstance(value, Tensor) else f"{name}.astype(np.float64)"
        if tensor.is_quantized:
            remedy = f"{name}.dequantize()"
        elif tensor.is_complex():
            remedy = f"pass {name}.real, or its absolute value"
        raise ValueError(f"{name} must be floating point, got {value.dtype}: {remedy}")
    return tensor


def as_features(name: str, value: Any) -> Tensor:
    """A floating-point matrix (N, d); finiteness is left to ``require_finite``, where sums tell for free."""
    tensor = _floating(name, value)
    if tensor.ndim != 2 or 0 in tensor.shape:
        flat = f"{name}.flatten(1)" if isinstance(value, Tensor) else f"{name}.reshape(len({name}), -1)"
        remedy = f"flatten maps, {flat}, or pool them" if tensor.ndim > 2 else f"one feature is {name}[:, None]"
        remedy = "it holds nothing" if 0 in tensor.shape else remedy
        raise ValueError(f"{name} must have shape (N, d), non-empty, got {tuple(tensor.shape)}: {remedy}")
    return tensor


def as_parameter(name: str, value: Any, shape: tuple[int, ...], features: Tensor) -> Tensor:
    """A finite floating-point tensor of a known shape, on the device of the features."""
    tensor = on_device_of(features, name, of_shape(name, value, shape), value)
    require_finite(name, tensor, "the network has diverged, or a class has no mean")
    return tensor


def of_shape(name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
    """A floating-point tensor of a known shape."""
    tensor = _floating(name, value)
    found = tuple(tensor.shape)
    if found != shape:
        turned = f": pass {name}.T" if found == shape[::-1] else ""
        column = f": {name}.flatten()" if len(shape) == 1 and found in ((*shape, 1), (1, *shape)) else ""
        raise ValueError(f"{name} must have shape {shape}, got {found}{turned or column}")
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


def require_finite(name: str, tensor: Tensor, remedy: str = DIVERGED) -> None:
    """Say how many values are not finite, and where the first is."""
    bad = ~torch.isfinite(tensor)
    if bad.any():
        first = bad.nonzero()[0].tolist()
        raise ValueError(f"{name} has {int(bad.sum())} non-finite values, the first at index {first}: {remedy}")


def num_classes_of(num_classes: int | None, features: Tensor, *by_class: tuple[str, Any]) -> tuple[int | None, str]:
    """K as it is given, else the rows of the first of the named arrays (K, d) that is there; and what tells it."""
    if num_classes is not None:
        return as_count(num_classes), "num_classes"
    for name, value in by_class:
        shape = tuple(getattr(value, "shape", ()))
        if len(shape) == 2 and shape[1] == features.shape[1]:
            return as_count(shape[0]), name
    return None, ""


def as_labels(
    value: Any, features: Tensor, num_classes: int | None, told_by: str = "num_classes", *, batch: bool = False
) -> Tensor:
    """int64 labels (N,) in [0, K), on the device of the features; ``batch``: others may have other classes, and the
    host does not wait for an accelerator to check the values."""
    numbered = number_classes(value) + ", of all samples before they are batched" * batch
    tensor = as_tensor("labels", value, "integers", numbered)
    if tuple(tensor.shape) != (len(features),):
        raise ValueError(
            f"labels must have shape ({len(features)},), one per row of features, got {tuple(tensor.shape)}"
            + (f": {_one_label_each(tensor)}" if tensor.ndim == 2 and len(tensor) == len(features) else "")
        )
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {value.dtype}: {_into_integers(value, tensor)}")
    tensor = on_device_of(features, "labels", tensor.long(), value)
    if batch and tensor.device.type != "cpu":
        return tensor
    low, high = (int(end) for end in tensor.aminmax())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise ValueError(_out_of_range(tensor, features.shape[1], num_classes, told_by, numbered))
    if num_classes is None and high >= max(MANY_CLASSES, 10 * len(features)):
        which = f"labels go up to {high} for {len(features)} samples"
        raise ValueError(f"{which}: if that is right, pass num_classes, else {numbered}")
    if high >= MOST_CLASSES:
        raise ValueError(f"labels go up to {high}: at most {MOST_CLASSES:,} classes, numbered from 0; {numbered}")
    return tensor


def number_classes(labels: Any) -> str:
    """What numbers the classes from 0, in the words of the array."""
    library = "torch" if isinstance(labels, Tensor) else "np"
    return f"number the classes, {library}.unique(labels, return_inverse=True)[1]"


def _one_label_each(tensor: Tensor) -> str:
    """What makes one label a sample of (N, m)."""
    if tensor.shape[1] == 1:
        return "labels.flatten()"
    if tensor.is_meta or (tensor != 0).sum(dim=1).max() <= 1 or tensor.is_floating_point():
        return "of one-hot labels take labels.argmax(1)"
    return "of samples with several labels take those with one, or see ncpipe.collapse.tagwise_metrics"


def _into_integers(value: Array, tensor: Tensor) -> str:
    whole = tensor.dtype == torch.bool or tensor.is_meta
    if tensor.is_floating_point() and not tensor.is_meta:
        if tensor.isnan().any():
            return "drop the samples without a label, NaN"
        whole = bool((tensor == tensor.round()).all())
    if whole:
        return "labels.long()" if isinstance(value, Tensor) else "labels.astype(int)"
    return "these are no numbers of classes; for targets of a regression see ncpipe.regression_collapse"


def _out_of_range(labels: Tensor, width: int, num_classes: int | None, told_by: str, numbered: str) -> str:
    """What is wrong with labels that are not in [0, K), and the likeliest remedy."""
    low, high = (int(end) for end in labels.aminmax())
    found = len(labels.unique())
    upper = "K" if num_classes is None else num_classes
    wrong = f"labels must lie in [0, {upper}), got values from {low} to {high}"
    if low < 0 and (low, high, found) != (-1, 1, 2):
        return f"{wrong}: drop the samples that are ignored, labels >= 0 keeps the others"
    if num_classes is None or (found <= num_classes and (low, high) != (1, num_classes)):
        by_row = told_by in ("weight", "train_means")
        return f"{wrong}: {numbered}" + f", in the order of the rows of {told_by}" * by_row
    if found <= num_classes:
        return f"{wrong}: if they count from 1, pass labels - 1"
    if told_by == "num_classes":
        return f"{wrong}: that are {found} classes, num_classes is too small"
    return f"{told_by} must have shape ({found}, {width}), got ({num_classes}, {width}): labels has {found} classes"


def on_device_of(features: Tensor, name: str, tensor: Tensor, value: Any) -> Tensor:
    """A NumPy array has no device and follows the features; a tensor on another device is a mistake."""
    where = f"{name} is on {tensor.device}, features on {features.device}"
    if tensor.is_meta or features.is_meta:
        replaced = name in ("weight", "bias", "train_means") and not features.is_meta
        raise ValueError(f"{where}: {NO_VALUES}{REPLACED * replaced}")
    if isinstance(value, np.ndarray):
        return tensor.to(features.device)
    if tensor.device != features.device:
        raise ValueError(f"{where}: {name}.to({str(features.device)!r}), or move the features")
    return tensor
