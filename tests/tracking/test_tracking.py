"""The MLflow mirror: what it shows, that it repeats and survives anything, and what a dead store says."""

import fcntl
import json
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import PIL.Image
import pytest
import sqlalchemy
from mlflow import MlflowClient
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_rows
from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.system.credentials import redacted
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, write_json
from ncpipe.tracking import store
from ncpipe.tracking.notes import study_note
from ncpipe.tracking.points import MAX_METRIC_KEYS
from ncpipe.tracking.records import StudyRecords
from ncpipe.tracking.store import create_store, follow
from ncpipe.tracking.sync import sync
from ncpipe.tracking.ui import serving, ui_command, ui_environment
from ncpipe.tracking.view import study_page

Row = dict[str, Any]
Dump = dict[str, list[Any]]

ROOT = Path(__file__).parents[2]
START = 1_750_000_000
EPOCHS = 3
METADATA = {"git_commit": "abc123", "study_hash": "0123abcd", "ncpipe_version": "0.1.0"}


def network_row(run_id: str, seed: int, status: str = "done") -> Row:
    return {
        "source": "net", "run_id": run_id, "kind": "network", "status": status, "label": "mlp MSE no bias",
        "dataset": "digits", "model": "mlp", "batch_norm": True, "batch_size": 128, "learning_rate": 0.05,
        "weight_decay": [5e-4], "seed": seed, "settings": "{}", "epochs": EPOCHS, "device": "cpu",
        "final_epoch": EPOCHS, "final_train_loss": 0.1, "zero_error_epoch": 2,
    }  # fmt: skip


def ufm_row(run_id: str, kind: str, network: str | None = None) -> Row:
    return {
        "source": "ufm", "run_id": run_id, "kind": kind, "network_id": network, "status": "done",
        "label": f"{kind} plain", "model": "plain", "weight_decay": [0.002, 0.003], "settings": "{}",
    }  # fmt: skip


def fit_row(run_id: str, kind: str, network: str | None = None) -> Row:
    matched = {"predicted_loss": 0.11, "measured_loss": 0.1} if kind == "matched" else {}
    return {"run_id": run_id, "kind": kind, "network_id": network, "status": "done", "value": 0.25, "gap": 1e-12,
            "iterations": 50, "basis": "Theorem 3.1", **matched}  # fmt: skip


def history_rows(run_id: str, source: str, values: dict[str, list[float]]) -> list[Row]:
    return [
        {"source": source, "run_id": run_id, "time": time, "quantity": quantity, "value": value}
        for quantity, series in values.items()
        for time, value in enumerate(series, start=1)
    ]


def collapse_rows(run_id: str, source: str, splits: tuple[str, ...], metrics: dict[str, float]) -> list[Row]:
    return [
        {"source": source, "run_id": run_id, "split": split, "layer": layer, "depth": depth, "time": time,
         "metric": metric, "value": value / (1 + time), "rank": 9, "condition": 0.5}
        for split in splits
        for depth, layer in enumerate(("layer1", "features"), start=1)
        for time in (0, 1, EPOCHS)
        for metric, value in metrics.items()
    ]  # fmt: skip


def timing_rows(run_id: str, stage: str, begin: int, times: range | tuple[int, ...]) -> list[Row]:
    return [
        {"run_id": run_id, "stage": stage, "time": time, "seconds": 2.0,
         "finished_at": datetime.fromtimestamp(begin + 2 * time, UTC)}
        for time in times
    ]  # fmt: skip


