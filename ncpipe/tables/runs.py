"""Rows of the ``runs`` table: settings of every planned run, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ncpipe.continual.settings import ContinualSpec
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.study.runs import ContinualRun
from ncpipe.study.study import Study
from ncpipe.system.files import read_json
from ncpipe.tables.ends import Ends, fit_end
from ncpipe.training.settings import NetworkRun, NetworkSpec
from ncpipe.ufm.settings import UfmSpec

Row = dict[str, Any]

WRITTEN = ("status", "final_epoch", "parameters", "device", "precision")
"""Columns that come from the record of a training run."""


def planned_rows(study: Study, ends: Ends) -> Iterator[Row]:
    """A row for every planned run, with the label that it has by itself."""
    yield from network_rows(study, ends)
    yield from _continual_rows(study, ends.continual)
    yield from _problem_rows(study, ends)


def network_rows(study: Study, ends: Ends) -> Iterator[Row]:
    """The rows of the networks."""
    data = cache(_data_settings)
    for run in study.networks.values():
        row = {"source": "net", "run_id": run.id, "kind": "network", "status": "missing", **network_settings(run)}
        if written := _written(study.layout.run(run.id) / "spec.json"):
            row |= {name: written[name] for name in WRITTEN}
        row |= data(study.layout.dataset(run.dataset_id) / "dataset.json")
        yield row | {"zero_error_epoch": ends.zero_error_epoch.get(run.id)} | ends.network.get(run.id, {})


def _written(path: Path) -> Row:
    """A record; empty where there is none."""
    return read_json(path) if path.exists() else {}


def _data_settings(path: Path) -> Row:
    about = _written(path)
    return about and {"classes": len(about["classes"]), "train_samples": sum(about["counts"]["train"])}


def network_settings(run: NetworkRun) -> Row:
    """Columns of the ``runs`` table that the settings decide."""
    spec, model = run.spec, run.spec.model.label
    return {
        "dataset": spec.dataset.slug,
        "dataset_id": run.dataset_id,
        "model": model,
        "width": getattr(spec.model, "width", None),
        "depth": getattr(spec.model, "depth", None),
        "batch_norm": batch_norm(spec),
        "loss": spec.loss.name,
        "loss_scaling": spec.loss.scaling if spec.loss.name == "mse" else None,
        "bias": "yes" if spec.head.bias else "no",
        "head": head_name(spec.head),
        "fixed_etf": spec.head.fixed_etf,
        "optimizer": spec.optimizer.name,
        "learning_rate": spec.optimizer.lr,
        "momentum": spec.optimizer.momentum if spec.optimizer.name == "sgd" else None,
        "weight_decay": _weight_decays(spec),
        "feature_decay": spec.head.feature_decay,
        "decay_group": spec.optimizer.decay,
        "schedule": spec.schedule.name,
        "epochs": spec.epochs,
        "batch_size": spec.batch_size,
        "gpus": spec.gpus,
        "seed": spec.seed,
        "settings": _json(spec),
        "label": f"{model} {loss_name(spec.loss.name)} {'bias' if spec.head.bias else 'no bias'}",
    }


def batch_norm(spec: NetworkSpec) -> bool | None:
    """Whether the layer that the head reads has BatchNorm; None where that is no choice."""
    chosen = getattr(spec.model, "batch_norm", None)
    return chosen if chosen is None else chosen is True


def head_name(head: HeadSpec) -> str:
    """'linear', or what the head has beside its classifier: 'hidden 2, temperature 10'."""
    parts = [f"hidden {head.hidden}"] if head.hidden else []
    parts += [] if head.temperature is None else [f"temperature {head.temperature:g}"]
    return ", ".join(parts) or "linear"


def loss_name(loss: str) -> str:
    """A loss as labels have it."""
    return loss.upper() if loss in ("mse", "ce") else loss.replace("_", " ")


def _weight_decays(spec: NetworkSpec) -> list[float]:
    head = spec.optimizer.head_weight_decay
    return [spec.optimizer.weight_decay] + ([] if head is None else [head])


def _continual_rows(study: Study, ends: Mapping[str, dict[str, float]]) -> Iterator[Row]:
    """One row per network and way of learning, planned ones without records too; ``ends`` are the last values of
    the history by run id and column."""
    for learning in study.continual.values():
        written = _written(study.layout.continual(learning.network.id) / "runs.json")
        data = _data_settings(study.layout.dataset(learning.dataset_id) / "dataset.json")
        for run_id, spec in learning.ways.items():
            row = {"run_id": run_id, "classes": data.get("classes"), "status": "missing"}
            row |= _continual_settings(learning, spec)
            if about := written.get(run_id):
                row |= {"status": about["status"], "final_epoch": about["final_step"], "device": "cpu"}
                row |= {"train_samples": about["train_samples"]}
            yield row | ends.get(run_id, {})


def _continual_settings(learning: ContinualRun, spec: ContinualSpec) -> Row:
    """Columns of the ``runs`` table that the settings decide; ``seed`` is that of the network."""
    network = learning.network.spec
    return {
        "source": "net",
        "kind": "continual",
        "network_id": learning.network.id,
        "dataset": learning.dataset.slug,
        "dataset_id": learning.dataset_id,
        "loss": network.loss.name,
        "loss_scaling": network.loss.scaling if network.loss.name == "mse" else None,
        "bias": "yes" if network.head.bias else "no",
        "optimizer": "sgd",
        "learning_rate": spec.lr,
        "momentum": spec.momentum,
        "weight_decay": [spec.weight_decay],
        "epochs": spec.steps,
        "batch_size": spec.batch_size,
        "seed": network.seed,
        "settings": _json(spec),
        "label": f"continual {spec.init.replace('_', ' ')}",
    }


def _problem_rows(study: Study, ends: Ends) -> Iterator[Row]:
    for problem_id, spec in study.problems.items():
        row: Row = {"source": "ufm", "run_id": problem_id, "kind": "declared", "status": "missing"}
        yield row | problem_settings(spec) | ends.declared.get(problem_id, {})
    for fit in ends.matched_fits():
        row = {"source": "ufm", "run_id": fit["run_id"], "kind": "matched", "network_id": fit["network_id"]}
        copied = ("model", "loss", "bias", "classes", "samples", "dim", "activation", "seed", "feature_decay")
        row |= {name: fit[name] for name in copied} | {"optimizer": fit["solver"]}
        row |= {"weight_decay": list(fit["weight_decay"]), "depth": len(fit["weight_decay"])}
        row |= {"label": f"matched {fit['model']}", "settings": json.dumps({"network": fit["network_id"]})}
        yield row | fit_end(fit)


def problem_settings(spec: UfmSpec) -> Row:
    """Columns of the ``runs`` table that the settings of a declared UFM problem decide."""
    solver = spec.solver
    decays = spec.weight_decay if isinstance(spec.weight_decay, tuple | None) else (spec.weight_decay,)
    bias = {"none": "no bias", "free": "bias"}.get(str(spec.bias), "penalised bias")
    depth, samples = spec.model.depth, spec.model.num_samples
    kind = {1: "plain", 2: "extended"}.get(depth, "deep")
    name = kind if depth < 3 else f"{kind} {depth}"
    if spec.temperature is not None:
        name, bias = "normalised", "no bias"
    if spec.classifier == "etf":
        name += ", ETF classifier,"
    if spec.nonnegative:
        name += ", non-negative,"
    return {
        "classes": spec.classes,
        "train_samples": samples,
        "model": kind,
        "depth": depth,
        "loss": spec.loss,
        "bias": str(spec.bias),
        "optimizer": solver.name,
        "learning_rate": solver.rate,
        "weight_decay": None if decays is None else list(decays),
        "feature_decay": spec.feature_decay,
        "epochs": solver.iterations,
        "activation": spec.activation,
        "samples": round(samples / spec.classes),
        "dim": spec.model.widths[0],
        "seed": spec.seed,
        "settings": _json(spec),
        "label": f"{name} {spec.activation} {loss_name(spec.loss)} {bias} ({solver.label or solver.name})",
    }


def _json(spec: NetworkSpec | ContinualSpec | UfmSpec) -> str:
    return json.dumps(spec.model_dump(mode="json"), sort_keys=True)
