"""The mirror on real stores: PostgreSQL, a tracking server, many writers at once, and stores that die or hang."""

import hashlib
import importlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import mlflow
import psycopg2
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from networks_in_training import NETWORK
from playwright.sync_api import sync_playwright
from test_tracking import Study

from ncpipe.data import Dataset
from ncpipe.records.epoch_log import log_path, read_epochs
from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study as PlannedStudy
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_json
from ncpipe.tracking.live import LiveMirror
from ncpipe.tracking.sync import sync
from ncpipe.tracking.view import view_page
from ncpipe.training.computation import Computation
from ncpipe.training.preemption import StopRequest
from ncpipe.training.trainer import Trainer

pytestmark = pytest.mark.thorough

RUNS, STUDIES = 5, 4
START_SECONDS = 120
PASSWORD = "hunter2"
POSTGRES_OPTIONS = {"listen_addresses": "127.0.0.1", "fsync": "off", "max_connections": "200"}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def wait_for(is_up: Callable[[], object], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, psycopg2.Error):
            is_up()
            return
        time.sleep(0.2)
    raise RuntimeError(f"a server did not start:\n{log.read_text()}")


# --- PostgreSQL ----------------------------------------------------------------------------------


def postgres_binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = found[-1] if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip("needs the programs of PostgreSQL (Debian: apt-get install postgresql)")
    return Path(initdb).parent


class Postgres:
    """A PostgreSQL of its own on a free port of loopback, with a password."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.port = free_port()
        (folder / "password").write_text(PASSWORD)
        # It refuses to run as root.
        user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, **user)
        options = {"-D": folder / "data", "-U": "ncpipe", "--auth": "scram-sha-256", "--pwfile": folder / "password"}
        words = [str(word) for option in options.items() for word in option]
        quiet: dict[str, Any] = {"cwd": folder, "stdout": subprocess.DEVNULL, **user}
        subprocess.run([binaries / "initdb", "--no-sync", *words], check=True, **quiet)
        settings = POSTGRES_OPTIONS | {"port": self.port, "unix_socket_directories": folder}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [binaries / "postgres", "-D", folder / "data", *words], stderr=log, **quiet
            )
        try:
            wait_for(lambda: psycopg2.connect(self.uri("postgres")).close(), self.process, folder / "log")
        except BaseException:
            self.end()
            raise

    def uri(self, database: str) -> str:
        return f"postgresql://ncpipe:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        with closing(psycopg2.connect(self.uri("postgres"))) as connection:
            connection.autocommit = True
            connection.cursor().execute(f'CREATE DATABASE "{database}"')
        return self.uri(database)

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)  # without waiting for its clients
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    binaries = postgres_binaries()
    # Not in pytest's folder, which the user postgres may not enter.
    with tempfile.TemporaryDirectory(prefix="ncpipe-postgres-", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), binaries)
        try:
            yield server
        finally:
            server.end()


@pytest.fixture(scope="module")
def database(postgres: Postgres) -> str:
    """URI of a store in PostgreSQL, which the tests of this file share."""
    return postgres.create("mlflow")


# --- the tracking server -------------------------------------------------------------------------


class TrackingServer:
    """``mlflow server`` in front of a database, with the artifacts in a folder of its own."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend, self.folder, self.port = backend, folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        hosts = f"127.0.0.1:{self.port},localhost:{self.port}"
        options = {"--host": "127.0.0.1", "--port": self.port, "--workers": 1, "--allowed-hosts": hosts}
        options |= {"--artifacts-destination": self.folder}
        words = [str(word) for option in options.items() for word in option]
        settings = {"MLFLOW_BACKEND_STORE_URI": self.backend, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        log = self.folder.with_suffix(".log")
        with log.open("a") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--serve-artifacts", *words],
                env=os.environ | settings, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        wait_for(lambda: urllib.request.urlopen(f"{self.uri}/health", timeout=5).close(), self.process, log)

    def kill(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    made = TrackingServer(postgres.create("behind_server"), tmp_path_factory.mktemp("server") / "artifacts")
    try:
        made.start()
        yield made
    finally:
        made.kill()


# --- what a store holds --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study with a data set, mirrored to SQLite."""
    made = Study(tmp_path_factory.mktemp("study") / "results")
    about = {"name": "digits", "classes": ["0", "1"], "counts": {"train": [9, 9], "test": [4, 4]}, "settings": {},
             "sha256": {"train": "0123456789abcdef", "test": "f"}}  # fmt: skip
    write_json(made.layout.dataset("digits-1a2b3c4d") / "dataset.json", about)
    made.tables["runs"][0]["dataset_id"] = "digits-1a2b3c4d"
    made.write()
    assert made.sync() == (RUNS, 0, 0, 0)
    return made


def elsewhere(study: Study, uri: str) -> Config:
    """The same study with another store."""
    tracking = study.config.tracking.model_copy(update={"uri": uri})
    return study.config.model_copy(update={"tracking": tracking})


def store_of(study: Study) -> str:
    return f"sqlite:///{study.database}"


def stored_runs(uri: str, experiment: str = "small") -> dict[str, Run]:
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id]))
    by_id = {run.data.tags["ncpipe.id"]: run for run in runs}
    assert len(by_id) == len(runs), "one run per id"
    return by_id


