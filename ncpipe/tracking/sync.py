"""Bring the MLflow store in line with the tables: write what is new or changed, leave the rest, delete the stale."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.system.progress import progress
from ncpipe.tracking.artifacts import Artifact
from ncpipe.tracking.client import is_database
from ncpipe.tracking.experiment import DIGEST, ID, LIVE, PARENT, STUDY, Store, opened, study_runs
from ncpipe.tracking.notes import MAX_TAG_CHARACTERS
from ncpipe.tracking.points import Point
from ncpipe.tracking.records import RunRecord, StudyRecords, params, study_key
from ncpipe.tracking.store import follow
from ncpipe.tracking.view import VIEWS, runs_view, view_tag


@dataclass
class Summary:
    """What a sync did: where, and to how many runs."""

    uri: str
    experiment_id: str
    created: int = 0
    completed: int = 0
    """Runs that were begun while their network trained."""
    replaced: int = 0
    kept: int = 0
    deleted: int = 0

    def __str__(self) -> str:
        return (
            f"{self.created} created, {self.completed} completed, {self.replaced} replaced, {self.kept} kept,"
            f" {self.deleted} deleted"
        )


def sync(config: Config, layout: Layout) -> Summary:
    """Mirror the tables, figures and report of a study into MLflow.

    A run is known by the tag ``ncpipe.id`` and whole once it has ended and bears ``ncpipe.digest``, a hash of all
    that is logged in it. So a sync may be killed and repeated at will, and one without news writes nothing. A store
    that cannot be used raises ``UserError``; the results on disk are only read.
    """
    records = StudyRecords(config, layout)
    follow(config.tracking.uri, layout.mlflow)
    with opened(config, layout) as store:
        return Writer(store, study_key(config)).write(records)


class Writer:
    """What writes the runs of one study into its store.

    Args:
        study: the study's key.
        logged: points of MLflow's runs, by their id; filled in by the writer and kept by whoever writes again.
    """

    def __init__(self, store: Store, study: str, logged: dict[str, set[Point]] | None = None) -> None:
        self.store, self.client, self.study = store, store.client, study
        self.summary = Summary(store.uri, store.experiment)
        self.mlflow_ids: dict[str, str] = {}
        """MLflow's ids of the runs that are in place, by ncpipe's."""
        self.logged = {} if logged is None else logged

    def write(self, records: StudyRecords) -> Summary:
        existing = study_runs(self.store, self.study)
        with progress("mlflow", len(records)) as update:
            for done, record in enumerate(records, start=1):
                self._bring_in_line(record, existing.pop(record.id, []))
                update(done, record.id)
        for stale in existing.values():
            self.summary.deleted += self._delete(stale)
        self._show(records)
        return self.summary

    def _show(self, records: StudyRecords) -> None:
        """The views that links open, one for every kind of run that there is."""
        tags = self.client.get_experiment(self.store.experiment).tags
        for kind in VIEWS:
            settings = [params(row) for row in records.rows if row["kind"] == kind]
            if settings and tags.get(view_tag(kind)) != (view := runs_view(kind, settings)):
                self.client.set_experiment_tag(self.store.experiment, view_tag(kind), view)

    def show(self, record: RunRecord, ended: bool = False) -> None:
        """Bring the run of a network that trains up to its last epoch; of the study only see that there is a run."""
        present = study_runs(self.store, self.study, record.id).get(record.id, [])
        if ended and any(DIGEST in run.data.tags for run in present):
            return  # a sync was faster
        begun = [run for run in present if record.parent is None or self._is_begun(run, record)][:1]
        self._delete(run for run in present if run not in begun and record.parent)
        run_id = begun[0].info.run_id if begun else self._new(record, {LIVE: "true"})
        self.mlflow_ids[record.id] = run_id
        if record.parent is None:
            return
        if begun:
            self._hang_beneath(begun[0], record)
        params = [] if begun else [Param(key, value) for key, value in record.params.items()]
        self.client.log_batch(run_id, self._missing(run_id, record), params)
        self.logged[run_id] = set(record.points)
        if ended:
            self.client.set_terminated(run_id, "FINISHED", record.end)
        elif begun and begun[0].info.status != "RUNNING":
            self.client.update_run(run_id, "RUNNING")

    def _bring_in_line(self, record: RunRecord, present: list[Run]) -> None:
        digest = record.digest()
        ended = [run for run in present if run.info.status == "FINISHED"]
        whole = [run for run in ended if run.data.tags.get(DIGEST) == digest]
        begun = [] if whole else [run for run in present if self._is_begun(run, record)]
        self._delete(run for run in present if run not in (whole + begun)[:1])
        if whole:
            self._hang_beneath(whole[0], record)
            self.mlflow_ids[record.id] = whole[0].info.run_id
            self.summary.kept += 1
        elif begun:
            self.mlflow_ids[record.id] = run_id = begun[0].info.run_id
            # First, so that a run left half complete is replaced by the next sync.
            self.client.delete_tag(run_id, LIVE)
            self._fill(run_id, record, self._tags(record) | {DIGEST: digest})
            self.summary.completed += 1
        else:
            self.mlflow_ids[record.id] = run_id = self._new(record, {})
            self._fill(run_id, record, {DIGEST: digest})
            self.summary.replaced += bool(present)
            self.summary.created += not present

    def _hang_beneath(self, run: Run, record: RunRecord) -> None:
        # A replaced parent has a new id in MLflow, which is no news of the child and not in its digest.
        for key, value in self._parent(record).items():
            if run.data.tags.get(key) != value:
                self.client.set_tag(run.info.run_id, key, value)

    def _parent(self, record: RunRecord) -> dict[str, str]:
        return {PARENT: self.mlflow_ids[record.parent]} if record.parent else {}

    def _is_begun(self, run: Run, record: RunRecord) -> bool:
        """Whether all that a live run holds is in the record, so that only the rest has to be written."""
        if LIVE not in run.data.tags or (run.info.run_name, run.info.start_time) != (record.name, record.start):
            return False
        return run.data.params.items() <= record.params.items() and self._logged(run) <= set(record.points)

    def _logged(self, run: Run) -> set[Point]:
        run_id = run.info.run_id
        if run_id not in self.logged:
            histories = (self.client.get_metric_history(run_id, key) for key in run.data.metrics)
            self.logged[run_id] = {
                Point(p.key, p.value, p.timestamp, p.step) for history in histories for p in history
            }
        return self.logged[run_id]

    def _missing(self, run_id: str, record: RunRecord) -> list[Metric]:
        logged = self.logged[run_id]
        return [Metric(*point) for point in record.points if point not in logged]

    def _new(self, record: RunRecord, marks: dict[str, str]) -> str:
        tags = self._tags(record) | marks
        run = self.client.create_run(self.store.experiment, record.start, tags, record.name)
        self.logged[run.info.run_id] = set()
        return str(run.info.run_id)

    def _tags(self, record: RunRecord) -> dict[str, str]:
        of_ours = {ID: record.id, STUDY: self.study, "mlflow.source.name": "ncpipe"}
        tags = of_ours | self._parent(record) | record.tags | record.origin
        return {key: value[:MAX_TAG_CHARACTERS] for key, value in tags.items()}

    def _fill(self, run_id: str, record: RunRecord, tags: dict[str, str]) -> None:
        """Write what hangs on the run, then its missing values and ``tags``, and end it: an ended run is whole."""
        if record.data:
            context = [InputTag("mlflow.data.context", "training")]
            self.client.log_inputs(run_id, [DatasetInput(Dataset(source_type="local", **record.data), context)])
        self._log_artifacts(run_id, record.artifacts)
        for picture in record.pictures:
            self.client.log_image(
                run_id, PIL.Image.open(io.BytesIO(picture.content())), key=picture.name, step=0, timestamp=record.end
            )
        params = [Param(key, value) for key, value in record.params.items()]
        marks = [RunTag(key, value) for key, value in tags.items()]
        self.client.log_batch(run_id, self._missing(run_id, record), params, marks)
        # Divergence is a result: no run is FAILED, which would say that running it again could help.
        self.client.set_terminated(run_id, "FINISHED", record.end)

    def _log_artifacts(self, run_id: str, artifacts: Iterable[Artifact]) -> None:
        if not artifacts:
            return
        with tempfile.TemporaryDirectory() as folder:
            for artifact in artifacts:
                path = Path(folder) / artifact.name
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(artifact.content())
            self.client.log_artifacts(run_id, folder)

    def _delete(self, runs: Iterable[Run]) -> int:
        """Remove runs with their artifacts, as ``mlflow gc`` does; behind a tracking server only its operator can."""
        listed = list(runs)
        for run in listed:
            self.client.delete_run(run.info.run_id)
            if is_database(self.store.uri):
                get_artifact_repository(run.info.artifact_uri).delete_artifacts()
                SqlAlchemyStore(self.store.uri, run.info.artifact_uri)._hard_delete_run(run.info.run_id)
        return len(listed)
