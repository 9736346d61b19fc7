"""Jobs that a Snakemake which died has left in SLURM's queue: cancelled before another sends them again."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, write_json

PATIENCE = 300.0
"""Seconds in which cancelled jobs must have ended: trainings save their state first."""


def take_over(record: Path, name: str) -> None:
    """Cancel the jobs of the last Snakemake on these results, and keep the name that those of this one bear.

    Left alone, a job of the old one and one of the new would make every result twice. Raises ``UserError`` where
    SLURM does not answer or the old jobs do not end.

    Args:
        record: file that keeps the name between Snakemakes.
        name: that of this Snakemake's jobs.
    """
    if record.exists():
        _cancel(read_json(record)["job_name"])
    write_json(record, {"job_name": name})


def _cancel(name: str) -> None:
    left = _jobs(name)
    if not left:
        return
    print(f"cancelling {len(left)} jobs that an earlier Snakemake has left in the queue", flush=True)
    _slurm("scancel", "--quiet", *left)
    end = time.monotonic() + PATIENCE
    while left := _jobs(name):
        if time.monotonic() > end:
            raise UserError(
                f"jobs of an earlier Snakemake do not end: {' '.join(left)}; see `squeue --me`, run again"
            )
        time.sleep(1)


def _jobs(name: str) -> list[str]:
    return _slurm("squeue", "--me", "--noheader", "--format=%i", f"--name={name}").split()


def _slurm(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        reason = str(getattr(error, "stderr", None) or error).strip()
        raise UserError(f"{command[0]} does not answer ({reason}); run again when SLURM is up") from None
