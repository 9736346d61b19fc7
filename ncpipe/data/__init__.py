"""Data sets: found or downloaded, cut to balanced subsets, and written once in a form that loads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ncpipe.data.dataset import Dataset, Split, load
    from ncpipe.data.preparation import prepare
    from ncpipe.data.registry import nominal_shape

__all__ = ["Dataset", "Split", "load", "nominal_shape", "prepare"]


def __getattr__(name: str) -> Any:
    # Lazy, so that costs can be estimated by nominal_shape without loading torch.
    from importlib import import_module

    for module in ("registry", "dataset", "preparation"):
        if name in __all__ and hasattr(found := import_module(f"ncpipe.data.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module 'ncpipe.data' has no attribute {name!r}")