def content(uri: str, folder: Path) -> dict[str, Any]:
    """All that a store shows of a study, without the ids that the store gave."""
    client, runs = MlflowClient(uri), stored_runs(uri)
    names = {run.info.run_id: name for name, run in runs.items()}
    shown = {}
    for name, run in runs.items():
        histories = {key: client.get_metric_history(run.info.run_id, key) for key in run.data.metrics}
        shown[name] = {
            "info": (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time),
            "params": run.data.params,
            "tags": {key: names.get(value, value) for key, value in run.data.tags.items() if key != "reproduce"},
            "points": {key: sorted((p.step, p.value, p.timestamp) for p in each) for key, each in histories.items()},
            "data": [(used.dataset.name, used.dataset.digest) for used in run.inputs.dataset_inputs],
            "files": files(client, run, folder / name),
        }
    return json.loads(json.dumps(shown))


def files(client: MlflowClient, run: Run, folder: Path) -> dict[str, str]:
    """Hash of every artifact by its path, without the number that MLflow gives a picture."""
    if not client.list_artifacts(run.info.run_id):
        return {}
    folder.mkdir(parents=True)
    client.download_artifacts(run.info.run_id, "", str(folder))
    paths = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        re.sub("[+]timestamp[+].*(?=[.])", "", name): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in paths.items()
    }


