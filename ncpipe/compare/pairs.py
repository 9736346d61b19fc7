"""Two numbers side by side, and two settings."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True)
class Pair:
    """A quantity of A and of B; None where it is not there or undefined."""

    quantity: str
    split: str
    """train | test; empty where the quantity has none."""
    a: float | None
    b: float | None
    difference: float | None
    """b - a, of finite values."""
    ratio: float | None
    """b / a, of finite values, a not 0."""
    log10_ratio: float | None
    """Of positive values."""

    @classmethod
    def of(cls, quantity: str, a: Any, b: Any, split: str = "") -> Pair:
        x, y = defined(a), defined(b)
        if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
            return cls(quantity, split, x, y, None, None, None)
        # of the logarithms: the ratio of 1e200 and 1e-200 is no float
        decades = math.log10(y) - math.log10(x) if x > 0 and y > 0 else None
        ratio = y / x if x else None
        return cls(quantity, split, x, y, y - x, defined(ratio), 0.0 if x == y and x > 0 else decades)

    @property
    def equal(self) -> bool:
        return self.a == self.b


@dataclass(frozen=True)
class Setting:
    """A setting, or a fact in words, of A and of B; None where one has none."""

    name: str
    a: Any
    b: Any


def defined(value: Any) -> float | None:
    """A number; None for null and NaN."""
    return float(value) if isinstance(value, Real) and not math.isnan(value) else None


def differing(a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Setting]:
    """The entries that differ, in the order of A, then of B; absent counts as null."""
    for name in dict.fromkeys([*a, *b]):
        if _written(a.get(name)) != _written(b.get(name)):
            yield Setting(name, a.get(name), b.get(name))


def _written(value: Any) -> str:
    # 1 and 1.0 are one setting, true and 1 are not
    return json.dumps(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)