def small_tables() -> dict[str, list[Row]]:
    """Two networks, one of them diverged, a matched and a declared UFM, and a network that never ran."""
    metrics = {"nc1_pinv": 4.0, "nc2_means_of": 0.5, "undefined": float("nan"), "loss": 0.2}
    return {
        "runs": [
            network_row("net-a", 0),
            network_row("net-b", 1, "diverged"),
            network_row("net-c", 2, "missing"),
            ufm_row("ufm-d", "declared"),
            ufm_row("matched-a", "matched", "net-a"),
        ],
        "history": [
            *history_rows("net-a", "net", {"train_loss": [1.0, 0.5, 0.25], "test_accuracy": [0.5, 0.6, 0.7]}),
            *history_rows("net-b", "net", {"train_loss": [1.0, float("inf"), float("nan")]}),
            *history_rows("ufm-d", "ufm", {"objective": [0.9, 0.3], "gap": [0.6, 1e-9]}),
        ],
        "collapse": [
            *collapse_rows("net-a", "net", ("train", "test"), metrics),
            *collapse_rows("ufm-d", "ufm", ("train",), metrics),
        ],
        "ufm": [fit_row("ufm-d", "declared"), fit_row("matched-a", "matched", "net-a")],
        "claims": [
            {"claim_id": "tirer2022-1", "statement": "|W| ends at an OF.", "effect": 0.01, "count": 3, "holds": 3,
             "interval_low": 0.001, "interval_high": 0.02, "verdict": "supported"},
            {"claim_id": "tirer2022-2", "statement": "No run speaks of it.", "count": 0, "verdict": "undecided"},
        ],
        "timings": [
            *timing_rows("net-a", "train", START, range(1, EPOCHS + 1)),
            *timing_rows("net-b", "train", START + 100, (1, 2)),
            *timing_rows("ufm-d", "ufm", START + 200, (50,)),
        ],
    }  # fmt: skip


class Study:
    """A study on disk without a plan: tables that can be changed, figures, a report."""

    def __init__(self, results: Path, **tracking: Any) -> None:
        self.layout = Layout(results)
        self.config = Config.model_validate(
            {
                "study": {"name": "small", "description": "A *small* study.", "results": str(results)},
                "tracking": {key: value for key, value in tracking.items() if key != "uri"},
            }
        )
        # A config may hold no password, but what shows a URI must not rely on that.
        uri = self.config.tracking.model_copy(update={"uri": tracking.get("uri")})
        self.config = self.config.model_copy(update={"tracking": uri})
        self.tables = small_tables()
        self.layout.figures.mkdir(parents=True)
        self.draw("white")
        (self.layout.figures / "frames.svg").write_bytes(b"<svg></svg>")
        self.layout.report.write_text("<h1>report</h1></html>")
        self.write()

    def write(self) -> None:
        for name, schema in TABLES.items():
            write_rows(self.layout.tables / f"{name}.parquet", schema, self.tables.get(name, []), METADATA)

    def draw(self, colour: str) -> None:
        PIL.Image.new("RGB", (40, 20), colour).save(self.layout.figures / "frames.png")

    def drop(self, run_id: str) -> None:
        for name, rows in self.tables.items():
            self.tables[name] = [row for row in rows if row.get("run_id") != run_id]
        self.write()

    def sync(self) -> tuple[int, int, int, int]:
        done = sync(self.config, self.layout)
        return done.created, done.replaced, done.kept, done.deleted

    @property
    def database(self) -> Path:
        return self.layout.mlflow / "mlflow.db"

    def runs(self) -> dict[str, Any]:
        client = MlflowClient(f"sqlite:///{self.database}")
        experiment = client.get_experiment_by_name("small")
        found = client.search_runs([experiment.experiment_id])
        runs = {run.data.tags["ncpipe.id"]: run for run in found}
        assert len(runs) == len(found)
        return runs

    def dump(self) -> Dump:
        """Every row that makes up the runs."""
        tables = ("experiments", "experiment_tags", "runs", "metrics", "latest_metrics", "params", "tags")
        with closing(sqlite3.connect(self.database)) as connection:
            return {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in tables}

    def shown(self) -> Dump:
        """The same rows of the runs without what differs between stores: ids and folders, and the study's digest,
        which takes part of the config, where the folder stands."""
        text = json.dumps(self.dump()).replace(str(self.layout.results), "RESULTS")
        runs = self.runs()
        for run_id, run in runs.items():
            text = text.replace(run.info.run_id, run_id)
        text = text.replace(runs["study-small"].data.tags["ncpipe.digest"], "DIGEST")
        return {name: sorted(rows) for name, rows in json.loads(text).items() if not name.startswith("experiment")}


@pytest.fixture
def study(tmp_path: Path, empty_store: Path) -> Study:
    made = Study(tmp_path / "results")
    made.layout.mlflow.mkdir()
    shutil.copy(empty_store, made.database)
    return made


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Study:
    """A study that was mirrored once; tests only read it."""
    made = Study(tmp_path_factory.mktemp("mirrored") / "results")
    made.layout.mlflow.mkdir()
    shutil.copy(empty_store, made.database)
    assert made.sync() == (5, 0, 0, 0)
    return made