@pytest.fixture(scope="module")
def expected(study: Study, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    shown = content(store_of(study), tmp_path_factory.mktemp("expected"))
    assert set(shown) == {"study-small", "net-a", "net-b", "ufm-d", "matched-a"}
    assert {"collapse.parquet"} < set(shown["net-a"]["files"])
    assert shown["net-a"]["data"] == [["digits", "0123456789abcdef"]]
    return shown


def test_postgresql_holds_what_sqlite_holds(
    study: Study, expected: dict[str, Any], database: str, tmp_path: Path
) -> None:
    config = elsewhere(study, database)
    assert sync(config, study.layout).created == RUNS
    before = content(database, tmp_path / "before")
    assert before == expected
    ids = {run.info.run_id for run in stored_runs(database).values()}
    again = sync(config, study.layout)
    assert (again.kept, again.created, again.replaced, again.deleted) == (RUNS, 0, 0, 0)
    assert {run.info.run_id for run in stored_runs(database).values()} == ids
    assert content(database, tmp_path / "after") == before


def test_a_server_that_is_killed_midway_gets_the_rest_later(
    study: Study,
    expected: dict[str, Any],
    server: TrackingServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    config, log_batch, calls = elsewhere(study, server.uri), MlflowClient.log_batch, iter(range(2))

    def killing(self: MlflowClient, *args: Any) -> None:
        if next(calls, None) is None:
            server.kill()
        log_batch(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", killing)
        with pytest.raises(UserError, match=f"MLflow store {server.uri}: no answer; see that it runs") as caught:
            sync(config, study.layout)
    assert "\n" not in str(caught.value)
    assert "Traceback" not in "".join(capfd.readouterr())
    server.start()
    done = sync(config, study.layout)
    assert (done.kept, done.replaced, done.created) == (2, 1, 2)
    assert content(server.uri, tmp_path / "before") == expected
    assert len(list(server.folder.rglob("*"))) > 0
    assert sync(config, study.layout).kept == RUNS
    assert content(server.uri, tmp_path / "after") == expected


def test_a_store_that_was_deleted_is_rebuilt_alike(
    study: Study, expected: dict[str, Any], processes: Any, tmp_path: Path, empty_store: Path
) -> None:
    copy = Study(tmp_path / "results")
    shutil.rmtree(copy.layout.tables)
    shutil.copytree(study.layout.tables, copy.layout.tables)
    shutil.copytree(study.layout.results / "data", copy.layout.results / "data")
    copy.layout.mlflow.mkdir()
    shutil.copy(empty_store, copy.database)
    copy.sync()
    shutil.rmtree(copy.layout.mlflow)
    # In other processes, since MLflow holds on to the file that was deleted.
    assert processes.apply(sync, (copy.config, copy.layout)).created == RUNS
    shown = processes.apply(content, (store_of(copy), tmp_path / "shown"))
    for name in set(expected) - {"study-small"}:
        assert shown[name] == expected[name]
    assert set(shown["study-small"]["files"]) == set(expected["study-small"]["files"])


# --- many writers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """As many processes as studies, which have imported what a sync needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ncpipe.tracking.sync", "sklearn"])
    with context.Pool(STUDIES) as pool:
        yield pool


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_studies_at_once_lose_no_run(
    kind: str, request: pytest.FixtureRequest, processes: Any, tmp_path: Path, empty_store: Path
) -> None:
    if kind == "sqlite":
        uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    else:
        uri = request.getfixturevalue("postgres").create("shared")  # empty: all of them find no schema
    jobs = [many_job(tmp_path / f"results-{number}", number, uri) for number in range(STUDIES)]
    done = processes.starmap(sync, jobs, chunksize=1)
    assert [summary.created for summary in done] == [RUNS] * STUDIES
    client = MlflowClient(uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "together"]
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    ids = {(run.data.tags["ncpipe.study"], run.data.tags["ncpipe.id"]) for run in runs}
    assert (len(ids), len(runs)) == (RUNS * STUDIES, RUNS * STUDIES)
    assert {run.info.status for run in runs} == {"FINISHED"}
    again = processes.starmap(sync, jobs, chunksize=1)
    assert [summary.kept for summary in again] == [RUNS] * STUDIES


def many_job(results: Path, number: int, uri: str) -> tuple[Config, Layout]:
    study = Study(results, uri=uri, experiment="together")
    info = study.config.study.model_copy(update={"name": f"small-{number}"})
    return study.config.model_copy(update={"study": info}), study.layout


# --- the web interface ---------------------------------------------------------------------------


SERVED = """
import sys
from ncpipe.study.layout import Layout
from ncpipe.study.config import (Config)
from ncpipe.tracking.store import create_store
from ncpipe.tracking.ui import run_ui
from pathlib import Path

config = Config.model_validate_json(sys.argv[1])
uri = create_store(config.tracking.uri, Layout(Path(config.study.results)).mlflow)
run_ui(uri, "small")
"""


@pytest.fixture(scope="module")
def ui_process(study: Study) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """``run_ui`` in a process of its own: the line it prints, and the process."""
    command = [sys.executable, "-c", SERVED, study.config.model_dump_json()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline(), process
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def ui(ui_process: tuple[str, subprocess.Popen[str]]) -> str:
    """Address of the server."""
    return ui_process[0].split()[1].partition("/#/")[0]


def test_the_server_of_the_ui_refuses_foreign_names(ui: str) -> None:
    page = f"{ui}/ajax-api/2.0/mlflow/experiments/search?max_results=5"
    with urllib.request.urlopen(page, timeout=30) as answer:
        assert "small" in answer.read().decode()
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(page, headers={"Host": "evil.example"}), timeout=30)
    assert caught.value.code == 403


def test_the_link_opens_the_networks_with_their_metrics(study: Study, ui: str) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    found = MlflowClient(store_of(study)).get_experiment_by_name("small")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        ) as browser,
    ):
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * START_SECONDS)
        page.goto(ui + view_page(found.experiment_id))
        page.get_by_text("s0 mlp MSE no bias", exact=True).first.wait_for()
        page.get_by_text("s1 mlp MSE no bias", exact=True).first.wait_for()
        page.get_by_text("2 matching runs").wait_for()
        page.get_by_text("Main charts").wait_for()
        page.goto(ui + view_page(found.experiment_id).replace("CHART", "TABLE"))
        for column in ("nc/nc1_pinv", "seed"):
            page.get_by_role("columnheader", name=column, exact=True).first.wait_for()
        run = stored_runs(store_of(study))["net-a"]
        page.goto(f"{ui}/#/experiments/{found.experiment_id}/runs/{run.info.run_id}")
        page.get_by_text("Parent run", exact=True).wait_for()
        page.get_by_text("digits (0123456789abcdef)").first.wait_for()


