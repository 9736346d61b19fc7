"""Losses of one sample, found by name: a file each, for networks and for unconstrained-features models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ncpipe.losses._base import SampleLoss, excess, one_hot, parameter, power, sigmoid, softplus
from ncpipe.losses._own import from_function, own_loss_mistakes
from ncpipe.settings.registry import Registry

__all__ = [
    "LOSSES",
    "SampleLoss",
    "excess",
    "from_function",
    "loss_mistakes",
    "loss_of",
    "multi_label",
    "one_hot",
    "own_loss_mistakes",
    "parameter",
    "power",
    "sigmoid",
    "softplus",
]

LOSSES: Registry[type[SampleLoss]] = Registry("ncpipe.losses", "Loss", lambda loss: loss.names)
"""By name: what a module here, or an entry point ``ncpipe.losses``, has as ``Loss``."""


def loss_of(name: str, settings: object) -> SampleLoss:
    """The loss of a name with those of its parameters that settings have as attributes."""
    kind = LOSSES[name]
    known = [field.name for field in fields(kind) if field.name != "name" and hasattr(settings, field.name)]
    return kind(name, **{field: getattr(settings, field) for field in known})


def multi_label() -> tuple[str, ...]:
    """Names of the losses of samples with several labels."""
    return tuple(name for name, loss in LOSSES.items() if loss.multi_label)


def loss_mistakes(name: str, given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the parameters of a loss: those of another, or one that is missing."""
    for loss in dict.fromkeys(LOSSES.values()):
        for field in fields(loss):
            if field.name not in given or field.name == "name":
                continue
            value, needs, fits = given[field.name], field.metadata["needs"], field.metadata["fits"]
            if fits(value) if name in loss.names else value == field.default:
                continue
            owner = repr(loss.names[0])
            usual = f"it is {needs} with {owner}, else {field.default:g}" if needs else f"it goes with {owner}"
            yield f"{field.name}: got {value!r} with loss {name!r}; {usual}"