# --- the store -----------------------------------------------------------------------------------


def test_the_store_is_sqlite_in_wal_mode_and_is_made_once(empty_store: Path) -> None:
    before = empty_store.read_bytes()
    assert create_store(None, empty_store.parent) == f"sqlite:///{empty_store}"
    assert empty_store.read_bytes() == before
    with closing(sqlite3.connect(empty_store)) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        (root,) = connection.execute("SELECT artifact_location FROM experiments").fetchone()
    assert root.startswith((empty_store.parent / "artifacts").as_uri())


def test_sqlite_does_not_wait_for_the_disk_at_every_call(empty_store: Path) -> None:
    engine = sqlalchemy.create_engine(f"sqlite:///{empty_store}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1, "NORMAL: safe in WAL mode"


def test_racing_callers_make_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> None:
    made: list[Path] = []

    def create(path: Path, artifacts: Path) -> None:
        made.append(path)
        shutil.copy(empty_store, path)

    monkeypatch.setattr(store, "_create_schema", create)
    with ThreadPoolExecutor(4) as pool:
        uris = set(pool.map(lambda _: create_store(None, tmp_path), range(8)))
    assert len(made) == len(uris) == 1
    assert [path.name for path in tmp_path.glob("*db")] == ["mlflow.db"]


def test_a_store_that_could_not_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, artifacts: Path) -> None:
        path.write_text("half a store")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "_create_schema", fail)
    with pytest.raises(UserError, match="No space left on device"):
        create_store(None, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mlflow.db.lock"]


@pytest.mark.slow
@pytest.mark.thorough
def test_racing_processes_make_one_store_silently(tmp_path: Path) -> None:
    code = "import pathlib, sys, ncpipe.tracking.store as s; s.create_store(None, pathlib.Path(sys.argv[1]))"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stderr=subprocess.PIPE) for _ in range(2)
    ]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [(b"", 0)] * 2
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").create_experiment("usable")


# --- what the mirror shows -----------------------------------------------------------------------


def test_runs_hang_beneath_their_networks_and_the_study(mirrored: Study) -> None:
    runs = mirrored.runs()
    assert set(runs) == {"study-small", "net-a", "net-b", "ufm-d", "matched-a"}
    names = {run.info.run_id: run_id for run_id, run in runs.items()}
    parents = {run_id: names.get(run.data.tags.get("mlflow.parentRunId", "")) for run_id, run in runs.items()}
    study = "study-small"
    assert parents == {study: None, "net-a": study, "net-b": study, "ufm-d": study, "matched-a": "net-a"}
    assert runs["net-a"].info.run_name == "s0 mlp MSE no bias"
    assert runs["matched-a"].info.run_name == "s0 matched plain of mlp MSE no bias"


def test_params_are_the_settings_and_tags_say_what_a_run_is(mirrored: Study) -> None:
    runs = mirrored.runs()
    assert runs["net-a"].data.params == {
        "dataset": "digits", "model": "mlp", "batch_norm": "true", "batch_size": "128", "learning_rate": "0.05",
        "weight_decay": "0.0005", "seed": "0", "epochs": "3",
    }  # fmt: skip
    assert runs["matched-a"].data.params["weight_decay"] == "0.002, 0.003"
    tags = runs["matched-a"].data.tags
    assert (tags["kind"], tags["network_id"], tags["basis"]) == ("matched", "net-a", "Theorem 3.1")
    tags = runs["study-small"].data.tags
    assert (tags["git_commit"], tags["runs_done"], tags["runs_diverged"]) == ("abc123", "3", "1")


