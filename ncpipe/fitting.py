"""The UFM stage: declared batches and models matched to networks, from settings to records."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ncpipe.collapse import Moment, Trace, load_traces, save_traces
from ncpipe.files import read_json, write_tensors
from ncpipe.study.spec import GradientDescent, MatchedKind, NetworkSpec, UfmSpec
from ncpipe.study.study import NetworkRun, UfmBatch
from ncpipe.tables.records import write_history, write_rows, write_timings
from ncpipe.tables.schemas import UFM
from ncpipe.ufm import MatchedUfm, Minimiser, NoClosedForm, Problem, Result, fit, match


def fit_batch(batch: UfmBatch, folder: Path) -> None:
    """Solve the problems of a batch together and write their records to ``folder``."""
    start = time.time()
    specs = batch.problems
    problems = [problem_of(spec) for spec in specs.values()]
    solver = next(iter(specs.values())).solver
    options = solver.model_dump(exclude={"name"})
    seeds = [spec.seed for spec in specs.values()]
    print(f"{len(problems)} problems of {batch.id}: {solver.name} {options}", flush=True)
    results = dict(zip(specs, fit(problems, solver=solver.name, seed=seeds, **options)))
    for run_id, result in results.items():
        print(f"{run_id} {result.status} objective {result.value:.10g} gap {result.gap}", flush=True)
    _write_records(
        folder,
        [declared_row(run_id, specs[run_id], result) for run_id, result in results.items()],
        {run_id: result.trace() for run_id, result in results.items()},
        {run_id: result.minimiser for run_id, result in results.items()},
        {run_id: history_rows(result) for run_id, result in results.items()},
        start,
    )


def problem_of(spec: UfmSpec) -> Problem:
    return Problem(**spec.model_dump(exclude={"solver", "seed"}))


def match_network(run: NetworkRun, kinds: Sequence[MatchedKind], network_folder: Path, folder: Path) -> None:
    """Match the models to the last checkpoint of a network and write their records to ``folder``.

    A network that is at no stationary point in its classifier, penalised by the weight decay, has no match: a
    diverged one, a frozen classifier, decoupled decay. Its records hold no rows, and the log says why.
    """
    start = time.time()
    matched: dict[str, MatchedUfm] = {}
    rows: list[dict[str, Any]] = []
    trace = load_traces(network_folder / "statistics.safetensors")[run.id]
    status = read_json(network_folder / "spec.json")["status"]
    for kind in kinds:
        run_id = f"matched-{kind}-{run.id}"
        try:
            check_matchable(run.spec, status)
            model = matched_to(kind, run.spec, trace)
        except ValueError as reason:
            print(f"{run_id}: no match: {reason}", flush=True)
            continue
        matched[run_id] = model
        rows.append(matched_row(run_id, kind, run, model, trace))
        print(f"{run_id}: {model.basis}", flush=True)
    _write_records(
        folder,
        rows,
        {run_id: model.trace() for run_id, model in matched.items()},
        {run_id: model.minimiser for run_id, model in matched.items()},
        {run_id: [{"time": 0, "objective": model.optimum_value}] for run_id, model in matched.items()},
        start,
    )


def check_matchable(spec: NetworkSpec, status: str) -> None:
    """Raise ``ValueError`` where the network is not at a stationary point of its penalised classifier."""
    if status != "done":
        raise ValueError(f"the network {status}")
    if spec.head.fixed_etf:
        raise ValueError("a frozen classifier is not stationary, so that it tells no penalty of the features")
    if spec.optimizer.name == "adamw":
        raise ValueError("the decoupled decay of adamw is no penalty of the loss")


def matched_to(kind: MatchedKind, spec: NetworkSpec, trace: Trace) -> MatchedUfm:
    """The model that the last measured epoch of a network determines, see ``ncpipe.ufm.match``."""
    last = trace.times[-1]
    weight, bias = trace.heads[last]
    features = trace.statistics[Moment(last, trace.layers[-1])]
    below = trace.statistics[Moment(last, trace.layers[-2])] if len(trace.layers) > 1 else None
    return match(
        kind,
        classes=len(features.counts),
        counts=features.counts.tolist(),
        dim=features.means.shape[1],
        loss=spec.loss.name,
        loss_scaling=spec.loss.scaling,
        weight_decay=spec.optimizer.weight_decay,
        bias_decay=None if bias is None else spec.optimizer.bias_decay,
        weight_norm_squared=float(weight.square().sum()),
        features_norm_squared=features.squared_norm,
        input_norm_squared=None if below is None else below.squared_norm,
    )


def declared_row(run_id: str, spec: UfmSpec, result: Result) -> dict[str, Any]:
    """Row of the ``ufm`` table of a declared problem."""
    optimum, basis = result.optimum, ""
    try:
        basis = result.problem.optimum().basis
    except NoClosedForm as reason:
        basis = f"no closed form: {reason}"
    return {
        **problem_columns(result.problem),
        "run_id": run_id,
        "kind": "declared",
        "solver": spec.solver.name,
        "seed": spec.seed,
        "status": result.status,
        "value": result.value,
        "optimum": None if optimum is None else optimum.value,
        "optimum_is_zero": None if optimum is None else optimum.is_zero,
        "basis": basis,
        "gap": result.gap,
        "gradient_norm": result.gradient_norm,
        "iterations": spec.solver.steps if isinstance(spec.solver, GradientDescent) else result.iterations,
        "starts": result.starts,
        "success_fraction": result.success_fraction,
        "dead_directions": result.dead_directions,
    }


def matched_row(run_id: str, kind: str, run: NetworkRun, model: MatchedUfm, trace: Trace) -> dict[str, Any]:
    """Row of the ``ufm`` table of a matched model, predicted beside measured."""
    last = trace.times[-1]
    weight, _ = trace.heads[last]
    features = trace.statistics[Moment(last, trace.layers[-1])]
    # The network's loss in the model's scaling: MSELoss is 2/K times the half squared error.
    scale = len(features.counts) / 2 if run.spec.loss.scaling == "mean" else 1.0
    measured = {
        "loss": trace.scalars[last, "train"]["loss"] * scale,
        "feature_norm": features.squared_norm**0.5,
        "weight_norm": float(weight.norm()),
        "means_gram": _flat(features.means @ features.means.T),
        "weights_gram": _flat(weight @ weight.T),
    }
    predicted = {
        "loss": model.loss,
        "feature_norm": model.feature_norm,
        "weight_norm": model.weight_norm,
        "means_gram": _flat(model.means_gram),
        "weights_gram": _flat(model.weights_gram),
    }
    numerical = model.basis.startswith("numerical")
    return {
        **problem_columns(model.problem),
        "run_id": run_id,
        "kind": "matched",
        "network_id": run.id,
        "model": kind,
        "solver": "lbfgs" if numerical else "construction",
        "seed": run.spec.seed,
        "status": "done",
        "value": model.optimum_value,
        "optimum": None if numerical else model.optimum_value,
        "basis": model.basis,
        "iterations": 0,
        "starts": model.starts,
        "success_fraction": model.success_fraction,
        "dead_directions": model.minimiser.dead_directions(),
        **{f"predicted_{name}": value for name, value in predicted.items()},
        **{f"measured_{name}": value for name, value in measured.items()},
    }


def problem_columns(problem: Problem) -> dict[str, Any]:
    """Columns of the ``ufm`` table that the problem decides; ``samples`` is the mean where classes differ."""
    return {
        "model": {1: "plain", 2: "extended"}.get(problem.depth, "deep"),
        "activation": problem.activation,
        "loss": problem.loss,
        "bias": str(problem.bias),
        "classes": problem.classes,
        "samples": round(problem.num_samples / problem.classes),
        "dim": problem.dim,
        "weight_decay": list(problem.weight_decays),
        "feature_decay": problem.feature_decay,
    }


def history_rows(result: Result) -> list[dict[str, float]]:
    """Objective, gap to the closed form where there is one, and gradient norm, by iteration."""
    history, optimum = result.history, result.optimum
    rows = []
    for iteration, value, norm in zip(history.iterations, history.value, history.gradient_norm):
        row = {"time": iteration, "objective": value, "gradient_norm": norm}
        rows.append(row if optimum is None else {**row, "gap": value - optimum.value})
    return rows


def _write_records(
    folder: Path,
    rows: list[dict[str, Any]],
    traces: Mapping[str, Trace],
    minimisers: Mapping[str, Minimiser],
    history: Mapping[str, list[dict[str, float]]],
    start: float,
) -> None:
    write_tensors(folder / "minimisers.safetensors", _minimiser_tensors(minimisers))
    save_traces(folder / "statistics.safetensors", traces)
    write_history(folder / "history.parquet", "ufm", history)
    now = time.time()
    last = {run_id: records[-1]["time"] for run_id, records in history.items()}
    timing = {r: [{"time": int(t), "seconds": now - start, "finished_at": now}] for r, t in last.items()}
    write_timings(folder / "timings.parquet", "ufm", timing)
    write_rows(folder / "fits.parquet", UFM, rows)


def _minimiser_tensors(minimisers: Mapping[str, Minimiser]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for run_id, point in minimisers.items():
        tensors[f"{run_id}/features"] = point.features
        tensors |= {f"{run_id}/weight{i}": weight for i, weight in enumerate(point.weights, start=1)}
        if point.bias is not None:
            tensors[f"{run_id}/bias"] = point.bias
    return tensors


def _flat(gram: Tensor) -> list[float]:
    return gram.flatten().tolist()
