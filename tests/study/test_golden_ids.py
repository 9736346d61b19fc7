"""Ids of everything that the shipped studies declare: a change of one makes finished results be made again.

``python tests/study/test_golden_ids.py`` writes the file anew, where an id is meant to change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ncpipe.study.study import Study

ROOT = Path(__file__).parents[2]
FILE = Path(__file__).parent / "golden_ids.json"


def ids(path: Path, scale: str | None) -> dict[str, str]:
    """Kind -> number of its ids and their digest."""
    study = Study.read(path, scale)
    folders = (study.prepared, study.networks, study.continual, study.ufm_batches, study.problems, study.figures)
    names = ("datasets", "networks", "continual", "ufm_batches", "problems", "figures")
    return {name: _digest(sorted(map(str, folder))) for name, folder in zip(names, folders, strict=True) if folder}


def _digest(names: list[str]) -> str:
    return f"{len(names)} {hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]}"


def studies() -> Iterator[tuple[str, Path, str | None]]:
    for path in (ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))):
        scales = yaml.safe_load(path.read_text(encoding="utf-8")).get("scales") or [None]
        yield from ((f"{path.stem}-{scale}" if scale else path.stem, path, scale) for scale in scales)


@pytest.mark.parametrize(
    ("name", "path", "scale"), studies(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_ids_of_shipped_studies_are_kept(name: str, path: Path, scale: str | None) -> None:
    assert ids(path, scale) == json.loads(FILE.read_text(encoding="utf-8"))[name]


def test_every_golden_study_is_shipped() -> None:
    assert json.loads(FILE.read_text(encoding="utf-8")).keys() == {name for name, _, _ in studies()}


if __name__ == "__main__":
    golden = {name: ids(path, scale) for name, path, scale in studies()}
    FILE.write_text(json.dumps(golden, indent=2, sort_keys=True) + "\n", encoding="utf-8")
