"""The records of fitted and matched models: rows, files and columns of a problem."""

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
from ncpipe.ufm import NoClosedForm, Problem
from ncpipe.ufm.model import Model


@dataclass(frozen=True)
class FitRecord:
    """One fitted model."""

    row: dict[str, Any]
    """Its row of the ``ufm`` table."""
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


def problem_columns(problem: Model) -> dict[str, Any]:
    """Columns of the ``ufm`` table that the problem decides; null where there is no such setting."""
    spherical = problem.temperature is not None
    return {
        "model": {1: "plain", 2: "extended"}.get(problem.depth, "deep"),
        "activation": problem.activation,
        "classifier": problem.classifier,
        "nonnegative": problem.nonnegative,
        "loss": problem.loss,
        "smoothing": problem.smoothing or None,
        "gamma": problem.gamma or None,
        "rescale": None if problem.rescale == (1, 1) else list(problem.rescale),
        "temperature": problem.temperature,
        "bias": str(problem.bias),
        "classes": problem.classes,
        "samples": round(problem.num_samples / problem.classes),
        "dim": problem.widths[0],
        "dims": None if isinstance(problem.dim, int) else list(problem.widths),
        "weight_decay": None if spherical else list(problem.weight_decays),
        "feature_decay": problem.feature_decay,
    }


def optimum_columns(problem: Problem) -> dict[str, Any]:
    """Columns of the ``ufm`` table that the closed form decides; where there is none, the reason in ``basis``."""
    try:
        optimum = problem.optimum()
    except NoClosedForm as reason:
        return {"basis": f"no closed form: {reason}"}
    return {
        "optimum": optimum.value,
        "optimum_is_zero": optimum.is_zero,
        "scale": optimum.scale,
        "rank": optimum.rank,
        "is_global": optimum.is_global,
        "zero_threshold": optimum.zero_threshold,
        "basis": optimum.basis,
    }
