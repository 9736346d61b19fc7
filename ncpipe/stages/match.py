"""The match stage: models that a trained network determines, predicted beside measured."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ncpipe.collapse import LayerStatistics, Moment, Trace
from ncpipe.records.traces import load_traces
from ncpipe.stages.fit_records import FitRecord, optimum_columns, problem_columns, write_fits
from ncpipe.system.files import read_json
from ncpipe.training.predicted import predicted_problem
from ncpipe.training.settings import NetworkRun, NetworkSpec
from ncpipe.ufm import MatchedUfm
from ncpipe.ufm.matched import match_statistics, predicted_model
from ncpipe.ufm.settings import MatchedKind

PREDICTED = ("predicted", "predicted_extended")
"""Kinds of models with nothing matched."""


def match_network(run: NetworkRun, kinds: Sequence[MatchedKind], network_folder: Path, folder: Path) -> None:
    """Match the models to the last checkpoint of a network and write their records to ``folder``.

    A network that is at no stationary point in its classifier, penalised by the weight decay, has no match: a
    diverged one, a frozen classifier, decoupled decay. Its records hold no rows, and the log says why.
    """
    start = time.time()
    fits: dict[str, FitRecord] = {}
    trace = load_traces(network_folder / "statistics.safetensors")[run.id]
    status = read_json(network_folder / "spec.json")["status"]
    for kind in kinds:
        run_id = f"matched-{kind}-{run.id}"
        try:
            check_matchable(kind, run.spec, status)
            model = matched_to(kind, run.spec, trace)
        except ValueError as reason:
            print(f"{run_id}: no match: {reason}", flush=True)
            continue
        point, row = model.minimiser, matched_row(run_id, kind, run, model, trace)
        history: list[dict[str, float]] = [{"time": 0, "objective": model.optimum_value}]
        fits[run_id] = FitRecord(row, model.trace(), point.features, point.weights, point.bias, history)
        print(f"{run_id}: {model.basis}", flush=True)
    write_fits(folder, fits, start)


def check_matchable(kind: MatchedKind, spec: NetworkSpec, status: str) -> None:
    """Raise ``ValueError`` where the network is at no stationary point of its penalised classifier, which a matched
    model takes for granted."""
    if status != "done":
        raise ValueError(f"the network {status}")
    if kind in PREDICTED:
        return
    if spec.loss.name not in ("mse", "ce") or spec.loss.rescale != (1, 1):
        raise ValueError("only plain mse and ce have a matched model")
    if spec.head.temperature is not None:
        raise ValueError("norms that are fixed tell no penalties")
    if spec.head.fixed_etf:
        raise ValueError("a frozen classifier is not stationary, so that it tells no penalty of the features")
    if spec.optimizer.name == "adamw":
        raise ValueError("the decoupled decay of adamw is no penalty of the loss")


def matched_to(kind: MatchedKind, spec: NetworkSpec, trace: Trace) -> MatchedUfm:
    """The model that the last measured epoch of a network determines, see ``ncpipe.ufm.matched``.

    The predicted kinds have nothing matched, see ``ncpipe.training.predicted``. The extended model is matched by the
    nuclear norm of the last features: below them BatchNorm may leave weights without a scale, and then the norm of
    the layer below means nothing.
    """
    last = trace.times[-1]
    weight, bias = trace.heads[last]
    if kind == "predicted" or kind == "predicted_extended":
        problem = predicted_problem(spec, trace.statistics[Moment(last, trace.layers[-1])].counts.tolist())
        if (problem.depth > 1) != (kind == "predicted_extended"):
            levels = "one layer" if problem.depth == 1 else "two layers"
            raise ValueError(f"the network has {levels} above its last BatchNorm")
        return predicted_model(problem, spec.loss.scaling)
    return match_statistics(
        kind,
        trace.statistics[Moment(last, trace.layers[-1])],
        weight,
        bias,
        loss="mse" if spec.loss.name == "mse" else "ce",
        loss_scaling=spec.loss.scaling,
        weight_decay=spec.optimizer.classifier_decay,
        bias_decay=spec.optimizer.bias_decay,
    )


def matched_row(run_id: str, kind: str, run: NetworkRun, model: MatchedUfm, trace: Trace) -> dict[str, Any]:
    """Row of the ``ufm`` table of a matched model, predicted beside measured."""
    return {
        **problem_columns(model.problem),
        **optimum_columns(model.problem),
        "run_id": run_id,
        "kind": "matched",
        "network_id": run.id,
        "model": kind,
        "solver": "construction" if model.starts is None else "lbfgs",
        "seed": run.spec.seed,
        "status": "done",
        "value": model.optimum_value,
        "basis": model.basis,
        "iterations": 0,
        "starts": model.starts,
        "success_fraction": model.success_fraction,
        "dead_directions": model.minimiser.dead_directions(),
        **comparison_columns(model, trace, with_objective=kind in PREDICTED),
        **error_columns(model, trace),
    }


def comparison_columns(model: MatchedUfm, trace: Trace, with_objective: bool) -> dict[str, Any]:
    """What the model predicts and what the last measured epoch of the network has, losses in the model's scaling.

    Objectives are compared where the model has the network's own penalties, so that nothing in them is matched."""
    last = trace.times[-1]
    weight, _ = trace.heads[last]
    features = trace.statistics[Moment(last, trace.layers[-1])]
    measured = {
        "loss": trace.scalars[last, "train"]["loss"] * model.loss_factor,
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
    objective = trace.scalars[last, "train"].get("objective")
    if with_objective:
        measured["objective"] = None if objective is None else objective * model.loss_factor
        predicted["objective"] = model.optimum_value
    if model.problem.depth == 2 and (hidden := _hidden_level(trace)) is not None:
        measured |= hidden
        predicted |= _hidden_columns(model.minimiser.statistics()["H1"], model.minimiser.weights[0])
    return {f"predicted_{k}": v for k, v in predicted.items()} | {f"measured_{k}": v for k, v in measured.items()}


def _hidden_level(trace: Trace) -> dict[str, Any] | None:
    """What is compared of the level below the last of a network, where one matrix leads from it to the last."""
    last, level = trace.times[-1], trace.layers[-2] if len(trace.layers) > 1 else ""
    weight, features = trace.weights.get((last, level)), trace.statistics.get(Moment(last, level))
    return None if weight is None or features is None else _hidden_columns(features, weight)


def _hidden_columns(features: LayerStatistics, weight: Tensor) -> dict[str, Any]:
    return {
        "hidden_gram": _flat(features.means @ features.means.T),
        "hidden_norm": features.squared_norm**0.5,
        "hidden_weight_norm": float(weight.norm()),
    }


def error_columns(model: MatchedUfm, trace: Trace) -> dict[str, float | None]:
    """Goodness of the match at the last measured epoch, on the training split and, where it is measured, the test."""
    last, layer = trace.times[-1], trace.layers[-1]
    features, scalars = trace.statistics[Moment(last, layer)], trace.scalars[last, "train"]
    train = model.goodness(
        features.means,
        trace.heads[last][0],
        feature_norm=features.squared_norm**0.5,
        loss=scalars["loss"],
        stationarity=scalars.get("classifier_stationarity"),
    )
    names = ("means_gram", "weights_gram", "feature_norm", "weight_norm", "loss")
    row = {f"{name}_error": getattr(train, name) for name in names} | {"classifier_stationarity": train.stationarity}
    if (last, "test") in trace.scalars:
        means = trace.statistics[Moment(last, layer, "test")].means
        test = model.goodness(means, loss=trace.scalars[last, "test"]["loss"])
        row |= {"test_means_gram_error": test.means_gram, "test_loss_error": test.loss}
    return row


def _flat(gram: Tensor) -> list[float]:
    return gram.flatten().tolist()
