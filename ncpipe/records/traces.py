"""The file of traces: ``statistics.safetensors`` of a network or of a batch of UFMs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ncpipe.collapse.statistics import LayerStatistics
from ncpipe.collapse.trace import Moment, Trace
from ncpipe.system.files import read_tensors, write_tensors


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
