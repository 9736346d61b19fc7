"""The study's experiment in the store, and the tags by which its runs are known there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.tracking.client import is_database, store_errors
from ncpipe.tracking.records import NOTE
from ncpipe.tracking.store import artifact_root, create_store
from ncpipe.tracking.view import runs_view, view_tag

ID, STUDY, DIGEST = "ncpipe.id", "ncpipe.study", "ncpipe.digest"
LIVE = "ncpipe.live"
"""Tag of a run that was begun while its network trains, and holds nothing but what its record will hold."""
PARENT = "mlflow.parentRunId"
MODEL_TRAINING = {"mlflow.experimentKind": "custom_model_development"}
"""Without this tag MLflow's pages are those for language models."""


def experiment_name(config: Config) -> str:
    return config.tracking.experiment or config.study.name


class Store(NamedTuple):
    """The store of a study, ready to be written to."""

    uri: str
    client: MlflowClient
    experiment: str
    """Id of the study's experiment."""


@contextmanager
def opened(config: Config, layout: Layout) -> Iterator[Store]:
    """The study's store for this process alone; store and experiment are made where they are missing.

    Raises:
        UserError: whatever the store raises, here or within the block, in one line with the remedy.
    """
    uri = create_store(config.tracking.uri, layout.mlflow)
    with store_errors(uri), FileLock(layout.mlflow / ".sync.lock"):
        yield Store(uri, MlflowClient(uri), open_experiment(uri, config, layout))


def open_experiment(uri: str, config: Config, layout: Layout) -> str:
    """Id of the study's experiment, which is made where there is none and brought back where it was deleted."""
    client, name = MlflowClient(uri), experiment_name(config)
    tags = {NOTE: config.study.description, **MODEL_TRAINING}
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        # A tracking server decides for itself where artifacts lie.
        # Of the name, which may be any text, only what is no path.
        folder = artifact_root(layout.mlflow) / re.sub(r"[^\w-]+", "-", name)
        artifacts = folder.as_uri() if is_database(uri) else None
        try:
            # For networks that are shown while they train.
            view = {view_tag("network"): runs_view("network", [])} if config.networks else {}
            return client.create_experiment(name, artifacts, tags | view)
        except MlflowException:
            experiment = client.get_experiment_by_name(name)
            if experiment is None:  # no other study of this experiment was faster
                raise
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment.experiment_id)
    for key, value in tags.items():
        if experiment.tags.get(key) != value:
            client.set_experiment_tag(experiment.experiment_id, key, value)
    return experiment.experiment_id


def study_runs(store: Store, study: str, run_id: str | None = None) -> dict[str, list[Run]]:
    """Runs of a study in the experiment, all or one, by ncpipe's id; several of one id where something went wrong."""
    runs: dict[str, list[Run]] = {}
    token, wanted = None, f"tags.`{STUDY}` = '{study}'" + (f" AND tags.`{ID}` = '{run_id}'" if run_id else "")
    while token != "":
        page = store.client.search_runs([store.experiment], wanted, page_token=token)
        for run in page:
            runs.setdefault(run.data.tags.get(ID, ""), []).append(run)
        token = page.token or ""
    return runs