def test_metrics_are_the_finite_values_of_the_last_layer(mirrored: Study) -> None:
    runs = mirrored.runs()
    collapse = {f"{prefix}/{name}" for prefix in ("nc", "nc_test") for name in ("nc1_pinv", "nc2_means_of", "loss")}
    assert set(runs["net-a"].data.metrics) == {"train/loss", "test/accuracy", "zero_error_epoch"} | collapse
    assert runs["net-a"].data.metrics["nc/nc1_pinv"] == 1.0
    assert runs["net-b"].data.metrics == {"train/loss": 1.0, "zero_error_epoch": 2.0}
    assert runs["ufm-d"].data.metrics["ufm/objective"] == 0.3, "the history, not the scalar"
    assert runs["matched-a"].data.metrics == {
        "ufm/objective": 0.25, "ufm/gap": 1e-12, "matched/predicted_loss": 0.11, "matched/measured_loss": 0.1,
    }  # fmt: skip


def test_points_bear_recorded_times(mirrored: Study) -> None:
    client, runs = MlflowClient(f"sqlite:///{mirrored.database}"), mirrored.runs()

    def times(run_id: str, key: str) -> list[tuple[int, int]]:
        points = client.get_metric_history(runs[run_id].info.run_id, key)
        return sorted((point.step, point.timestamp - 1000 * START) for point in points)

    assert times("net-a", "train/loss") == [(1, 2000), (2, 4000), (3, 6000)]
    assert times("net-a", "nc/nc1_pinv") == [(0, 0), (1, 2000), (3, 6000)], "epoch 0 is the start"
    assert times("matched-a", "ufm/objective") == [(50, 6000)], "without times of its own: its network's end"
    spans = {run_id: (run.info.start_time, run.info.end_time) for run_id, run in runs.items()}
    assert spans["net-a"] == (1000 * START, 1000 * START + 6000)
    assert spans["study-small"] == (1000 * START, 1000 * START + 300_000)


def test_a_network_names_its_weights_its_data_and_what_became_of_it(study: Study) -> None:
    dataset = study.layout.dataset("digits-1a2b3c4d") / "dataset.json"
    about = {"name": "digits", "classes": ["0", "1"], "counts": {"train": [9, 9], "test": [4, 4]}, "settings": {},
             "sha256": {"train": "0123456789abcdef0000", "test": "f"}}  # fmt: skip
    write_json(dataset, about)
    for row in study.tables["runs"][:2]:
        row |= {"dataset_id": "digits-1a2b3c4d", "classes": 2, "train_samples": 18, "final_test_accuracy": 0.75}
    study.write()
    study.sync()
    runs = study.runs()
    tags = runs["net-a"].data.tags
    assert tags["mlflow.note.content"] == (
        "**s0 mlp MSE no bias** on digits (K = 2, N = 18). Zero training error at epoch 2 of 3. At the end"
        " nc1_pinv of the last features is 1. Test accuracy 75.0 %. Weights: `runs/net-a/model.safetensors` in the"
        " results folder."
    )
    assert (tags["weights"], tags["stage"], tags["seed"]) == ("runs/net-a/model.safetensors", "train", "0")
    assert "stopped being finite at epoch 3" in runs["net-b"].data.tags["mlflow.note.content"]
    (used,) = runs["net-a"].inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", "0123456789abcdef")
    assert json.loads(used.dataset.profile) == {"num_rows": 26, "train": 18, "test": 8, "classes": 2}
    root = Path(runs["net-a"].info.artifact_uri.removeprefix("file://"))
    layers = pd.read_parquet(root / "collapse.parquet")
    assert set(layers["layer"]) == {"layer1", "features"}
    assert len(list(root.glob("images/collapse*.png"))) == 1
    assert not Path(runs["ufm-d"].info.artifact_uri.removeprefix("file://")).exists(), "a UFM has no files"


