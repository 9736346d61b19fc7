"""A user's own network by the name of its class in a file or an installed module. This runs the user's code."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from ncpipe.settings.base import nearest
from ncpipe.system.errors import UserError


def build(target: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network that a class, or a function, makes of the arguments.

    Args:
        target: ``mynet.py:MyNet`` of a file, ``my.package:MyNet`` of an installed module.
        arguments: by keyword.

    Raises:
        UserError: there is no such thing, it fails, or what it makes is no ``nn.Module``.
    """
    place, _, name = target.rpartition(":")
    if not place:
        raise UserError(
            f"{target}: name a file and a class, as mynet.py:MyNet, or an installed module, my.package:MyNet"
        )
    with _told_of(target):
        module = _of_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    if not callable(made := getattr(module, name, None)):
        known = [n for n, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise UserError(f"{place} has no class {name!r}; {nearest(name, known, 'its networks')}")
    with _told_of(target):
        network = made(**arguments)
    if not isinstance(network, nn.Module):
        raise UserError(f"{target} makes a {type(network).__name__}, no torch.nn.Module")
    return network


def _of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise UserError(f"no file {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.resolve().parent))  # what stands beside it
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.pop(0)
    return module


@contextmanager
def _told_of(target: str) -> Iterator[None]:
    """Tell whatever the user's code raises in one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{target}: {type(error).__name__}: {' '.join(str(error).split())}") from error
