"""What all settings have in common."""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Collection, Iterable
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

PATH_BYTES, NAME_BYTES = 2000, 200
"""Bytes of a path, of a name in it; file systems allow some 4,096 and 255, and ours stand below and beside it."""


def check_path(value: str) -> str:
    """The path of a file or folder as a user gives it; raises ``ValueError`` where it cannot be one."""
    too_long = len(value.encode()) > PATH_BYTES or any(len(part.encode()) > NAME_BYTES for part in value.split("/"))
    if not value.strip() or too_long:
        raise ValueError(f"must be a path of at most {PATH_BYTES} bytes, {NAME_BYTES} a name")
    try:
        Path(value).expanduser()
    except RuntimeError:
        raise ValueError("starts with '~' and a user whom this machine does not know; write the whole path") from None
    return value


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, le=10**9)]
"""Beyond a thousand million nothing here can be computed, and products of two counts still have 64 bits."""
PathText = Annotated[str, AfterValidator(check_path)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]

AS_YAML_READS = "; YAML reads yes, no, on and off so, too: write a number, or the word in quotes"


def nearest(name: object, known: Collection[str], what: str = "known", otherwise: str = "") -> str:
    """The rest of a message on an unknown name: the one that was meant, or ``otherwise``, or all."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else otherwise or f"{what}: {', '.join(known)}"


class Settings(BaseModel):
    """Base of all settings: immutable; an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        known = {field.alias or name: name for name, field in cls.model_fields.items()}
        for key, value in values.items():
            if key not in known:
                raise ValueError(f"unknown key {key!r}; {nearest(key, known, 'known keys')}")
            given = value if isinstance(value, list | tuple) else [value]
            if any(isinstance(each, bool) for each in given) and not _takes_truth(cls, known[key]):
                raise ValueError(f"{key!r} cannot be true or false{AS_YAML_READS}")
        return values


@cache
def _takes_truth(settings: type[Settings], name: str) -> bool:
    """Whether a setting may be true; where it is to be a number, pydantic takes true for 1."""
    left = [settings.model_fields[name].annotation]
    while left:
        kind = left.pop()
        if kind in (bool, Any) or isinstance(kind, bool):
            return True
        left.extend(get_args(kind))
    return False


def matches_any(layer: str, patterns: Iterable[str]) -> bool:
    """Whether a layer's name matches one of the names or globs."""
    return any(fnmatch.fnmatchcase(layer, pattern) for pattern in patterns)


def log_spaced(points: int, last: int) -> tuple[int, ...]:
    """0, ``last`` and integers log-spaced from 1 on between, at most ``points`` in all, but the two ends always."""
    steps = points - 2
    return tuple(sorted({0, last, *(round(math.exp(math.log(last) * i / steps)) for i in range(steps))}))
