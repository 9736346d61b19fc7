"""The fit stage: batches of declared UFM problems, from settings to records."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncpipe.stages.central_path import follow_path
from ncpipe.stages.fit_records import FitRecord, optimum_columns, problem_columns, write_fits
from ncpipe.study.runs import UfmBatch
from ncpipe.system.errors import UserError
from ncpipe.system.progress import progress
from ncpipe.ufm import NoClosedForm, Problem, Result, fit
from ncpipe.ufm.settings import UfmSpec
from ncpipe.ufm.solvers import central_path


def fit_batch(batch: UfmBatch, folder: Path) -> None:
    """Solve the problems of a batch together and write their records to ``folder``."""
    start = time.time()
    solver = next(iter(batch.problems.values())).solver
    options = solver.model_dump(exclude={"name"})
    print(f"{len(batch.problems)} problems of {batch.id}: {solver.name} {options}", flush=True)
    fits = follow_paths(batch) if isinstance(solver, central_path.Solver) else solve(batch, solver.name, options)
    for run_id, fitted in fits.items():
        print(f"{run_id} {fitted.row['status']}: {fitted.row['message']}", flush=True)
    write_fits(folder, fits, start)


def follow_paths(batch: UfmBatch) -> dict[str, FitRecord]:
    """Simulate the central path of every problem of a batch."""
    records = {}
    with progress(f"fit {batch.id}", len(batch.problems)) as update:
        for done, (run_id, spec) in enumerate(batch.problems.items(), start=1):
            records[run_id] = follow_path(run_id, spec)
            update(done, "")
    return records


def solve(batch: UfmBatch, solver: str, options: Mapping[str, Any]) -> dict[str, FitRecord]:
    """Fit the problems of a batch together; a problem that the solver is not for is a ``UserError``."""
    specs = batch.problems
    problems = [Problem(**spec.declared()) for spec in specs.values()]
    seeds = [spec.seed for spec in specs.values()]
    try:
        with progress(f"fit {batch.id}", len(problems)) as update:
            fitted = fit(problems, solver, seed=seeds, report=lambda done, _: update(done, ""), **options)
    except (ValueError, NoClosedForm) as reason:
        needs = "solver 'construction': no closed form: " if isinstance(reason, NoClosedForm) else ""
        raise UserError(f"{batch.id}: {needs}{reason}") from None
    return {
        run_id: FitRecord(
            declared_row(run_id, specs[run_id], result),
            result.trace(),
            result.features,
            result.weights,
            result.bias,
            history_rows(result),
        )
        for run_id, result in zip(specs, fitted)
    }


def declared_row(run_id: str, spec: UfmSpec, result: Result) -> dict[str, Any]:
    """Row of the ``ufm`` table of a declared problem."""
    return {
        **problem_columns(result.problem),
        **optimum_columns(result.problem),
        "run_id": run_id,
        "kind": "declared",
        "solver": spec.solver.name,
        "seed": spec.seed,
        "status": result.status,
        "message": result.message,
        "value": result.value,
        "gap": result.gap,
        "missed": result.missed,
        "gradient_norm": result.gradient_norm,
        "iterations": result.iterations,
        "starts": result.starts,
        "success_fraction": result.success_fraction,
        "dead_directions": result.dead_directions,
    }


def history_rows(result: Result) -> list[dict[str, float]]:
    """Objective, gap to the closed form where there is one, gradient norm and what else the solver tells, by
    iteration."""
    history, optimum = result.history, result.optimum
    rows = []
    for iteration, value, norm, more in zip(
        history.iterations, history.value, history.gradient_norm, history.more, strict=True
    ):
        row = {"time": iteration, "objective": value, "gradient_norm": norm, **more}
        rows.append(row if optimum is None else {**row, "gap": value - optimum.value})
    return rows
