"""Libraries that are imported at their first use, by modules that settings are read from."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> Any:
        module = import_module(self.__name__)
        self.__dict__.update(vars(module))  # from here on as fast as the module itself
        return getattr(module, name)


def lazily(name: str) -> Any:
    """The module of a name, imported at its first use.

    Until then it is not in ``sys.modules``, where ``lazy_loader.load`` puts it and other libraries would wake it.
    """
    return _Lazy(name)


if TYPE_CHECKING:
    import torch as torch
    from torch import Tensor as Tensor
else:  # a study is read without torch
    torch, Tensor = lazily("torch"), Any
