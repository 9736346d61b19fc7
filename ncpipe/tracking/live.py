"""Networks shown in MLflow while they train: a process beside the jobs that reads what they write."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout

from ncpipe.records.epoch_log import Epoch, log_path, read_epochs
from ncpipe.records.schemas import TIMINGS
from ncpipe.stages.tables import planned_networks
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.tracking.client import Metric, MlflowClient, Param, locked, store_errors
from ncpipe.tracking.clock import Clock, clocks
from ncpipe.tracking.experiment import ID, LIVE, PARENT, STUDY, open_experiment, study_runs, write_lock
from ncpipe.tracking.notes import run_name
from ncpipe.tracking.points import HISTORY_KEYS, Point, history_points, run_points
from ncpipe.tracking.records import params, run_tags, study_id, study_key
from ncpipe.tracking.store import create_store
from ncpipe.tracking.sync import delete

Row = dict[str, Any]

INTERVAL = 2.0
"""Seconds between two looks at the runs."""
SHARE = 0.1
"""Of the time that looking may take: where it is slow, looks are rarer."""
PATIENCE = 30.0
"""Seconds that a store which failed is left alone."""


def watch(study: Study, parent: int | None = None) -> None:
    """Show the networks of ``study`` in MLflow while they train, until ``parent`` has ended, or until told to stop.

    Best effort: a store that does not answer is asked again later, and what is missed is written by the sync at the
    end. Training knows nothing of it. One process a study watches; another soon ends.
    """
    signal.signal(signal.SIGTERM, _stop)
    try:
        # One of a Snakemake that was killed a moment ago is about to end.
        with FileLock(study.layout.mlflow / ".live.lock", timeout=5 * INTERVAL):
            _watch(LiveMirror(study), parent)
    except Timeout:
        print("another process shows this study's networks in MLflow already", file=sys.stderr)


def _stop(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _watch(mirror: LiveMirror, parent: int | None) -> None:
    try:
        while _lives(parent):
            start = time.monotonic()
            pause = INTERVAL if _tried(mirror.update) else PATIENCE
            until = time.monotonic() + max(pause, (time.monotonic() - start) / SHARE)
            while _lives(parent) and time.monotonic() < until:
                time.sleep(INTERVAL / 4)
    except KeyboardInterrupt:
        pass
    _tried(mirror.update)
    _tried(mirror.leave)


def _lives(parent: int | None) -> bool:
    return parent is None or os.getppid() == parent


def _tried(action: Callable[[], None]) -> bool:
    try:
        action()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return False
    return True


@dataclass
class LiveRun:
    """A run in MLflow of a network that trains."""

    mlflow_id: str
    epochs: int = 0
    """Of how many epochs it holds the points."""
    ended: bool = False


@dataclass
class LiveMirror:
    """The networks of a study that train, in MLflow."""

    study: Study
    runs: dict[str, LiveRun] = field(default_factory=dict)
    """By run id."""
    rows: dict[str, Row] = field(default_factory=dict)
    """Of the ``runs`` table, of all planned networks."""

    def update(self) -> None:
        """Write the epochs that have come since the last look. ``UserError`` where the store cannot be used."""
        news = {run_id: epochs for run_id, epochs in self._epochs() if len(epochs) > self._known(run_id)}
        ended = [run_id for run_id, run in self.runs.items() if not run.ended and not self._trains(run_id)]
        if not news and not ended:
            return
        with self._writing() as (client, experiment, uri):
            for run_id, epochs in news.items():
                if run_id not in self.runs:
                    self.runs[run_id] = self._begin(client, experiment, uri, run_id, epochs)
                try:
                    self._log(client, run_id, epochs)
                except Exception:
                    del self.runs[run_id]  # it may have been deleted: the next look finds it or begins another
                    raise
            for run_id in ended:
                self._end(client, run_id)

    def leave(self) -> None:
        """Mark the runs whose training has stopped midway."""
        stopped = [run for run in self.runs.values() if not run.ended]
        if stopped:
            with self._writing() as (client, _, _):
                for run in stopped:
                    client.update_run(run.mlflow_id, "KILLED")

    def _epochs(self) -> Iterator[tuple[str, list[Epoch]]]:
        for run_id in self.study.networks:
            if self._trains(run_id) or (run_id in self.runs and not self.runs[run_id].ended):
                yield run_id, read_epochs(self.study.layout.run(run_id))

    def _trains(self, run_id: str) -> bool:
        return log_path(self.study.layout.run(run_id)).exists()

    def _known(self, run_id: str) -> int:
        return self.runs[run_id].epochs if run_id in self.runs else 0

    @contextmanager
    def _writing(self) -> Iterator[tuple[MlflowClient, str, str]]:
        config, layout = self.study.config, self.study.layout
        uri = create_store(config.tracking.uri, layout.mlflow)
        with store_errors(uri), locked(write_lock(layout)):
            yield MlflowClient(uri), open_experiment(uri, config, layout), uri

    def _begin(self, client: MlflowClient, experiment: str, uri: str, run_id: str, epochs: list[Epoch]) -> LiveRun:
        """The run of a network: that which was begun by an earlier watcher, or a new one in place of an old one."""
        found = study_runs(client, experiment, study_key(self.study.config))
        parent = found.get(study_id(self.study.config), [])
        parent_id = parent[0].info.run_id if parent else self._begin_study(client, experiment)
        for run in found.get(run_id, []):
            if LIVE in run.data.tags:
                client.update_run(run.info.run_id, "RUNNING")
                return LiveRun(run.info.run_id, _held(client, run.info.run_id))
            delete(client, uri, run)  # of a network that is trained again
        row = self._row(run_id)
        tags = self._tags(run_id) | run_tags(row | {"status": "training"}) | {"stage": "train", PARENT: parent_id}
        start = _clock(run_id, epochs).start
        created = client.create_run(experiment, start, tags, run_name(row))
        client.log_batch(created.info.run_id, params=[Param(key, value) for key, value in params(row).items()])
        return LiveRun(created.info.run_id)

    def _begin_study(self, client: MlflowClient, experiment: str) -> str:
        config = self.study.config
        tags = self._tags(study_id(config)) | {"kind": "study", "stage": "study"}
        created = client.create_run(experiment, None, tags, study_key(config))
        return str(created.info.run_id)

    def _tags(self, run_id: str) -> dict[str, str]:
        study = study_key(self.study.config)
        return {ID: run_id, STUDY: study, LIVE: "true", "mlflow.source.name": "ncpipe"}

    def _row(self, run_id: str) -> Row:
        if not self.rows:
            self.rows = {row["run_id"]: row for row in planned_networks(self.study)}
        return self.rows[run_id]

    def _log(self, client: MlflowClient, run_id: str, epochs: list[Epoch]) -> None:
        run = self.runs[run_id]
        points = epoch_points(run_id, epochs, run.epochs)
        client.log_batch(run.mlflow_id, [Metric(*point) for point in points])
        run.epochs = len(epochs)

    def _end(self, client: MlflowClient, run_id: str) -> None:
        run, epochs = self.runs[run_id], read_epochs(self.study.layout.run(run_id))
        if not epochs:
            return  # its folder was removed: the run is not there to be ended
        client.set_terminated(run.mlflow_id, "FINISHED", _clock(run_id, epochs).end)
        run.ended = True


def _held(client: MlflowClient, mlflow_id: str) -> int:
    """Of how many epochs an earlier watcher has written the points."""
    return len(client.get_metric_history(mlflow_id, HISTORY_KEYS["learning_rate"]))


def _clock(run_id: str, epochs: list[Epoch]) -> Clock:
    """As the ``timings`` table will give it."""
    rows = [
        {
            "run_id": run_id,
            "time": epoch["time"],
            "seconds": epoch["seconds"],
            "finished_at": datetime.fromtimestamp(epoch["finished_at"], UTC),
        }
        for epoch in epochs
    ]
    return clocks(pa.Table.from_pylist(rows, schema=TIMINGS))[run_id]


def epoch_points(run_id: str, epochs: list[Epoch], known: int = 0) -> list[Point]:
    """Points of the epochs after the first ``known``, equal to those that the sync will make of the tables."""
    rows = [
        {"run_id": run_id, "time": epoch["time"], "quantity": quantity, "value": value}
        for epoch in epochs[known:]
        for quantity, value in epoch.items()
        if quantity in HISTORY_KEYS
    ]
    frame = pd.DataFrame(rows, columns=["run_id", "time", "quantity", "value"])
    return run_points(history_points(frame), _clock(run_id, epochs))
