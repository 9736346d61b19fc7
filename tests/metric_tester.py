"""What torchmetrics' own tests ask of a metric, after its ``MetricTester``, which its packages do not hold."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import run_ranks
from torch import Tensor

Values = dict[str, Tensor]


def check_class(
    make: Callable[..., Any],
    preds: Tensor,
    target: Tensor,
    reference: Callable[[Tensor, Tensor], Values],
    *,
    on_step: bool = False,
    rank: int = 0,
    world_size: int = 1,
    atol: float = 1e-9,
) -> None:
    """``forward`` of every batch, of all ranks' together ``on_step``, and ``compute`` of all agree with a reference;
    and the metric is constant where it must be, can be scripted, cloned, pickled, hashed, and saves nothing."""
    metric = make(dist_sync_on_step=on_step)
    for constant in ("is_differentiable", "higher_is_better"):
        with pytest.raises(RuntimeError):
            setattr(metric, constant, not getattr(metric, constant))
    torch.jit.script(metric)
    clone = metric.clone()
    assert clone is not metric
    assert type(clone) is type(metric)
    metric = pickle.loads(pickle.dumps(metric))
    fresh = deepcopy(metric)

    for first in range(0, len(preds), world_size):
        own = first + rank
        found = metric(preds[own], target[own])
        if first == 0 and world_size == 1:
            fresh.update(preds[own], target[own])
            assert_close(found, fresh.compute(), atol)
        together = slice(first, first + world_size) if on_step else slice(own, own + 1)
        assert_close(found, reference(preds[together].flatten(0, 1), target[together].flatten()), atol)
    assert hash(metric)
    assert metric.state_dict() == {}
    assert_close(metric.compute(), reference(preds.flatten(0, 1), target.flatten()), atol)


def assert_close(found: Values, expected: Values, atol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert isinstance(value, Tensor)
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=atol, equal_nan=True)


def check_ranks(folder: Path, world_size: int, **arguments: Any) -> None:
    """``check_class`` in processes that share the batches."""
    where = f"file://{folder}/meeting"
    run_ranks(_rank, (world_size, where, arguments), world_size)


def _rank(rank: int, world_size: int, where: str, arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=world_size)
    check_class(rank=rank, world_size=world_size, **arguments)
    torch.distributed.destroy_process_group()


def check_precision(metric: Any, preds: Tensor, target: Tensor, dtype: torch.dtype) -> None:
    """A batch of another floating-point type has a value."""
    assert isinstance(metric(preds[0].to(dtype), target[0]), Tensor)


def check_differentiability(metric: Any, preds: Tensor, target: Tensor) -> None:
    """What comes of features that want a gradient has one only where the metric says so."""
    assert metric(preds[0].clone().requires_grad_(), target[0]).requires_grad == metric.is_differentiable
