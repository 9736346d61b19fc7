"""The solver ``central_path`` in the UFM stage: from its settings to its records."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ncpipe.collapse import Moment, Trace, layer_statistics, least_squares_split
from ncpipe.stages.fit_records import FitRecord, problem_columns
from ncpipe.ufm.central_path import snr_law
from ncpipe.ufm.settings import UfmSpec
from ncpipe.ufm.solvers import central_path


def follow_path(run_id: str, spec: UfmSpec) -> FitRecord:
    """Simulate the renormalised flow from the features that the seed draws.

    The law stands beside the singular values at the very times of the flow; recorded times are rounded.
    """
    assert isinstance(spec.solver, central_path.Solver)
    path, features, labels = spec.solver.follow(spec.model, spec.seed)
    law = snr_law(path.singular_values[0], path.times, classes=spec.classes, samples=spec.model.num_samples)
    times = path.times.round().long().tolist()
    history = [
        {"time": time, "objective": loss, "nc1_pinv": nc1, **_numbered("snr", found), **_numbered("snr_law", exact)}
        for time, loss, nc1, found, exact in zip(
            times, path.loss.tolist(), path.nc1_pinv.tolist(), path.singular_values, law, strict=True
        )
    ]
    trace = Trace(("features",))
    for time, rows in ((times[0], features), (times[-1], path.features)):
        _record(trace, time, rows, labels)
    weight, bias = trace.heads[times[-1]]
    return FitRecord(fit_row(run_id, spec, history[-1]), trace, path.features, [weight], bias, history)


def fit_row(run_id: str, spec: UfmSpec, last: dict[str, float]) -> dict[str, Any]:
    """Row of the ``ufm`` table: no penalties, and no optimum, as the infimum is not attained."""
    return {
        **problem_columns(spec.model),
        "weight_decay": None,
        "feature_decay": None,
        "run_id": run_id,
        "kind": "declared",
        "solver": spec.solver.name,
        "seed": spec.seed,
        "status": "done",
        "message": f"followed the central path to time {last['time']}, where nc1_pinv is {last['nc1_pinv']:.3g}",
        "value": last["objective"],
        "basis": "no closed form: without penalties the infimum 0 is not attained",
        "missed": False,
        "iterations": last["time"],
        "dead_directions": 0,
    }


def _record(trace: Trace, time: int, features: Tensor, labels: Tensor) -> None:
    """Add features with their least-squares classifier to a trace."""
    classes = int(labels.max()) + 1
    zero = features.new_zeros(classes, features.shape[1]), features.new_zeros(classes)
    seen = layer_statistics(features, labels, classes, products=True)
    best = least_squares_split(seen, *zero, ridge=0.0)
    assert best.bias is not None
    trace.heads[time] = best.weight, best.bias
    trace.statistics[Moment(time, "features")] = layer_statistics(
        features, labels, classes, weight=best.weight, bias=best.bias
    )
    split = least_squares_split(seen, best.weight, best.bias, ridge=0.0)
    trace.scalars[time, "train"] = {"loss": split.loss, **split.values()}


def _numbered(name: str, values: Tensor) -> dict[str, float]:
    return {f"{name}_{i}": value for i, value in enumerate(values.tolist(), start=1)}
