"""The one door to torchvision: imported late, and also where its compiled operators do not load.

torchvision's wheels are built for the CUDA build of torch. Beside a CPU-only torch their compiled library
cannot load, and ``import torchvision`` stops at "operator torchvision::nms does not exist", although data
sets and classification networks need none of these operators.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from types import ModuleType

import torch

from ncpipe.errors import UserError

_UNLOADED_OPERATOR = "operator torchvision::"
# The operators for which torchvision registers shapes even when its compiled library is missing.
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # a schema lives as long as its library object


def import_torchvision() -> ModuleType:
    """Import torchvision; raise ``UserError`` if it is missing or does not fit the installed torch.

    An install whose operators load is imported as it is. Only after the import has failed for want of an
    operator are the operators' schemas (not the operators) declared, and the import repeated; calling such
    an operator is still torchvision's own error.
    """
    try:
        try:
            return importlib.import_module("torchvision")
        except RuntimeError as error:
            if not str(error).startswith(_UNLOADED_OPERATOR):
                raise
        _declare_schemas()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Failed to load image Python extension")
            return importlib.import_module("torchvision")
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"cannot import torchvision: {reason}; install the release that matches torch {torch.__version__}"
        ) from error


def _declare_schemas() -> None:
    """Declare the missing operators and forget the half-done import, whose modules have seen none."""
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
