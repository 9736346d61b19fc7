"""The whole pipeline killed at random moments, and single processes of it ended in every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from random import Random

import psutil
import pytest
from place import Place, family, kill_all

KILLS = 50
SHARES = (0.05, 0.5)
"""Of the time of an undisturbed run: when a kill comes."""
KILLED = "SIGKILL to Snakemake and all its processes, at random moments"


def test_fifty_kills_at_random_moments(place: Place) -> None:
    """One kill after another in one folder until the study is whole; then once more from nothing."""
    random, kills = Random(8), 0
    while kills < KILLS:
        place.clear()
        before = kills
        while kills < KILLS:
            process = place.start()
            try:
                text, _ = process.communicate(timeout=random.uniform(*SHARES) * place.undisturbed)
            except subprocess.TimeoutExpired:
                kill_all(process)
                kills += 1
                continue
            assert process.returncode == 0, text
            break
        with place.ledger.trying(KILLED, kills - before) as row:
            place.recover(row)


def ctrl_c(place: Place, process: subprocess.Popen[str], job: psutil.Process) -> None:
    os.killpg(process.pid, signal.SIGINT)


def kill_snakemake(place: Place, process: subprocess.Popen[str], job: psutil.Process) -> None:
    """Its jobs live on."""
    process.kill()


def kill_job(place: Place, process: subprocess.Popen[str], job: psutil.Process) -> None:
    job.kill()


def terminate_job(place: Place, process: subprocess.Popen[str], job: psutil.Process) -> None:
    job.terminate()


def stop_and_go_on(place: Place, process: subprocess.Popen[str], job: psutil.Process) -> None:
    everyone = [*family(process.pid), psutil.Process(process.pid)]
    for one in everyone:
        one.suspend()
    time.sleep(5)
    for one in everyone:
        one.resume()


FAULTS: dict[str, tuple[Callable[[Place, subprocess.Popen[str], psutil.Process], None], str, bool | None]] = {
    "Ctrl-C": (ctrl_c, "train", False),
    "SIGKILL to Snakemake alone, its jobs live on": (kill_snakemake, "train", False),
    "SIGKILL to a job that trains, as where memory runs out": (kill_job, "train", None),
    "SIGKILL to a job that measures, as where memory runs out": (kill_job, "features", None),
    "SIGTERM to a job that trains": (terminate_job, "train", None),
    "SIGTERM to a job that fits": (terminate_job, "fit", None),
    "SIGSTOP to all processes, SIGCONT after 5 s": (stop_and_go_on, "train", True),
}
"""By name: what is done, when which stage runs, and whether that run ends well, where this is sure."""


@pytest.mark.parametrize("fault", FAULTS)
def test_a_signal(fault: str, place: Place) -> None:
    action, stage, ends_well = FAULTS[fault]
    place.clear()
    with place.ledger.trying(fault) as row:
        process, found = place.start(), []
        place.wait_for(process, lambda: found.append(place.job(process, stage)) or found[-1] is not None)
        time.sleep(1)  # into its work
        action(place, process, found[-1])
        done = place.ended(process, time.monotonic())
        assert ends_well in (None, done.code == 0), done.text
        place.recover(row)


def test_two_at_once(place: Place) -> None:
    place.clear()
    with place.ledger.trying("A second Snakemake on the same results") as row:
        first = place.start()
        place.wait_for(first, lambda: place.job(first, "train") is not None)
        second = place.attempt()
        assert second.code != 0
        place.tell(row, second)
        assert len(second.lines) == 1
        assert "another snakemake runs" in second.lines[0]
        done = place.ended(first, time.monotonic())
        assert done.code == 0, done.text
        place.recover(row)
