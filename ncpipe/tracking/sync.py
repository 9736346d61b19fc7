"""Bring the MLflow store in line with the tables: write what is new or changed, leave the rest, delete the stale."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ncpipe.progress import progress
from ncpipe.study.layout import Layout
from ncpipe.study.spec import Config
from ncpipe.tracking.client import (
    Metric,
    MlflowClient,
    Param,
    Run,
    SqlAlchemyStore,
    get_artifact_repository,
    is_database,
    locked,
    store_errors,
)
from ncpipe.tracking.records import MAX_TAG_CHARACTERS, RunRecord, StudyRecords
from ncpipe.tracking.store import artifact_root, create_store

MAX_METRICS = 1000
"""MLflow takes no more in one call."""

ID, STUDY, DIGEST = "ncpipe.id", "ncpipe.study", "ncpipe.digest"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"


@dataclass
class Summary:
    """What a sync did: where, and to how many runs."""

    uri: str
    experiment_id: str
    created: int = 0
    replaced: int = 0
    kept: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        return f"{self.created} created, {self.replaced} replaced, {self.kept} kept, {self.deleted} deleted"


def sync(config: Config, layout: Layout) -> Summary:
    """Mirror the tables, figures and report of a study into MLflow.

    A run is known by the tag ``ncpipe.id`` and complete once it bears ``ncpipe.digest``, a hash of all that is logged
    in it, written last. So a sync may be killed and repeated at will, and one without news writes nothing.
    A store that cannot be used raises ``UserError``; the results on disk are only read.
    """
    records = StudyRecords(config, layout)
    uri = create_store(config.tracking.uri, layout.mlflow)
    with store_errors(uri), locked(layout.mlflow / ".sync.lock"):
        experiment = _open_experiment(uri, config, layout)
        return _Writer(uri, experiment, config.study.name).write(records)


def _open_experiment(uri: str, config: Config, layout: Layout) -> str:
    """Id of the study's experiment, which is made where there is none and brought back where it was deleted."""
    client = MlflowClient(uri)
    name = config.tracking.experiment or config.study.name
    found = client.get_experiment_by_name(name)
    if found is None:
        # A tracking server decides for itself where artifacts lie.
        artifacts = (artifact_root(layout.mlflow) / name).as_uri() if is_database(uri) else None
        return client.create_experiment(name, artifacts, {NOTE: config.study.description})
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    if found.tags.get(NOTE) != config.study.description:
        client.set_experiment_tag(found.experiment_id, NOTE, config.study.description)
    return found.experiment_id


class _Writer:
    """One sync of one study into one experiment."""

    def __init__(self, uri: str, experiment: str, study: str) -> None:
        self.client = MlflowClient(uri)
        self.study = study
        self.uri, self.experiment = uri, experiment
        self.summary = Summary(uri, experiment)
        self.mlflow_ids: dict[str, str] = {}
        """MLflow's ids of the runs that are in place, by ncpipe's."""

    def write(self, records: StudyRecords) -> Summary:
        existing = self._existing()
        with progress("mlflow", len(records)) as update:
            for done, record in enumerate(records, start=1):
                self._bring_in_line(record, existing.pop(record.id, []))
                update(done, record.id)
        for stale in existing.values():
            self.summary.deleted += self._delete(stale)
        return self.summary

    def _existing(self) -> dict[str, list[Run]]:
        """Runs of this study in the experiment, by ncpipe's id; several of one id where something went wrong."""
        runs: dict[str, list[Run]] = {}
        token = None
        while token != "":
            page = self.client.search_runs([self.experiment], f"tags.`{STUDY}` = '{self.study}'", page_token=token)
            for run in page:
                runs.setdefault(run.data.tags.get(ID, ""), []).append(run)
            token = page.token or ""
        return runs

    def _bring_in_line(self, record: RunRecord, found: list[Run]) -> None:
        digest = record.digest()
        parent = {PARENT: self.mlflow_ids[record.parent]} if record.parent else {}
        whole = [run for run in found if run.data.tags.get(DIGEST) == digest]
        self._delete(run for run in found if run not in whole[:1])
        if whole:
            self._hang_beneath(whole[0], parent)
            self.mlflow_ids[record.id] = whole[0].info.run_id
            self.summary.kept += 1
            return
        self.mlflow_ids[record.id] = self._create(record, digest, parent)
        if found:
            self.summary.replaced += 1
        else:
            self.summary.created += 1

    def _hang_beneath(self, run: Run, parent: dict[str, str]) -> None:
        # A replaced parent has a new id in MLflow, which is no news of the child and not in its digest.
        for key, value in parent.items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)

    def _create(self, record: RunRecord, digest: str, parent: dict[str, str]) -> str:
        tags = {ID: record.id, STUDY: self.study, "mlflow.source.name": "ncpipe", **parent, **record.tags}
        tags = {key: value[:MAX_TAG_CHARACTERS] for key, value in tags.items()}
        created = self.client.create_run(self.experiment, record.start, tags, record.name)
        run_id: str = created.info.run_id
        metrics = [Metric(*point) for point in record.points]
        params = [Param(key, value) for key, value in record.params.items()]
        self.client.log_batch(run_id, metrics[:MAX_METRICS], params)
        for start in range(MAX_METRICS, len(metrics), MAX_METRICS):
            self.client.log_batch(run_id, metrics[start : start + MAX_METRICS])
        self._log_artifacts(run_id, record.artifacts)
        # Divergence is a result: no run is FAILED, which would say that running it again could help.
        self.client.set_terminated(run_id, "FINISHED", record.end)
        self.client.set_tag(run_id, DIGEST, digest)
        return run_id

    def _log_artifacts(self, run_id: str, artifacts: dict[str, bytes]) -> None:
        if not artifacts:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in artifacts.items():
                path = Path(folder) / name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            self.client.log_artifacts(run_id, folder)

    def _delete(self, runs: Iterable[Run]) -> int:
        count = 0
        for run in runs:
            self.client.delete_run(run.info.run_id)
            if is_database(self.uri):
                purge(self.uri, run)
            count += 1
        return count


def purge(uri: str, run: Run) -> None:
    """Remove a deleted run for good, as ``mlflow gc`` does; behind a tracking server only its operator can."""
    get_artifact_repository(run.info.artifact_uri).delete_artifacts()
    SqlAlchemyStore(uri, run.info.artifact_uri)._hard_delete_run(run.info.run_id)
