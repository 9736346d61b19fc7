"""What surrounds the pipeline fails: the disk, access to it, the tracker, the clock, names and places."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from place import Place, kill_all

STAGES = {
    "data": "data",
    "training": "runs",
    "fits": "ufm",
    "tables": "tables",
    "figures": "figures",
    "the mirror": "mlflow",
}
"""Folders of results by what writes them."""


@contextmanager
def mounted(place: Place, *options: str) -> Iterator[None]:
    """The results on a mount of their own, which is gone afterwards; the content stays."""
    aside = place.folder / "aside"
    place.results.rename(aside)
    place.results.mkdir()
    command = ["mount", *(str(aside) if word == "ASIDE" else word for word in options), str(place.results)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"cannot mount here: {' '.join(command)}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place.results)], check=True)
        place.results.rmdir()
        aside.rename(place.results)


@pytest.mark.parametrize("stage", STAGES)
def test_a_full_disk(stage: str, place: Place) -> None:
    """The results on 64 MB, of which nothing is left when the stage begins; then there is room again."""
    shutil.rmtree(place.results / STAGES[stage])
    with place.ledger.trying("A full disk, from six stages on") as row:
        aside = place.folder / "aside"
        with mounted(place, "-t", "tmpfs", "-o", "size=64m", "ncpipe"):
            subprocess.run(["cp", "-a", f"{aside}/.", str(place.results)], check=True)
            ballast = place.results / "ballast"
            with ballast.open("wb", buffering=0) as stream:
                try:
                    while True:
                        stream.write(bytes(4096))
                except OSError:
                    pass
            done = place.attempt()
            assert done.code != 0
            place.tell(row, done)
            assert any("No space left" in line for line in done.lines), done.text
            ballast.unlink()
            place.recover(row)


@pytest.mark.parametrize("stage", STAGES)
def test_a_read_only_folder(stage: str, place: Place) -> None:
    shutil.rmtree(place.results / STAGES[stage])
    with place.ledger.trying("Results that must not be written, from six stages on") as row:
        with mounted(place, "-o", "bind,ro", "ASIDE"):
            done = place.attempt()
            assert done.code != 0
            place.tell(row, done)
            assert any("Read-only" in line for line in done.lines), done.text
        place.recover(row)


def test_a_dead_tracking_server(place: Place) -> None:
    with place.ledger.trying("A tracking server that does not answer") as row:
        place.configure(place.small | {"tracking.uri": "http://127.0.0.1:9"})
        shutil.rmtree(place.results / "runs")
        done = place.attempt()
        assert done.code != 0
        place.tell(row, done)
        assert place.products() == place.reference
        place.configure(place.small)
        place.recover(row)


def test_a_store_deleted_while_running(place: Place) -> None:
    with place.ledger.trying("MLflow's store deleted while networks train") as row:
        shutil.rmtree(place.results / "runs")
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
    shutil.rmtree(place.results / "tables")
    moment = time.time() + 3600 * hours
    for path in place.results.rglob("*"):
        os.utime(path, (moment, moment), follow_symlinks=False)
    with place.ledger.trying("The clock set a day back, or forth, in the middle of a study") as row:
        place.recover(row)


def test_snakemakes_folder_deleted(place: Place) -> None:
    shutil.rmtree(place.folder / ".snakemake")
    with place.ledger.trying("`.snakemake` deleted, after a run and after a kill") as row:
        place.recover(row)
    shutil.rmtree(place.results / "runs")
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
