"""Records of the UFM stage: what every fitted model leaves, and its files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ncpipe.collapse import Trace
from ncpipe.records.schemas import UFM
from ncpipe.records.traces import save_traces
from ncpipe.records.writing import write_history, write_rows, write_timings
from ncpipe.system.files import write_tensors
from ncpipe.system.provenance import in_json, origin


@dataclass(frozen=True)
class FitRecord:
    """One fitted model."""

    row: dict[str, Any]
    """Of the ``ufm`` table."""
    trace: Trace
    features: Tensor
    """H_1 that was reached, (N, d)."""
    weights: list[Tensor]
    """W_1 .. W_L."""
    bias: Tensor | None
    history: list[dict[str, float]]
    """Quantities by ``time``, at least one row."""

    def tensors(self) -> dict[str, Tensor]:
        named = {"features": self.features} | {f"weight{i}": w for i, w in enumerate(self.weights, start=1)}
        return named if self.bias is None else {**named, "bias": self.bias}


def write_fits(folder: Path, fits: Mapping[str, FitRecord], start: float) -> None:
    """Write the records of a batch, by run id; ``start`` is the wall clock at its start."""
    points = {f"{run_id}/{name}": t for run_id, fit in fits.items() for name, t in fit.tensors().items()}
    write_tensors(folder / "minimisers.safetensors", points)
    save_traces(folder / "statistics.safetensors", {run_id: fit.trace for run_id, fit in fits.items()})
    write_history(folder / "history.parquet", "ufm", {run_id: fit.history for run_id, fit in fits.items()})
    now = time.time()
    last = {run_id: int(fit.history[-1]["time"]) for run_id, fit in fits.items()}
    timing = {r: [{"time": t, "seconds": now - start, "finished_at": now}] for r, t in last.items()}
    write_timings(folder / "timings.parquet", "ufm", timing)
    write_rows(folder / "fits.parquet", UFM, [fit.row for fit in fits.values()], {"provenance": in_json(origin())})
