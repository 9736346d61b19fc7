"""MLflow's web interface on the study's store, on this machine's loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mlflow import MlflowClient
from mlflow.entities import Experiment

from ncpipe.system.errors import UserError
from ncpipe.tracking.client import is_database, store_errors
from ncpipe.tracking.view import LOOPBACK, PORT, VIEWS, runs_page, server_address, view_page, view_tag

START_SECONDS, STOP_SECONDS = 120.0, 10.0


def run_ui(uri: str, experiment: str, port: int = 0) -> None:
    """Serve the store that ``create_store`` named, print the link to the experiment, stay until Ctrl-C or SIGTERM.

    A tracking server already runs: of that only the link is printed.
    """
    with store_errors(uri):
        pages = _pages(MlflowClient(uri).get_experiment_by_name(experiment))
    if not is_database(uri):
        _say(server_address(uri), pages)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(uri, port) as (address, server):
            _say(address, pages, "  (Ctrl-C ends it)")
            server.wait()
    except KeyboardInterrupt:
        return
    raise UserError(f"the MLflow server ended by itself with exit status {server.returncode}")


def _say(address: str, pages: dict[str, str], hint: str = "") -> None:
    """The first page as the link to open, and one line for each of the others."""
    (_, first), *others = pages.items()
    lines = [f"MLflow: {address}{first}{hint}", *(f"{name}: {address}{page}" for name, page in others)]
    print("\n".join(lines), flush=True)


def _pages(experiment: Experiment | None) -> dict[str, str]:
    """Views of the experiment by what they show, or its plain table where it has none."""
    if experiment is None:
        return {"MLflow": "/#/experiments"}
    number = experiment.experiment_id
    kinds = [kind for kind in VIEWS if view_tag(kind) in experiment.tags]
    return {VIEWS[kind]: view_page(number, kind) for kind in kinds} or {"runs": runs_page(number)}


@contextmanager
def serving(uri: str, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A server of a database store while the block runs: its address and process; port 0 takes a free one."""
    port = available_port(port)
    # A session of its own: Ctrl-C reaches us alone, and the server's workers end with it as one group.
    # Its chatter goes to stderr (2): stdout bears the link alone.
    server = subprocess.Popen(ui_command(port), env=ui_environment(uri), stdout=2, start_new_session=True)
    try:
        _wait_until_up(server, port)
        yield f"http://{LOOPBACK}:{port}", server
    finally:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def ui_command(port: int) -> list[str]:
    """The server's command line. The store is not in it but in the environment: it may hold a password."""
    options = {"--host": LOOPBACK, "--port": str(port), "--workers": "1", "--uvicorn-opts": "--log-level=warning"}
    return [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)]


def ui_environment(uri: str) -> dict[str, str]:
    return os.environ | {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        # Background jobs are for MLflow's language-model features.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }


def available_port(port: int = 0) -> int:
    """``port`` if it is free; for 0 the usual one, to which reports link, or else any free one."""
    if port == 0:
        with suppress(UserError):
            return available_port(PORT)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise UserError(f"cannot listen on {LOOPBACK}:{port}: {error.strerror}; give another port") from None
        return int(probe.getsockname()[1])


def _wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise UserError(f"the MLflow server on {LOOPBACK}:{port} ended at once; its reason stands above")
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"the MLflow server on {LOOPBACK}:{port} did not answer within {START_SECONDS:.0f} s")