def test_a_damaged_figure_is_named(study: Study) -> None:
    (study.layout.figures / "frames.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"frames\.png: it was altered"):
        study.sync()


def test_scales_of_a_study_share_an_experiment(study: Study, tmp_path: Path) -> None:
    study.sync()
    other = Study(tmp_path / "other", uri=f"sqlite:///{study.database}")
    other.config = other.config.model_copy(update={"scale": "paper"})
    assert other.sync() == (5, 0, 0, 0)
    assert study.sync() == (0, 0, 5, 0)
    client = MlflowClient(f"sqlite:///{study.database}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "small"]
    assert len(client.search_runs([experiment.experiment_id])) == 10


def test_divergence_is_a_finished_run_with_its_status(mirrored: Study) -> None:
    runs = mirrored.runs()
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert runs["net-b"].data.tags["status"] == "diverged"


def test_the_study_run_shows_claims_config_figures_and_report(
    mirrored: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mirrored.runs()["study-small"]
    note = run.data.tags["mlflow.note.content"]
    assert "| tirer2022-1 | \\|W\\| ends at an OF. | **supported** | 0.01 | 0.001 … 0.02 | 3 of 3 |" in note
    assert "| tirer2022-2 | No run speaks of it. | **undecided** | – | – | none |" in note
    assert run.data.metrics == {"claims/supported": 1, "claims/contradicted": 0, "claims/undecided": 1}
    root = Path(run.info.artifact_uri.removeprefix("file://"))
    assert root.is_relative_to(mirrored.layout.mlflow / "artifacts")
    files = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
    pictures = {name for name in files if name.startswith("images/")}
    assert files - pictures == {
        "config.json", "plan.json", "claims.json", "report.html", "figures/frames.png", "figures/frames.svg",
    }  # fmt: skip
    assert {Path(name).suffix for name in pictures} == {".png", ".webp"}, "a picture and its thumbnail"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{mirrored.database}")
    client, of = MlflowClient(), run.info
    plan, claims = (client.load_table(of.experiment_id, f"{n}.json", [of.run_id]) for n in ("plan", "claims"))
    assert list(plan.loc[2, ["run_id", "status"]]) == ["net-c", "missing"], "planned runs without a result are in it"
    assert list(claims["verdict"]) == ["supported", "undecided"]
    assert Config.model_validate_json((root / "config.json").read_text()) == mirrored.config


@pytest.mark.parametrize(
    ("number", "found"),
    list(enumerate([{"net-a", "net-b"}, set(), {"net-b"}, {"ufm-d"}, {"matched-a"}, {"net-a"}])),
)
def test_searches_of_the_docs_find_runs(mirrored: Study, number: int, found: set[str]) -> None:
    searches = re.findall(r"^\| `` (.+) `` \|", (ROOT / "docs/tracking.md").read_text(encoding="utf-8"), re.M)
    assert len(searches) == 6
    client = MlflowClient(f"sqlite:///{mirrored.database}")
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = client.search_runs([experiment], searches[number])
    assert {run.data.tags["ncpipe.id"] for run in runs} == found


def test_the_mirror_of_a_moved_folder_is_whole(study: Study, tmp_path: Path) -> None:
    study.sync()
    there = tmp_path / "else where"
    study.layout.results.rename(there)
    study.layout = Layout(there)
    follow(None, study.layout.mlflow)
    uri = create_store(None, study.layout.mlflow)
    client, before = MlflowClient(uri), study.dump()
    of = study.runs()["study-small"].info
    assert Path(client.download_artifacts(of.run_id, "report.html")).read_text() == "<h1>report</h1></html>"
    experiment = client.get_experiment(of.experiment_id)
    assert experiment.artifact_location.startswith(there.as_uri())
    follow(None, study.layout.mlflow)
    assert study.dump() == before
    assert study.sync()[2] >= 4  # the study's own run may have changed: its config names the folder


def test_many_points_are_batched_and_many_metrics_capped(study: Study) -> None:
    losses = [1 / epoch for epoch in range(1, 2502)]
    metrics = {f"metric{i:03}": 1.0 for i in range(2 * MAX_METRIC_KEYS)}
    study.tables["history"] = history_rows("net-a", "net", {"train_loss": losses})
    study.tables["collapse"] = collapse_rows("net-a", "net", ("train",), metrics)
    study.write()
    study.sync()
    run = study.runs()["net-a"]
    assert len(run.data.metrics) == MAX_METRIC_KEYS
    history = MlflowClient(f"sqlite:///{study.database}").get_metric_history(run.info.run_id, "train/loss")
    assert sorted(losses) == sorted(point.value for point in history)


def test_a_study_without_recorded_times_is_mirrored_alike_twice(study: Study) -> None:
    study.tables["timings"] = []
    study.write()
    assert study.sync() == (5, 0, 0, 0)
    assert study.sync() == (0, 0, 5, 0)
    assert {run.info.start_time for run in study.runs().values()} == {1}


def test_long_descriptions_keep_whole_lines() -> None:
    claim = small_tables()["claims"][0] | {"statement": "long " * 100}
    text = study_note("title", "", [claim] * 40)
    assert len(text) <= 8000
    assert text.splitlines()[-1].startswith("…")
    assert all(line.endswith("|") for line in text.splitlines() if line.startswith("| tirer"))


# --- syncs that repeat ---------------------------------------------------------------------------


def test_a_second_sync_changes_nothing(study: Study) -> None:
    study.sync()
    before = study.dump()
    assert study.sync() == (0, 0, 5, 0)
    assert study.dump() == before


def test_a_changed_run_alone_is_replaced_and_its_fits_hang_beneath_it(study: Study) -> None:
    study.sync()
    old = study.runs()
    study.tables["history"][0]["value"] = 0.75
    study.write()
    assert study.sync() == (0, 1, 4, 0)
    new = study.runs()
    assert {run_id for run_id in new if new[run_id].info.run_id != old[run_id].info.run_id} == {"net-a"}
    assert new["matched-a"].data.tags["mlflow.parentRunId"] == new["net-a"].info.run_id
    with closing(sqlite3.connect(study.database)) as connection:
        (count,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    assert count == 5, "the replaced run is gone for good"


def test_a_new_figure_replaces_the_study_run_and_its_artifacts(study: Study) -> None:
    study.sync()
    study.draw("black")
    assert study.sync() == (0, 1, 4, 0)
    pictures = list(study.layout.mlflow.rglob("frames.png"))
    drawn = (study.layout.figures / "frames.png").read_bytes()
    assert [path.read_bytes() for path in pictures] == [drawn]


def test_runs_that_left_the_study_are_deleted_and_others_are_not(study: Study) -> None:
    study.sync()
    client = MlflowClient(f"sqlite:///{study.database}")
    experiment = client.get_experiment_by_name("small").experiment_id
    foreign = client.create_run(experiment, tags={"ncpipe.id": "net-a", "ncpipe.study": "another"})
    study.drop("net-b")
    assert study.sync()[3] == 1
    ids = {run.info.run_id for run in client.search_runs([experiment])}
    assert foreign.info.run_id in ids
    assert len(ids) == 5


def test_a_deleted_experiment_comes_back(study: Study) -> None:
    study.sync()
    client = MlflowClient(f"sqlite:///{study.database}")
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    study.sync()
    assert len(study.runs()) == 5


def failing_at(count: int, method: Callable[..., Any]) -> Callable[..., Any]:
    """``method``, which raises on the call with that number."""
    calls = iter(range(count))

    def call(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return method(*args, **kwargs)

    return call


@pytest.mark.parametrize("calls", [0, pytest.param(1, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("method", ["create_run", "log_image", "log_artifacts", "log_batch", "set_terminated"])
def test_an_interrupted_sync_is_mended(
    study: Study, mirrored: Study, monkeypatch: pytest.MonkeyPatch, method: str, calls: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, method, failing_at(calls, getattr(MlflowClient, method)))
        with pytest.raises(KeyboardInterrupt):
            study.sync()
    study.sync()
    assert study.shown() == mirrored.shown()


KILLED = """
import os, signal, sys
from ncpipe.study.layout import Layout
from ncpipe.study.config import (Config)
from ncpipe.tracking.sync import sync
from mlflow import MlflowClient
from pathlib import Path

calls = iter(range(2))
log_batch = MlflowClient.log_batch

def killing(self, *args, **kwargs):
    log_batch(self, *args, **kwargs)
    if next(calls, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)

MlflowClient.log_batch = killing
config = Config.model_validate_json(sys.stdin.read())
sync(config, Layout(Path(config.study.results)))
"""


@pytest.mark.slow
def test_a_killed_sync_is_mended(study: Study, mirrored: Study) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED], input=study.config.model_dump_json(), text=True)
    assert done.returncode == -signal.SIGKILL
    assert study.sync() == (2, 1, 2, 0)
    assert study.shown() == mirrored.shown()


def test_two_syncs_never_run_at_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_held() -> bool:
        with (study.layout.mlflow / ".sync.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            return False

    held: list[bool] = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *args: (held.append(is_held()), log_batch(*args)))
    study.sync()
    assert held == [True] * 5
    assert not is_held()


# --- stores that cannot be used ------------------------------------------------------------------


def corrupt(folder: Path) -> str:
    (folder / "broken.db").write_text("this is no database, " * 1000)
    return f"sqlite:///{folder / 'broken.db'}"


def read_only(folder: Path) -> str:
    return f"sqlite:///file:{folder / 'mlflow.db'}?mode=ro&uri=true"


def beneath_a_file(folder: Path) -> str:
    (folder / "file").write_text("")
    return f"sqlite:///{folder / 'file' / 'mlflow.db'}"


@pytest.mark.parametrize(
    "bad",
    [
        corrupt,
        read_only,
        beneath_a_file,
        lambda folder: "sqlite://",
        lambda folder: str(folder / "mlruns"),
        lambda folder: "ftp://user:hunter2@host/store",
        lambda folder: "http://user:hunter2@127.0.0.1:9",
        lambda folder: "postgresql://user:hunter2@127.0.0.1:9/db?password=hunter2",
    ],
    ids=["corrupt", "read-only", "beneath-a-file", "no-file", "file-store", "ftp", "dead-server", "dead-database"],
)
def test_a_store_that_cannot_be_used_is_one_line(
    tmp_path: Path,
    empty_store: Path,
    bad: Callable[[Path], str],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow makes a folder after the 'file:' of the read-only store
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    study = Study(tmp_path / "results", uri=bad(tmp_path))
    before = {path: path.read_bytes() for path in study.layout.tables.iterdir()}
    with pytest.raises(UserError) as caught:
        study.sync()
    message = str(caught.value)
    assert "\n" not in message
    printed = "".join(capfd.readouterr())
    assert "hunter2" not in message + printed
    assert "Traceback" not in printed
    assert redacted(study.config.tracking.uri or "") in message
    assert {path: path.read_bytes() for path in study.layout.tables.iterdir()} == before


def test_missing_tables_are_named(tmp_path: Path) -> None:
    study = Study(tmp_path / "results")
    shutil.rmtree(study.layout.tables)
    with pytest.raises(UserError, match="snakemake tables"):
        StudyRecords(study.config, study.layout)


UFM = {"classes": 3, "samples": 5, "dim": 6, "weight_decay": 5e-3, "feature_decay": 1e-3, "solver": {"name": "lbfgs"}}


def test_a_dead_store_stops_no_workflow(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    config = {"study": {"name": "small", "results": str(tmp_path)}, "tracking": {"uri": "http://127.0.0.1:9"},
              "ufm": {"base": UFM}}  # fmt: skip
    (tmp_path / "study.json").write_text(json.dumps(config))
    done = CliRunner().invoke(app, ["store", str(tmp_path / "study.json")], catch_exceptions=False)
    assert done.exit_code == 0
    printed = "".join(capfd.readouterr()) + done.output
    assert "no answer" in printed
    assert "hunter2" not in printed
    assert read_json(tmp_path / "mlflow" / "store.json") == {"uri": "http://127.0.0.1:9", "experiment_id": None}
    assert study_page(tmp_path / "mlflow") is None


# --- the web interface ---------------------------------------------------------------------------


def test_the_password_of_a_store_is_in_the_environment_alone() -> None:
    uri = "postgresql://user:hunter2@host/db"
    assert "hunter2" not in " ".join(ui_command(5000))
    assert ui_environment(uri)["MLFLOW_BACKEND_STORE_URI"] == uri


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("sqlite:////results/mlflow.db", "http://127.0.0.1:5000"),
        ("postgresql://***@host/db", "http://127.0.0.1:5000"),
        ("https://***@mlflow.example.org:8080/prefix/", "https://mlflow.example.org:8080/prefix"),
    ],
)
def test_reports_link_to_the_server_or_to_where_ncpipe_ui_serves(tmp_path: Path, uri: str, address: str) -> None:
    write_json(tmp_path / "store.json", {"uri": uri, "experiment_id": "7"})
    assert study_page(tmp_path) == f"{address}/#/experiments/7/runs?workflowType=machine_learning"
    assert study_page(tmp_path / "nowhere") is None


def test_a_taken_port_is_an_error(mirrored: Study) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"127.0.0.1:{port}"),
            serving(f"sqlite:///{mirrored.database}", port=port),
        ):
            pass
