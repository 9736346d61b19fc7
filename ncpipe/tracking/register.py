"""Weights of a trained network in MLflow's model registry, on request; otherwise MLflow only knows where they lie."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors
from ncpipe.tracking.experiment import opened, study_runs
from ncpipe.tracking.records import study_key

FOLDER = "model"


def register(study: Study, run_id: str, name: str | None = None) -> tuple[str, str]:
    """Copy the weights of a network to its MLflow run and register them; returns the model's name and version.

    The same weights under the same name are registered once. ``UserError`` where the study has no such network, it
    has no weights yet, or it is not in MLflow.
    """
    if run_id not in study.networks:
        raise UserError(f"the study has no network {run_id!r}; `ncpipe plan` lists them")
    weights = study.layout.run(run_id) / "model.safetensors"
    if not weights.exists():
        raise UserError(f"no weights in {weights}; train it first: snakemake models")
    read_tensors(weights)  # whole, or an error
    with opened(study.config, study.layout) as store:
        runs = study_runs(store, study_key(study.config), run_id).get(run_id)
        if not runs:
            raise UserError(f"network {run_id} is not in MLflow; run `ncpipe sync` first")
        model = name or study.config.study.name
        return model, _version(store.client, model, runs[0].info.run_id, weights)


def _version(client: MlflowClient, model: str, mlflow_id: str, weights: Path) -> str:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    try:
        client.get_registered_model(model)
    except MlflowException:
        client.create_registered_model(model)
    for version in client.search_model_versions(f"name = '{model}'"):
        if (version.run_id, version.tags.get("sha256")) == (mlflow_id, digest):
            return str(version.version)
    for file in (weights, weights.with_name("spec.json")):
        client.log_artifact(mlflow_id, str(file), FOLDER)
    source = f"{client.get_run(mlflow_id).info.artifact_uri}/{FOLDER}"
    return str(client.create_model_version(model, source, mlflow_id, tags={"sha256": digest}).version)
