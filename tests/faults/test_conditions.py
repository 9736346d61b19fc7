"""What surrounds the pipeline fails: the disk, access to it, the tracker, the clock, names and places."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from place import Place, kill_all

JOBS = {"data": "dataset", "runs": "train", "ufm": "fit", "tables": "tables", "figures": "figure", "mlflow": "store"}
"""By folder of results: the stage that writes to it."""


@contextmanager
def mounted(path: Path, *commands: list[str]) -> Iterator[None]:
    """What the commands mount, which is gone afterwards."""
    for command in commands:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip(f"cannot mount here: {' '.join(command)}")
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


@pytest.mark.parametrize("folder", JOBS)
def test_a_full_disk(folder: str, place: Place) -> None:
    """The results on 64 MB, of which nothing is left once a job of the stage has begun; then there is room again."""
    results = place.results
    with (
        place.ledger.trying("A full disk, in six stages") as row,
        mounted(results, ["mount", "-t", "tmpfs", "-o", "size=64m", "ncpipe", str(results)]),
    ):
        subprocess.run(["cp", "-a", f"{place.saved}/results/.", results], check=True)
        place.forget(folder)
        process, began = place.start(), time.monotonic()
        place.wait_for(process, lambda: place.job(process, JOBS[folder]) is not None)
        ballast = results / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as stream:
            while True:
                stream.write(bytes(4096))
        done = place.ended(process, began)
        assert done.code != 0
        place.tell(row, done)
        assert any("No space left" in line for line in done.lines), done.text
        ballast.unlink()
        place.recover(row)


@pytest.mark.parametrize("folder", ["", "runs", "tables"])
def test_a_read_only_folder(folder: str, place: Place) -> None:
    """The results as a whole, or the folder of a stage."""
    path = place.results / folder
    place.forget(folder or "runs")
    path.mkdir(exist_ok=True)
    with place.ledger.trying("Read-only results, or a read-only folder in them") as row:
        with mounted(path, ["mount", "--bind", str(path), str(path)], ["mount", "-o", "remount,bind,ro", str(path)]):
            done = place.attempt()
            assert done.code != 0
            assert "Traceback" not in done.text, done.text
            # Snakemake looks at the outputs of jobs before any of our code runs.
            told = re.search(
                r"Write-protected output files for rule|Failed to create output directory|ncpipe: .*Read-only file.*",
                done.text,
            )
            assert told, done.text
            row.told.append(place.anonymous(told[0]) if "ncpipe" in told[0] else f"Snakemake's {told[0]} FILES")
        place.recover(row)


def test_a_dead_tracking_server(place: Place) -> None:
    with place.ledger.trying("A tracking server that does not answer") as row:
        place.configure(place.small | {"tracking.uri": "http://127.0.0.1:9"})
        place.forget("runs")
        done = place.attempt()
        assert done.code != 0
        place.tell(row, done)
        assert place.products() == place.reference
        place.configure(place.small)
        place.recover(row)


def test_a_store_deleted_while_running(place: Place) -> None:
    with place.ledger.trying("MLflow's store deleted while networks train") as row:
        place.forget("runs")
        process = place.start()
        place.wait_for(process, lambda: place.job(process, "train") is not None)
        shutil.rmtree(place.results / "mlflow")
        place.ended(process, time.monotonic())
        place.recover(row)


def test_a_locked_store(place: Place) -> None:
    """Longer than SQLite waits."""
    with place.ledger.trying("MLflow's SQLite file locked by another program") as row:
        with closing(sqlite3.connect(place.results / "mlflow/mlflow.db", isolation_level=None)) as other:
            other.execute("PRAGMA journal_mode=DELETE")
            other.execute("BEGIN EXCLUSIVE")
            done = place.attempt("--forcerun", "sync")
            assert done.code != 0
            place.tell(row, done)
        place.recover(row)


@pytest.mark.parametrize("hours", [-24, 24])
def test_files_of_another_time(hours: int, place: Place) -> None:
    """A clock set back is results from the future."""
    place.forget("tables")
    moment = time.time() + 3600 * hours
    for path in place.results.rglob("*"):
        os.utime(path, (moment, moment), follow_symlinks=False)
    with place.ledger.trying("The clock set a day back, or forth, in the middle of a study") as row:
        place.recover(row)


def test_snakemakes_folder_deleted(place: Place) -> None:
    shutil.rmtree(place.folder / ".snakemake")
    with place.ledger.trying("`.snakemake` deleted, after a run and after a kill") as row:
        place.recover(row)
    place.forget("runs")
    with place.ledger.trying("`.snakemake` deleted, after a run and after a kill") as row:
        process = place.start()
        place.wait_for(process, lambda: place.job(process, "train") is not None)
        time.sleep(2)
        kill_all(process)
        shutil.rmtree(place.folder / ".snakemake")
        place.recover(row)


def test_the_study_moved(place: Place, tmp_path: Path) -> None:
    with place.ledger.trying("The folder of the study moved") as row:
        moved = place.elsewhere(tmp_path / "moved")
        place.folder.rename(moved.folder)
        moved.configure(moved.small)
        moved.recover(row)
        moved.recover(row, "--forcerun", "sync")


def test_results_behind_a_link(place: Place, tmp_path: Path) -> None:
    place.clear()
    (tmp_path / "disk").mkdir()
    place.results.symlink_to(tmp_path / "disk")
    with place.ledger.trying("`results` a symbolic link") as row:
        place.recover(row)


def test_spaces_in_names(place: Place, tmp_path: Path) -> None:
    with place.ledger.trying("Spaces and quotes in the names of all folders") as row:
        spaced = place.elsewhere(tmp_path / "it's my study")
        spaced.clear()
        spaced.recover(row)
