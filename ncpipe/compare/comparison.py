"""A comparison is one long table: a row for every quantity of A and of B, whatever it is of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ncpipe.compare.agreement import Agreement

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Two runs or two studies side by side. Times are epochs of networks, iterations of UFMs."""

    kind: str
    """runs | studies."""
    a: Row
    """study, its results folder; of a run also run_id, label, kind and status."""
    b: Row
    rows: list[Row]
    """table, quantity, a, b, equal; of numbers also difference, ratio and log10_ratio. Tables:
    of runs ``settings``, ``computed`` (device and precision), ``course`` (size and time), ``last`` (metrics of the
    last features at the last time, with their split), ``history`` (last values) and ``ufm``;
    of studies ``provenance``, ``labels`` (medians over seeds of labels whose runs are not the same; apart: whether
    the ranges over seeds do not overlap, None where each side has one seed) and ``claims`` (the effect)."""
    agreement: Agreement | None = None
    """All values of the common runs; of two runs where they have one id: a rerun."""
    curves: list[Row] = field(default_factory=list)
    """quantity, and points (time, value) of A and of B without undefined values."""
    runs: dict[str, list[str]] = field(default_factory=dict)
    """Ids of the runs of studies: only_a, only_b, common, and without_results on both sides."""

    def of(self, *tables: str) -> list[Row]:
        """Rows of these tables."""
        return [row for row in self.rows if row["table"] in tables]


def facts(table: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Row]:
    """Rows of settings or words, in the order of A, then of B; absent counts as null."""
    for name in dict.fromkeys([*a, *b]):
        x, y = a.get(name), b.get(name)
        yield {"table": table, "quantity": name, "a": x, "b": y, "equal": _written(x) == _written(y)}


def numbers(table: str, a: Mapping[str, Any], b: Mapping[str, Any], **place: Any) -> Iterator[Row]:
    """Rows of the quantities that A or B has, in the order of A, then of B."""
    for name in dict.fromkeys([*a, *b]):
        values = pair(a.get(name), b.get(name))
        if (values["a"], values["b"]) != (None, None):
            yield {"table": table, "quantity": name, **place, **values}


def pair(a: Any, b: Any) -> Row:
    """Two numbers, None for undefined ones; b - a and b / a of finite values, log10(b / a) of positive ones."""
    x, y = defined(a), defined(b)
    row: Row = {"a": x, "b": y, "equal": x == y, "difference": None, "ratio": None, "log10_ratio": None}
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return row
    row |= {"difference": y - x, "ratio": defined(y / x) if x else None}
    if x > 0 and y > 0:  # of the logarithms: the ratio of 1e200 and 1e-200 is no float
        row["log10_ratio"] = 0.0 if x == y else math.log10(y) - math.log10(x)
    return row


def defined(value: Any) -> float | None:
    """A number; None for null and NaN."""
    return float(value) if isinstance(value, Real) and not math.isnan(value) else None


def _written(value: Any) -> str:
    # 1 and 1.0 are one setting, true and 1 are not
    return json.dumps(float(value) if isinstance(value, int) and not isinstance(value, bool) else value)
