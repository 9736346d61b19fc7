"""Networks shown in MLflow while they train, and completed by the sync."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run

from ncpipe.records.epoch_log import EpochLog, log_path, read_epochs
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_history, write_rows, write_timings
from ncpipe.stages.tables import planned_networks
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_json, write_tensors, write_text
from ncpipe.tracking.live import LiveMirror, watch
from ncpipe.tracking.register import register
from ncpipe.tracking.sync import sync

START = 1_750_000_000.25
TIMINGS = ("seconds", "finished_at", "images_per_second")


def epoch(number: int, loss: float | None = None, late: float = 0.0) -> dict[str, float]:
    return {
        "time": number, "train_loss": 1 / number if loss is None else loss, "train_accuracy": 0.5, "test_loss": 0.7,
        "test_accuracy": 0.4, "learning_rate": 0.1, "seconds": 2.0001, "images_per_second": 10.0,
        "finished_at": START + 2.0003 * number + late,
    }  # fmt: skip


class Training:
    """A study of two networks, whose jobs are played by the test."""

    def __init__(self, results: Path, **tracking: object) -> None:
        model = {"name": "mlp", "width": 8, "depth": 2}
        network = {"model": model, "loss": {"name": "mse"}, "optimizer": {"name": "sgd", "lr": 0.1}, "epochs": 3}
        self.study = Study(
            {
                "study": {"name": "tiny", "results": str(results)},
                "datasets": {"base": {"name": "digits"}},
                "networks": {"base": network, "sweep": {"grid": {"seed": [0, 1]}}},
                "ufm": {"matched": []},
                "tracking": tracking,
            }
        )
        self.ids = list(self.study.networks)
        self.mirror = LiveMirror(self.study)

    def folder(self, number: int) -> Path:
        return self.study.layout.run(self.ids[number])

    def log(self, number: int, *epochs: dict[str, float]) -> None:
        log = EpochLog(self.folder(number))
        log.begin([])
        for row in epochs:
            log.add(row)

    def publish(self, number: int) -> None:
        rows, run_id = read_epochs(self.folder(number)), self.ids[number]
        history = [{name: value for name, value in row.items() if name not in TIMINGS} for row in rows]
        timings = [{name: row[name] for name in ("time", *TIMINGS)} for row in rows]
        write_history(self.folder(number) / "history.parquet", "net", {run_id: history})
        write_timings(self.folder(number) / "timings.parquet", "train", {run_id: timings})
        EpochLog(self.folder(number)).remove()

    def write_tables(self) -> None:
        """As the tables stage makes them of networks that have ended, with no collapse measured."""
        layout = self.study.layout
        rows = [row | {"status": "done", "parameters": 9, "device": "cpu"} for row in planned_networks(self.study)]
        for name, schema in TABLES.items():
            write_rows(layout.tables / f"{name}.parquet", schema, rows if name == "runs" else [])
        for name in ("history", "timings"):
            shutil.copy(self.folder(0) / f"{name}.parquet", layout.tables / f"{name}.parquet")

    def runs(self, study: "Training | None" = None) -> dict[str, Run]:
        client = self.client
        experiment = client.get_experiment_by_name("tiny")
        if experiment is None:
            return {}
        found = client.search_runs([experiment.experiment_id])
        runs = {run.data.tags["ncpipe.id"]: run for run in found}
        assert len(runs) == len(found)
        return runs

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(f"sqlite:///{self.study.layout.mlflow / 'mlflow.db'}")

    def points(self, number: int, key: str) -> list[tuple[int, float, int]]:
        run = self.runs()[self.ids[number]]
        history = self.client.get_metric_history(run.info.run_id, key)
        return sorted((point.step, point.value, point.timestamp) for point in history)


@pytest.fixture
def training(tmp_path: Path, empty_store: Path) -> Training:
    made = Training(tmp_path / "results")
    made.study.layout.mlflow.mkdir(parents=True)
    shutil.copy(empty_store, made.study.layout.mlflow / "mlflow.db")
    return made


# --- the file of epochs --------------------------------------------------------------------------


def test_the_epochs_of_a_run_are_equal_while_it_trains_and_when_it_is_published(training: Training) -> None:
    assert read_epochs(training.folder(0)) == []
    training.log(0, epoch(1), epoch(2))
    live = read_epochs(training.folder(0))
    assert live == [epoch(1), epoch(2)]
    training.publish(0)
    published = read_epochs(training.folder(0))
    for row, before in zip(published, live, strict=True):
        assert abs(row["finished_at"] - before["finished_at"]) < 1e-3, "tables hold milliseconds"
        assert row["train_loss"] == before["train_loss"]


def test_a_line_that_is_being_written_is_left_for_later(training: Training) -> None:
    training.log(0, epoch(1))
    with log_path(training.folder(0)).open("a") as stream:
        stream.write(json.dumps(epoch(2))[:20])
    assert read_epochs(training.folder(0)) == [epoch(1)]


def test_a_log_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "")
    log = EpochLog(tmp_path / "file")
    log.begin([epoch(1)])
    log.add(epoch(2))
    log.remove()


# --- the live mirror -----------------------------------------------------------------------------


def test_a_training_shows_its_epochs_as_they_come(training: Training) -> None:
    training.log(0, epoch(1))
    training.mirror.update()
    runs = training.runs()
    assert set(runs) == {"study-tiny", training.ids[0]}
    run = runs[training.ids[0]]
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "s0 mlp MSE bias"
    assert run.data.params["width"] == "8"
    assert run.data.tags["mlflow.parentRunId"] == runs["study-tiny"].info.run_id
    assert run.data.tags["status"] == "training"
    training.log(0, epoch(1), epoch(2))
    training.mirror.update()
    assert training.points(0, "train/loss") == [
        (1, 1.0, int(1000 * (START + 2.0003))),
        (2, 0.5, int(1000 * (START + 4.0006))),
    ]
    before = (training.study.layout.mlflow / "mlflow.db").stat().st_mtime_ns
    training.mirror.update()
    assert (training.study.layout.mlflow / "mlflow.db").stat().st_mtime_ns == before, "no news, nothing written"


def test_the_sync_completes_what_was_begun_and_equals_one_from_nothing(training: Training, tmp_path: Path) -> None:
    training.log(0, epoch(1), epoch(2))
    training.mirror.update()
    begun = training.runs()[training.ids[0]].info.run_id
    training.log(0, epoch(1), epoch(2), epoch(3))
    training.publish(0)
    training.mirror.update()
    ended = training.runs()[training.ids[0]]
    assert (ended.info.status, ended.data.metrics["train/loss"]) == ("FINISHED", 1 / 3)
    training.write_tables()
    done = sync(training.study.config, training.study.layout)
    assert (done.completed, done.replaced, done.created) == (2, 0, 1)
    run = training.runs()[training.ids[0]]
    assert run.info.run_id == begun
    again = sync(training.study.config, training.study.layout)
    assert (again.kept, again.created + again.completed + again.replaced) == (3, 0)
    # The same study in a store of its own.
    fresh = training.study.config.model_copy(
        update={"tracking": training.study.config.tracking.model_copy(update={"uri": f"sqlite:///{tmp_path}/new.db"})}
    )
    sync(fresh, training.study.layout)
    client = MlflowClient(f"sqlite:///{tmp_path}/new.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    rebuilt = {r.data.tags["ncpipe.id"]: r for r in client.search_runs([experiment.experiment_id])}[training.ids[0]]
    ignored = {"mlflow.parentRunId"}
    assert {k: v for k, v in rebuilt.data.tags.items() if k not in ignored} == {
        k: v for k, v in run.data.tags.items() if k not in ignored
    }
    assert (rebuilt.data.params, rebuilt.data.metrics) == (run.data.params, run.data.metrics)
    assert (rebuilt.info.start_time, rebuilt.info.end_time) == (run.info.start_time, run.info.end_time)
    history = client.get_metric_history(rebuilt.info.run_id, "train/loss")
    assert sorted((p.step, p.value, p.timestamp) for p in history) == training.points(0, "train/loss")


def test_a_run_that_lost_epochs_and_trained_them_again_is_replaced(training: Training) -> None:
    training.log(0, epoch(1), epoch(2))
    training.mirror.update()
    training.log(0, epoch(1), epoch(2, late=60.0), epoch(3, late=60.0))
    training.mirror.update()
    training.publish(0)
    training.mirror.update()
    assert [value for _, value, _ in training.points(0, "train/loss")] == [1.0, 0.5, 1 / 3]
    training.write_tables()
    done = sync(training.study.config, training.study.layout)
    assert (done.completed, done.replaced) == (2, 0)
    assert [step for step, _, _ in training.points(0, "train/loss")] == [1, 2, 3]


def test_a_second_watcher_goes_on_with_the_run(training: Training) -> None:
    training.log(0, epoch(1))
    training.mirror.update()
    training.mirror.leave()
    begun = training.runs()[training.ids[0]]
    assert begun.info.status == "KILLED"
    training.mirror = LiveMirror(training.study)
    training.log(0, epoch(1), epoch(2))
    training.mirror.update()
    run = training.runs()[training.ids[0]]
    assert (run.info.run_id, run.info.status) == (begun.info.run_id, "RUNNING")
    assert [step for step, _, _ in training.points(0, "train/loss")] == [1, 2]


def test_what_a_sync_has_completed_is_left_as_it_is(training: Training) -> None:
    training.log(0, epoch(1))
    training.mirror.update()
    training.publish(0)
    training.write_tables()
    sync(training.study.config, training.study.layout)
    synced = training.runs()[training.ids[0]]
    training.mirror.update()  # which sees only now that the training has ended
    training.mirror.leave()
    run = training.runs()[training.ids[0]]
    assert (run.info.run_id, run.info.status, run.data.tags) == (synced.info.run_id, "FINISHED", synced.data.tags)


def test_a_network_that_is_trained_again_has_one_run(training: Training) -> None:
    training.log(0, epoch(1))
    training.publish(0)
    training.write_tables()
    sync(training.study.config, training.study.layout)
    old = training.runs()[training.ids[0]].info.run_id
    training.log(0, epoch(1, loss=9.0))
    training.mirror.update()
    assert training.runs()[training.ids[0]].info.run_id != old


def test_infinite_losses_are_left_out(training: Training) -> None:
    training.log(0, epoch(1), epoch(2, loss=float("inf")), epoch(3, loss=float("nan")))
    training.mirror.update()
    assert [step for step, _, _ in training.points(0, "train/loss")] == [1]
    assert len(training.points(0, "learning_rate")) == 3


def test_a_store_that_comes_back_gets_what_it_missed(training: Training, monkeypatch: pytest.MonkeyPatch) -> None:
    training.log(0, epoch(1))
    training.mirror.update()
    database = training.study.layout.mlflow / "mlflow.db"
    kept = database.read_bytes()
    database.write_text("this is no database, " * 1000)
    training.log(0, epoch(1), epoch(2))
    with pytest.raises(UserError, match="MLflow store"):
        training.mirror.update()
    for path in database.parent.glob("mlflow.db-*"):
        path.unlink()
    database.write_bytes(kept)
    training.mirror.update()
    assert [step for step, _, _ in training.points(0, "train/loss")] == [1, 2]


def test_a_run_that_was_deleted_in_mlflow_comes_back(training: Training) -> None:
    training.log(0, epoch(1))
    training.mirror.update()
    training.client.delete_run(training.runs()[training.ids[0]].info.run_id)
    training.log(0, epoch(1), epoch(2))
    training.mirror.update()
    assert [step for step, _, _ in training.points(0, "train/loss")] == [1, 2]


# --- the model registry --------------------------------------------------------------------------


def test_weights_are_registered_once(training: Training) -> None:
    with pytest.raises(UserError, match="no network 'other'"):
        register(training.study, "other")
    with pytest.raises(UserError, match="no weights in"):
        register(training.study, training.ids[0])
    training.log(0, epoch(1))
    training.publish(0)
    weights = training.folder(0) / "model.safetensors"
    write_tensors(weights, {"weight": torch.zeros(2)})
    record = {"status": "done", "final_epoch": 1, "parameters": 9, "device": "cpu", "precision": "float32"}
    write_json(training.folder(0) / "spec.json", record)
    with pytest.raises(UserError, match="ncpipe sync"):
        register(training.study, training.ids[0])
    training.write_tables()
    sync(training.study.config, training.study.layout)
    assert register(training.study, training.ids[0]) == ("tiny", "1")
    assert register(training.study, training.ids[0]) == ("tiny", "1")
    assert register(training.study, training.ids[0], "best") == ("best", "1")
    write_tensors(weights, {"weight": torch.ones(2)})
    assert register(training.study, training.ids[0]) == ("tiny", "2")
    version = training.client.get_model_version("tiny", "2")
    file = Path(version.source.removeprefix("file://")) / "model.safetensors"
    assert file.read_bytes() == weights.read_bytes()
    assert sync(training.study.config, training.study.layout).kept == 3, "registered weights are no news to the sync"


# --- the process ---------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.slow
def test_the_watcher_ends_with_its_parent_and_is_alone(training: Training) -> None:
    path = training.study.layout.results / "study.json"
    write_text(path, training.study.config.model_dump_json())
    parent = subprocess.Popen(["bash", "-c", f"{sys.executable} -m ncpipe live {path} --parent $$ & cat; exit 0"],
                              stdin=subprocess.PIPE, start_new_session=True)  # fmt: skip
    training.log(0, epoch(1))
    deadline = time.monotonic() + 120
    while len(training.runs()) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert training.runs()[training.ids[0]].info.status == "RUNNING"
    watch(training.study, parent=os.getppid())  # returns: the other has the lock
    assert parent.stdin is not None
    parent.stdin.close()
    parent.wait(30)
    while training.runs()[training.ids[0]].info.status != "KILLED" and time.monotonic() < deadline:
        time.sleep(0.5)
    assert training.runs()[training.ids[0]].info.status == "KILLED"
