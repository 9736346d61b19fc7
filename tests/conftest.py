"""Shared fixtures: one CPU thread, so that results repeat whatever the machine; a tiny prepared data set."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as the ncpipe command does, before the first product

import extent
import pytest
import torch

import ncpipe.tracking  # noqa: F401 - MLflow is to be silent from the first import on
from ncpipe.data import load, prepare
from ncpipe.data.settings import DatasetSpec

torch.set_num_threads(1)
# A shell ignores it in what it runs in the background, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    if "not thorough" in config.option.markexpr:
        extent.share = 0.25


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    cases: Counter[str] = Counter()
    for item in items:
        if every := item.get_closest_marker("every"):
            test = item.nodeid.partition("[")[0]
            if cases[test] % every.args[0]:
                item.add_marker(pytest.mark.thorough)
            cases[test] += 1


HANDLERS = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}


@pytest.fixture(autouse=True)
def state_of_the_process() -> Iterator[None]:
    """What tests, and commands in them, set in the process is what it was for the next test, whichever that is."""
    torch.manual_seed(0)
    folder, environment = Path.cwd(), dict(os.environ)
    yield
    os.chdir(folder)
    restore_environment(environment)
    for number, handler in HANDLERS.items():
        signal.signal(number, handler)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


def restore_environment(before: dict[str, str]) -> None:
    """But for what pytest and the libraries of threads set for themselves."""
    changed = {name for name in os.environ.keys() | before.keys() if os.environ.get(name) != before.get(name)}
    for name in changed - {"PYTEST_CURRENT_TEST"}:
        if name in before:
            os.environ[name] = before[name]
        elif not name.startswith("KMP_"):
            del os.environ[name]


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    prepare(DatasetSpec(name="digits", samples_per_class=20, test_samples_per_class=10), folder)
    return folder


@pytest.fixture(scope="session")
def digits(digits_folder: Path):
    return load(digits_folder)


@pytest.fixture(scope="session")
def finished_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of ``finished.STUDY``, which all workers share: who changes them takes a copy."""
    from finished import finish

    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done := shared / "done").exists():
            finish(shared / "results")
            done.touch()
    return shared / "results"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with nothing in it, which takes seconds to make."""
    from ncpipe.tracking.store import create_store  # imports MLflow

    folder = tmp_path_factory.mktemp("store")
    create_store(None, folder)
    return folder / "mlflow.db"
