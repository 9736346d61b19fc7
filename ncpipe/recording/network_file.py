"""A user's own network by the name of its class in a file or an installed module. This runs the user's code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ncpipe.settings.source import source_of
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
        raise UserError(f"{target}: name a file and a class, as mynet.py:MyNet, or a module, as my.package:MyNet")
    try:
        source = source_of(*((place, None) if place.endswith(".py") else (None, place)))
        source.require(name)
    except ValueError as error:
        raise UserError(str(error)) from None
    network = source.call(name, lambda made: made(**arguments))
    if not isinstance(network, nn.Module):
        raise UserError(f"{target} makes a {type(network).__name__}, no torch.nn.Module")
    return network
