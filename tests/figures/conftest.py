"""Tables of made-up studies, each written where a test first asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic_tables import CASES

from ncpipe.records.reading import Frames, read_tables


class Studies(dict[str, Frames]):
    """Tables by the name of their case."""

    def __init__(self, parent: Path) -> None:
        super().__init__()
        self.parent = parent

    def __missing__(self, case: str) -> Frames:
        self[case] = read_tables(self.folder(case))
        return self[case]

    def folder(self, case: str) -> Path:
        folder = self.parent / case
        return folder if folder.exists() else CASES[case].write(folder)


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Studies:
    return Studies(tmp_path_factory.mktemp("studies"))
