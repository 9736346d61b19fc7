"""What a measurement returns: values by metric name, with the reasons of what is undefined."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Array = np.ndarray


class Measurement(dict[str, float]):
    """Metric name -> value, a dict; a metric that is undefined is NaN, and ``undefined`` says why."""

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        super().__init__(values or {})
        self.undefined: dict[str, str] = {}
        """Name of every metric that is NaN -> the reason."""
        self.singular_values: Array = np.empty(0)
        """Singular values of the centred class means above rounding, (r,), descending."""
        self.per_class: dict[str, Array] = {}
        """With ``per_class=True``: quantity -> its value for every class, (K,)."""
        self.per_pair: dict[str, Array] = {}
        """With ``per_class=True``: quantity -> its value for every pair of classes, (K, K)."""

    def fill(
        self, names: Sequence[str], reason: str | None, compute: Callable[[], Mapping[str, float]], otherwise: str
    ) -> None:
        """Add metrics: NaN for ``reason`` where there is one, else computed; ``otherwise`` is why these are NaN."""
        values = dict.fromkeys(names, math.nan) if reason else compute()
        assert set(values) == set(names), set(values) ^ set(names)
        self.update(values)
        self.undefined |= {name: reason or otherwise for name, value in values.items() if math.isnan(value)}
