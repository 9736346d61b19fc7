"""What a measurement returns: values by metric name, with the reasons of what is undefined."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ncpipe.system.lazy import Tensor, torch

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

    def fill(self, values: Mapping[str, float], why_nan: str) -> None:
        """Add metrics, and why those are NaN that are."""
        self.update(values)
        self.undefined |= {name: why_nan for name, value in values.items() if math.isnan(value)}

    def spread(self, there: Array) -> None:
        """Breakdowns of the classes that are ``there``, (K,), to all K: without samples the others have NaN."""
        for values in (self.per_class, self.per_pair):
            for name, found in values.items():
                wide = np.zeros(there.shape * found.ndim, found.dtype)
                wide[...] = 0 if name == "samples" else math.nan
                wide[np.ix_(*[there] * found.ndim)] = found
                values[name] = wide

    def advise(self, reason: str | None, remedy: str) -> None:
        """Say what to do about a reason."""
        for name, why in self.undefined.items():
            if why == reason:
                self.undefined[name] = f"{why}: {remedy}"


class TensorMeasurement(Measurement):
    """A measurement whose values are 0-dim float64 tensors, as torchmetrics has them.

    Torch's functions act on it name by name, as ``BootStrapper`` of torchmetrics needs: ``torch.stack([row, row])``
    has the names of a row, and 1-dim values.
    """

    def __init__(self, values: Mapping[str, Any], device: torch.device | None = None) -> None:
        super().__init__(values)
        if isinstance(values, Measurement):
            numbers = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
            self.update(zip(values, numbers.unbind()))  # type: ignore[arg-type]
            vars(self).update(vars(values))

    def __getitem__(self, name: str) -> Tensor:  # type: ignore[override]
        return super().__getitem__(name)  # type: ignore[return-value]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> TensorMeasurement:
        def of(name: str, value: Any) -> Any:
            if isinstance(value, list | tuple):
                return [of(name, part) for part in value]
            return value[name] if isinstance(value, cls) else value

        parts = (part for value in args for part in (value if isinstance(value, list | tuple) else [value]))
        names = next(part for part in parts if isinstance(part, cls))
        return cls({name: function(*of(name, args), **(kwargs or {})) for name in names})

    def mean(self, *args: Any, **kwargs: Any) -> TensorMeasurement:
        return torch.mean(self, *args, **kwargs)  # type: ignore[call-overload]

    def std(self, *args: Any, **kwargs: Any) -> TensorMeasurement:
        return torch.std(self, *args, **kwargs)  # type: ignore[call-overload]
