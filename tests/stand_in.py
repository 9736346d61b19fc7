"""A stand-in accelerator: a device of its own, ``stand_in``, that computes on the CPU, refuses to mix devices and
counts how often the host waits for it.

Its tensors wrap tensors of the CPU, and a mode of torch's dispatch sees every operation, as a GPU's backend would.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
NAME = "stand_in"
_setup_privateuseone_for_python_backend(NAME)
torch.get_device_module(NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
WAITS = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.bincount.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
}
"""Operations whose result, or its shape, the host has to wait for."""
NO_GRAD = {"__enter__": torch.no_grad.__enter__, "__exit__": torch.no_grad.__exit__}
"""Of inference mode, which forbids views of wrapped tensors: they have a version."""
INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}


@dataclass
class Waits:
    """How often the host waited."""

    count: int = 0


_waits = Waits()


class OnDevice(torch.Tensor):
    """A tensor of the device."""

    raw: torch.Tensor

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> OnDevice:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )

    def __init__(self, raw: torch.Tensor) -> None:
        self.raw = raw

    def __repr__(self) -> str:
        return f"{NAME}({self.raw})"

    def tolist(self) -> Any:
        _waits.count += 1
        return self.raw.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError(f"can't convert a {NAME} tensor to numpy; copy it to the host first")

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


class _Factories(TorchFunctionMode):
    """Factories that torch's dispatch does not see: they make the tensor on the CPU and copy it."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and _is_device(kwargs.get("device")):
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is torch.Tensor.new_tensor and isinstance(args[0], OnDevice):
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype} | kwargs).to(args[0].device)
        return func(*args, **kwargs)


@contextmanager
def stand_in() -> Iterator[Waits]:
    """The device is there; yields how often the host waited for it."""
    swaps = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    _waits.count = 0
    try:
        with _Factories(), _Mode(), patch.multiple(torch.inference_mode, **NO_GRAD):
            yield _waits
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swaps)


def _is_device(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    kwargs = dict(kwargs)
    flat, _ = tree_flatten((args, kwargs))
    here = [value for value in flat if isinstance(value, OnDevice)]
    if func is aten._to_copy.default:
        return _copied(args[0], kwargs)
    if func is aten.copy_.default:
        target, source = args[0], args[1]
        _waits.count += isinstance(source, OnDevice) and not isinstance(target, OnDevice)
        func(_raw(target), _raw(source), *args[2:])
        return target
    asked = _is_device(kwargs.get("device"))
    elsewhere = [v for v in flat if isinstance(v, torch.Tensor) and not isinstance(v, OnDevice) and v.dim() > 0]
    if here and elsewhere and func not in INDEXING:
        raise RuntimeError(f"{func}: tensors on {NAME} and on {elsewhere[0].device} {tuple(elsewhere[0].shape)}")
    if here:
        masks = func in INDEXING and any(
            v.dtype in (torch.bool, torch.uint8) for v in tree_flatten(args[1])[0] if v is not None
        )
        _waits.count += func in WAITS or masks
    if asked:
        kwargs["device"] = "cpu"
    results = func(*tree_map(_raw, args), **tree_map(_raw, kwargs))
    if not here and not asked:
        return results
    known = {id(value.raw): value for value in here}  # what was changed in place
    return tree_map(lambda value: _wrapped(value, known), results)


def _copied(source: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    device = kwargs.pop("device", None)
    stays = isinstance(source, OnDevice) if device is None else _is_device(device)
    _waits.count += isinstance(source, OnDevice) and not stays
    copied = aten._to_copy.default(_raw(source), device="cpu", **kwargs)
    return OnDevice(copied) if stays else copied


def _raw(value: Any) -> Any:
    return value.raw if isinstance(value, OnDevice) else value


def _wrapped(value: Any, known: dict[int, OnDevice]) -> Any:
    if not isinstance(value, torch.Tensor) or isinstance(value, OnDevice):
        return value
    return known[id(value)] if id(value) in known else OnDevice(value)
