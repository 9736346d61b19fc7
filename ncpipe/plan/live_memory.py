"""The peak of memory that tensors take while something is computed, counted tensor by tensor."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter


def peak_of_live_tensors(compute: Callable[[], object], held: Iterable[Tensor] = ()) -> int:
    """Bytes of the tensors alive at once at most while ``compute`` runs, those ``held`` included.

    Counts what operators return, saved for the backward pass or not, each storage once; not what a kernel takes for
    itself. Costs are those of the computation.
    """
    with _LiveTensors() as live:
        for tensor in held:
            live.add(tensor)
        compute()
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Sees every result of an operator, in the backward pass too."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self.add(value)
        return result

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.known:
            return
        self.known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._gone, size)

    def _gone(self, size: int) -> None:
        self.now -= size
