"""What a metric is: its names and what they mean, what it needs, and how it is computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ncpipe.collapse.layer import NEEDS, Layer
from ncpipe.collapse.measurement import Measurement


@dataclass(frozen=True)
class Quantity:
    """The meaning of one number, as docs/metrics.md and the figures have it."""

    definition: str
    """Its formula, in the notation of docs/metrics.md."""
    label: str
    """The few words or symbols that fit over a panel, LaTeX between dollars."""
    at_etf: str = "–"
    """Value where features have collapsed to a simplex ETF, by K; D is the distance of ETF and OF."""
    at_of: str = ""
    """Value at an orthogonal frame; empty: the same."""
    range: str = ""
    source: str = ""


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric, or several that are computed together."""

    quantities: Mapping[str, Quantity]
    """By name, in the order of the tables."""
    compute: Callable[[Layer], Mapping[str, float] | float] | None = None
    """Their values, by name where they are several; None where it takes more than a ``Layer``: then the names are
    those of scalars that another part of ncpipe writes."""
    needs: tuple[str, ...] = ()
    """Keys of ``NEEDS``, the first whose reason counts first."""
    otherwise: str | Callable[[Layer], str] = "it is undefined for these class means"
    """Why a value is NaN where all needs are met."""

    def __post_init__(self) -> None:
        if unknown := {*self.needs} - {*NEEDS}:
            names = ", ".join(self.quantities)
            raise ValueError(f"needs of {names}: got {sorted(unknown)}; known are {', '.join(NEEDS)}")

    def fill(self, row: Measurement, layer: Layer) -> None:
        """Add the values of a layer to its row: NaN where a need is not met, nothing where it was not given."""
        if self.compute is None or not all(map(layer.gives, self.needs)):
            return
        reason = next((why for need in self.needs if (why := layer.lacks(need))), None)
        values = math.nan if reason else self.compute(layer)
        if not isinstance(values, Mapping):
            values = dict.fromkeys(self.quantities, float(values))
        assert values.keys() == self.quantities.keys(), values.keys() ^ self.quantities.keys()
        if reason is None and any(map(math.isnan, values.values())):
            reason = self.otherwise if isinstance(self.otherwise, str) else self.otherwise(layer)
        row.fill(values, reason or "")
