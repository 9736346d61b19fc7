"""The statistics of a run over time: the one form in which networks and UFMs reach everything downstream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from ncpipe.collapse.statistics import LayerStatistics
from ncpipe.system.files import read_tensors, write_tensors


@dataclass(frozen=True, order=True)
class Moment:
    """One measurement: an epoch or iteration, a layer, a split."""

    time: int
    layer: str
    split: str = "train"


@dataclass
class Trace:
    """Statistics of one run: of every measured layer and split at every measured time."""

    layers: tuple[str, ...]
    """Layer names from the first to the last, 'features'."""
    statistics: dict[Moment, LayerStatistics] = field(default_factory=dict, repr=False)
    heads: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)
    """Classifier weight (K, d) and bias (K,) by time; it reads the last layer."""
    weights: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)
    """By time and layer below the last, where one matrix (m, d) reads its features: that matrix."""
    scalars: dict[tuple[int, str], dict[str, float]] = field(default_factory=dict)
    """Values by time and split that take more than statistics: ``loss``, the mean loss without penalties; where the
    loss is squared, of the training split ``loss_penalised``, Han's split of it, ``loss_nc1``, ``loss_nc23`` and
    ``loss_perp``, and ``snr_min`` and ``snr_max``; and what a network adds, see docs/metrics.md."""
    reasons: dict[tuple[int, str], dict[str, str]] = field(default_factory=dict, repr=False)
    """By time and split: name of a scalar that is NaN -> why."""

    def depth(self, layer: str) -> int:
        """1 for the first layer."""
        return self.layers.index(layer) + 1

    @property
    def times(self) -> list[int]:
        return sorted(self.heads)


def save_traces(path: Path, traces: Mapping[str, Trace], metadata: Mapping[str, str] | None = None) -> None:
    """Write the traces of several runs, by run id, to one safetensors file, which carries ``metadata`` too."""
    tensors: dict[str, Tensor] = {}
    index: dict[str, object] = {}
    for number, (run_id, trace) in enumerate(traces.items()):
        scalars = [[time, split, values] for (time, split), values in trace.scalars.items()]
        reasons = [[time, split, why] for (time, split), why in trace.reasons.items() if why]
        index[run_id] = {"number": number, "layers": trace.layers, "scalars": scalars, "reasons": reasons}
        for moment, statistics in trace.statistics.items():
            for name, value in statistics.tensors().items():
                tensors[f"{number}/{moment.time}/{moment.layer}/{moment.split}/{name}"] = value
        for time, (weight, bias) in trace.heads.items():
            tensors[f"{number}/{time}/weight"] = weight
            if bias is not None:
                tensors[f"{number}/{time}/bias"] = bias
        for (time, layer), weight in trace.weights.items():
            tensors[f"{number}/{time}/{layer}/weight"] = weight
    write_tensors(path, tensors, {"index": json.dumps(index), **(metadata or {})})


def load_traces(path: Path) -> dict[str, Trace]:
    """Read what ``save_traces`` wrote."""
    tensors, metadata = read_tensors(path)
    index = json.loads(metadata["index"])
    by_number: dict[str, Trace] = {}
    for entry in index.values():
        scalars = {(time, split): values for time, split, values in entry["scalars"]}
        reasons = {(time, split): why for time, split, why in entry.get("reasons", [])}
        by_number[str(entry["number"])] = Trace(tuple(entry["layers"]), scalars=scalars, reasons=reasons)
    parts: dict[tuple[str, Moment], dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, time, *rest = key.split("/")
        if rest == ["weight"]:
            by_number[number].heads[int(time)] = (value, tensors.get(f"{number}/{time}/bias"))
        elif len(rest) == 2:
            by_number[number].weights[int(time), rest[0]] = value
        elif len(rest) == 3:
            layer, split, name = rest
            parts.setdefault((number, Moment(int(time), layer, split)), {})[name] = value
    for (number, moment), fields in sorted(parts.items()):
        by_number[number].statistics[moment] = LayerStatistics(**fields)
    return {run_id: by_number[str(entry["number"])] for run_id, entry in index.items()}
