"""Networks shown in MLflow while they train: a process beside the jobs that reads what they write."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from functools import cached_property

import pandas as pd
from filelock import FileLock, Timeout

from ncpipe.records.epoch_log import Epoch, log_path, read_epochs
from ncpipe.stages.tables import planned_networks
from ncpipe.study.study import Study
from ncpipe.system import process
from ncpipe.system.errors import UserError
from ncpipe.tracking.clock import spans, timed
from ncpipe.tracking.experiment import LIVE, opened, study_runs
from ncpipe.tracking.notes import Row, run_name
from ncpipe.tracking.points import Point, history_points, run_points
from ncpipe.tracking.records import STAGES, RunRecord, params, run_tags, study_id, study_key
from ncpipe.tracking.sync import Writer

INTERVAL = 2.0
"""Seconds between two looks at the runs."""
SHARE = 0.1
"""Share of the time that looking may take: where it is slow, looks are rarer."""
PATIENCE = 30.0
"""Seconds that a store which failed is left alone."""


def watch(study: Study, parent: int | None = None) -> None:
    """Show the networks of ``study`` in MLflow while they train, until ``parent`` has ended, or until told to stop.

    Best effort: a store that does not answer is asked again later, and what is missed is written by the sync at the
    end. Training knows nothing of it. One process a study watches; another soon ends.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        # One of a Snakemake that was killed a moment ago is about to end.
        with FileLock(study.layout.mlflow / ".live.lock", timeout=5 * INTERVAL):
            _watch(LiveMirror(study), parent)
    except Timeout:
        print("another process shows this study's networks in MLflow already", file=sys.stderr)


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
    return parent is None or process.parent() == parent


def _tried(action: Callable[[], None]) -> bool:
    try:
        action()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
        return False
    return True


class LiveMirror:
    """The networks of a study that train, in MLflow: as the sync will write them, from the epochs that they have."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.epochs: dict[str, int] = {}
        """How many epochs MLflow has of the networks that train, by run id."""
        self.logged: dict[str, set[Point]] = {}

    @cached_property
    def rows(self) -> dict[str, Row]:
        """Rows of the ``runs`` table of all planned networks."""
        return {row["run_id"]: row for row in planned_networks(self.study)}

    def update(self) -> None:
        """Write the epochs that have come since the last look. ``UserError`` where the store cannot be used."""
        trains = {run_id for run_id in self.study.networks if log_path(self.study.layout.run(run_id)).exists()}
        looked_at = [run_id for run_id in self.study.networks if run_id in trains or run_id in self.epochs]
        epochs = {run_id: read_epochs(self.study.layout.run(run_id)) for run_id in looked_at}
        news = [i for i in looked_at if epochs[i] and (i not in trains or len(epochs[i]) > self.epochs.get(i, 0))]
        if not news:
            return
        records = {run_id: self._record(run_id, epochs[run_id]) for run_id in news}
        config = self.study.config
        start = min(record.start for record in records.values())
        whole = RunRecord(
            study_id(config), study_key(config), None, start, start, {"kind": "study", "stage": "study"}
        )
        try:
            with opened(config, self.study.layout) as store:
                writer = Writer(store, study_key(config), self.logged)
                writer.show(whole)
                for run_id, record in records.items():
                    writer.show(record, ended=run_id not in trains)
                    self.epochs[run_id] = len(epochs[run_id])
                    if run_id not in trains:
                        del self.epochs[run_id]
                        self.logged.pop(writer.mlflow_ids.get(run_id, ""), None)
        except UserError:
            self.logged.clear()  # the store that comes back may be another
            raise

    def leave(self) -> None:
        """Mark the runs whose training has stopped midway."""
        if self.epochs:
            with opened(self.study.config, self.study.layout) as store:
                for run_id in self.epochs:
                    for run in study_runs(store, study_key(self.study.config), run_id).get(run_id, []):
                        if LIVE in run.data.tags:
                            store.client.update_run(run.info.run_id, "KILLED")

    def _record(self, run_id: str, epochs: list[Epoch]) -> RunRecord:
        row = self.rows[run_id]
        frame = pd.DataFrame(epochs).assign(run_id=run_id)
        # In whole milliseconds, as the table has them.
        timings = frame.assign(finished_at=(frame["finished_at"] * 1e6).round().astype("int64") // 1000)
        span = spans(timings)[run_id]
        history = history_points(frame.melt(["run_id", "time"], var_name="quantity"))
        return RunRecord(
            id=run_id,
            name=run_name(row),
            parent=study_id(self.study.config),
            start=span.start,
            end=span.end,
            tags=run_tags(row | {"status": "training"}) | {"stage": STAGES["network"]},
            params=params(row),
            points=run_points(timed(history, timings), span.start),
        )
