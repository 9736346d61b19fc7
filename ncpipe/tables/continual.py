"""Rows of class-incremental learning in the ``runs`` table."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ncpipe.continual.settings import ContinualSpec
from ncpipe.study.runs import ContinualRun
from ncpipe.study.study import Study
from ncpipe.system.files import read_json


def continual_rows(study: Study, ends: Mapping[str, dict[str, float]]) -> Iterator[dict[str, Any]]:
    """One row per network and way of learning, planned ones without records too; ``ends`` are the last values of
    the history by run id and column."""
    for learning in study.continual.values():
        record = study.layout.continual(learning.network.id) / "runs.json"
        written = read_json(record) if record.exists() else {}
        whole = study.layout.dataset(learning.dataset_id) / "dataset.json"
        classes = len(read_json(whole)["classes"]) if whole.exists() else None
        for run_id, spec in learning.ways.items():
            row = {"run_id": run_id, "classes": classes, "status": "missing", **continual_settings(learning, spec)}
            if about := written.get(run_id):
                row |= {"status": about["status"], "final_epoch": about["final_step"], "device": "cpu"}
                row |= {"train_samples": about["train_samples"]}
            yield row | ends.get(run_id, {})


def continual_settings(learning: ContinualRun, spec: ContinualSpec) -> dict[str, Any]:
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
        "settings": json.dumps(spec.model_dump(mode="json"), sort_keys=True),
        "label": f"continual {spec.init.replace('_', ' ')}",
    }
