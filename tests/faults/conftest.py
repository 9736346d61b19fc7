"""One undisturbed run for all faults, and the table of what was tried."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from place import Ledger, Place

LEDGER = Ledger()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker("faults")
            item.add_marker("slow")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("faults") / "study", LEDGER)
    place.build()
    return place


@pytest.fixture
def place(finished: Place) -> Place:
    """The study at the end of its undisturbed run."""
    finished.restore()
    return finished


def pytest_runtest_teardown() -> None:
    """With FAULTS_TABLE keep the table in that file, whatever comes."""
    if LEDGER.rows and (target := os.environ.get("FAULTS_TABLE")):
        Path(target).write_text(LEDGER.markdown(), encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if LEDGER.rows:
        terminalreporter.write_line(LEDGER.markdown())
