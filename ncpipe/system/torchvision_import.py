"""Lets torchvision be imported where its compiled operators do not load.

torchvision's wheels are built for the CUDA build of torch. Beside a CPU-only torch their compiled library
cannot load, and ``import torchvision`` stops at "operator torchvision::nms does not exist", although data
sets and classification networks need none of these operators.

It imports nothing of ncpipe: ``python -m ncpipe.system.vision`` copies it to where Python finds it at every start.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # of typing, which would be imported at every start of Python
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from torch.library import Library

UNLOADED_OPERATOR = "operator torchvision::"
# The operators for which torchvision registers shapes even when its compiled library is missing.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
libraries: list[Library] = []  # a schema lives as long as its library object


class Finder:
    """Finds torchvision as the finders after it do, and has its import repeated where an operator was missing.

    An install whose operators load is imported as it is. Else the operators' schemas (not the operators) are
    declared; calling such an operator is still torchvision's own error.
    """

    mends = "torchvision"

    @classmethod
    def find_spec(
        cls, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != cls.mends:
            return None
        others = [finder for finder in sys.meta_path if finder is not cls]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: _execute(execute, module)  # type: ignore[method-assign]
        return spec


def install() -> None:
    """Put the finder before all others, unless it is there, of this module or of its copy."""
    if not any(getattr(finder, "mends", None) == Finder.mends for finder in sys.meta_path):
        sys.meta_path.insert(0, Finder)


def _execute(execute: Callable[[ModuleType], None], module: ModuleType) -> None:
    try:
        execute(module)
    except RuntimeError as error:
        if not str(error).startswith(UNLOADED_OPERATOR):
            raise
    else:
        return
    import warnings

    _declare_schemas()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Failed to load image Python extension")
        execute(module)


def _declare_schemas() -> None:
    """Declare the missing operators and forget the half-done import, whose modules have seen none."""
    import torch

    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    libraries.append(library)
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
