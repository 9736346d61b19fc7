"""What a solver is, and what several of them share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ncpipe.settings.base import Settings
from ncpipe.settings.registry import names_in_settings
from ncpipe.ufm.model import Model
from ncpipe.ufm.products import ALWAYS_ALONE

if TYPE_CHECKING:
    import torch

    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result

CHUNK = ALWAYS_ALONE
"""Parameters of the problems that one thread solves at once."""
GPU_CHUNK = 2**26

Points = Annotated[int, Field(ge=2, le=1000)]
"""Recorded times; the upper bound is that of a config."""


class BaseSolver(Settings):
    """Settings of a solver, and the solver: it fits problems of one layout, none of which depends on the others.

    A solver of several starts has them as ``starts``, one that may take a feature vector per class has ``tied``, and
    one of steps has ``steps`` of ``step_size``.
    """

    short: ClassVar[str] = ""
    """Its name in ids; empty: the name."""
    label: ClassVar[str] = ""
    """Its name in labels; empty: the name."""
    fits_problems: ClassVar[bool] = True
    """Whether it is for ``ncpipe.ufm.fit``, whose problems have penalties."""

    name: str

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> BaseSolver:
        """The solver with options of Python code, whose numbers have no upper bounds where a config's have some.

        Raises:
            ValueError: an unknown option, or what an option got and needs.
        """
        (called,) = names_in_settings(cls)
        known = {option: field for option, field in cls.model_fields.items() if option != "name"}
        checked = {}
        for option, value in options.items():
            if option not in known:
                has = f"its options: {', '.join(known)}" if known else "it has none"
                raise ValueError(f"solver {called!r} has no option {option!r}; {has}")
            checked[option] = _checked(option, known[option], value)
        return cls.model_construct(name=called, **checked)

    @property
    def iterations(self) -> int:
        """How many at most, or the time that they stand for."""
        return int(getattr(self, "steps", 0))

    @property
    def one_a_class(self) -> bool:
        """Whether it has one feature vector per class (set of tags) in place of one per sample."""
        return bool(getattr(self, "tied", False))

    @property
    def rate(self) -> float | None:
        """Step size, where there is one."""
        size: float | None = getattr(self, "step_size", None)
        return size

    def seconds(self, problems: int, depth: int, work: float) -> float:
        """Time of a batch, roughly, if a step of a problem of L weight layers takes ``work`` multiplications."""
        return problems * 0.1

    def mistakes(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        """Why the solver is not for a model; ``given``: the model's settings as declared, None where left out."""
        return iter(())

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]:
        """Fit problems that share a layout.

        Raises:
            ValueError: the solver is not for these.
        """
        raise NotImplementedError


def _checked(option: str, field: FieldInfo, value: Any) -> Any:
    """The value of an option, where it is one; bool, text and numbers are told apart."""
    bounds = [bound for bound in field.metadata if not isinstance(bound, Le)]
    kind: Any = Annotated[(field.annotation, *bounds)] if bounds else field.annotation
    plain = value.item() if isinstance(value, np.generic) else value
    try:
        return TypeAdapter(kind, config=ConfigDict(strict=True)).validate_python(plain)
    except ValidationError:
        raise ValueError(f"{option}: got {value!r}; needs {_needed(field)}") from None


def _needed(field: FieldInfo) -> str:
    """What a value of a field is, in words."""
    if field.annotation is bool:
        return "True or False"
    least = next((bound for bound in field.metadata if isinstance(bound, Ge | Gt)), None)
    below = next((bound.lt for bound in field.metadata if isinstance(bound, Lt)), None)
    if field.annotation is int and isinstance(least, Ge):
        return f"an integer, at least {least.ge}"
    if isinstance(least, Ge) and below is not None:
        return f"a number in [{least.ge}, {below})"
    return f"a finite number > {least.gt}" if isinstance(least, Gt) else f"a value of {field.annotation}"


def draw(size: int, seed: int, number: int) -> np.ndarray:
    """Standard normal parameters (P,), from the generator of (seed, number of the start)."""
    return np.random.default_rng([seed, number]).standard_normal(size)


def chunk(device: torch.device) -> int:
    """Parameters of the problems that are solved at once."""
    return CHUNK if device.type == "cpu" else GPU_CHUNK