def test_the_server_answers_on_loopback_and_ends_with_ctrl_c(ui_process: tuple[str, subprocess.Popen[str]]) -> None:
    """The last test that needs it."""
    line, process = ui_process
    address, _, page = line.split()[1].partition("/#/")
    assert address.startswith("http://127.0.0.1:")
    assert page.startswith("experiments/1")
    with urllib.request.urlopen(address, timeout=10) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(address, timeout=10)


# --- many problems -------------------------------------------------------------------------------


def test_the_benchmark_counts_its_runs(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    uri = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"
    try:
        importlib.import_module("mirror").main(["--problems", "3", "--sample", "2", "--uri", uri])
    finally:
        mlflow.set_tracking_uri(None)
    assert "against the usual calls" in capsys.readouterr().out
    names = {experiment.name for experiment in MlflowClient(uri).search_experiments()}
    assert {"mirror-3", "baseline"} < names


# --- live ----------------------------------------------------------------------------------------


@contextmanager
def silent_server() -> Iterator[tuple[str, threading.Event]]:
    """Address of a server that takes every request and answers none, and whether one has come."""
    asked, taken = threading.Event(), []

    def take(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                taken.append(listener.accept()[0])
                asked.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=take, args=(listener,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for connection in taken:
                connection.close()


def test_a_store_that_hangs_does_not_hold_up_a_training(
    digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "300")
    network = {key: value for key, value in NETWORK.items() if key != "dataset"}
    errors: list[UserError] = []

    def look(mirror: LiveMirror) -> None:
        try:
            mirror.update()
        except UserError as error:
            errors.append(error)

    with silent_server() as (address, asked):
        planned = PlannedStudy(
            {"study": {"name": "tiny", "results": str(tmp_path)}, "datasets": {"base": NETWORK["dataset"]},
             "networks": {"base": network}, "tracking": {"uri": address}}
        )  # fmt: skip
        (run,) = planned.networks.values()
        folder = planned.layout.run(run.id)
        trainer = Trainer([run], [folder], digits, Computation(torch.device("cpu")))
        trainer._checkpoint(0)
        trainer.epoch(StopRequest())
        trainer._checkpoint(1)
        watcher = threading.Thread(target=look, args=(LiveMirror(planned),))
        watcher.start()
        assert asked.wait(60)
        trainer.fit(StopRequest())
        trainer.publish()
        assert watcher.is_alive(), "it still waits for the store"
        assert [epoch["time"] for epoch in read_epochs(folder)] == list(range(1, run.spec.epochs + 1))
        assert not log_path(folder).exists()
    watcher.join(60)
    assert [str(error).split(";")[0] for error in errors] == [f"MLflow store {address}: no answer"]
