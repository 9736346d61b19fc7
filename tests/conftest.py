"""Shared fixtures: one CPU thread, so that results repeat whatever the machine; a tiny prepared data set."""

from __future__ import annotations

import os
import signal
from pathlib import Path

os.environ["MKL_CBWR"] = "AUTO,STRICT"  # as the ncpipe command does, before the first product

import pytest
import torch

import ncpipe.tracking  # noqa: F401 - MLflow is to be silent from the first import on
from ncpipe.data import load, prepare
from ncpipe.data.settings import DatasetSpec

torch.set_num_threads(1)
# A shell ignores it in what it runs in the background, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    prepare(DatasetSpec(name="digits", samples_per_class=20, test_samples_per_class=10), folder)
    return folder


@pytest.fixture(scope="session")
def digits(digits_folder: Path):
    return load(digits_folder)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow store with nothing in it, which takes seconds to make."""
    from ncpipe.tracking.store import create_store  # imports MLflow

    folder = tmp_path_factory.mktemp("store")
    create_store(None, folder)
    return folder / "mlflow.db"
