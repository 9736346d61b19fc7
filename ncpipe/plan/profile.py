"""Where the time of the last workflow went: work, start-up of jobs, and what Snakemake took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ncpipe.plan.units import clock
from ncpipe.plan.workflow import record_path
from ncpipe.study.layout import Layout
from ncpipe.system import stopwatch
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json


@dataclass(frozen=True)
class Profile:
    """The last workflow: the times of its process in seconds since the epoch, and its jobs."""

    started: float
    finished: float
    cores: int | None
    jobs: pd.DataFrame
    """stage, end (since the epoch), seconds, and start_up in seconds, NaN where the log does not tell it."""

    @classmethod
    def read(cls, layout: Layout) -> Profile:
        """From the record of the workflow and the benchmarks and logs of the jobs that ended while it ran."""
        path = record_path(layout)
        if not path.exists():
            raise UserError(f"no record of a workflow in {path}; run the study first")
        record = read_json(path)
        if "finished" not in record:
            raise UserError("the last workflow still runs or was killed; profile it when one has ended")
        span = record["started"], record["finished"]
        jobs = pd.DataFrame(_jobs(layout), columns=["stage", "end", "seconds", "start_up"])
        return cls(*span, record["cores"], jobs[jobs["end"].between(*span)].sort_values("end"))


def covered(start: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """Length of the union of intervals."""
    order = np.argsort(start)
    reached = np.maximum.accumulate(end[order])
    return float(np.maximum(0, reached - np.maximum(start[order], np.append(-np.inf, reached[:-1]))).sum())


def _jobs(layout: Layout) -> Iterator[tuple[str, float, float, float | None]]:
    benchmarks, logs = layout.results / "benchmarks", layout.results / "logs"
    for path in sorted(benchmarks.rglob("*.tsv")):
        job = path.relative_to(benchmarks)
        log = logs / job.with_suffix(".log")
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        stage = "match" if job.parts[0] == "ufm" and job.name.startswith("matched-") else job.with_suffix("").parts[0]
        seconds = pd.read_csv(path, sep="\t")["s"].iloc[-1]
        yield stage, path.stat().st_mtime, float(seconds), stopwatch.start_up(text)


def print_profile(layout: Layout) -> None:
    """Print the profile of the last workflow of a study."""
    from rich.console import Console
    from rich.table import Table

    profile = Profile.read(layout)
    table = Table("stage", box=None)
    for heading in ("jobs", "time", "of it start-up"):
        table.add_column(heading, justify="right")
    for stage, jobs in [*profile.jobs.groupby("stage", sort=False), ("total", profile.jobs)]:
        started = f"{jobs['start_up'].sum():.1f} s" if jobs["start_up"].notna().any() else ""
        table.add_row(str(stage), str(len(jobs)), clock(jobs["seconds"].sum()), started)
    console = Console(highlight=False)
    console.print(table)
    for line in _lines(profile):
        console.print(line, soft_wrap=True)


def _lines(profile: Profile) -> Iterator[str]:
    jobs, wall = profile.jobs, profile.finished - profile.started
    start = (jobs["end"] - jobs["seconds"]).clip(lower=profile.started)
    idle = wall - covered(start.to_numpy(), jobs["end"].to_numpy())
    starting = jobs["start_up"].sum() / (wall * (profile.cores or 1))
    yield f"wall time {clock(wall)}" + (f" on {profile.cores} cores" if profile.cores else "")
    yield f"no job ran for {idle:.1f} s, {idle / wall:.1%} of it: Snakemake's parsing, planning and choosing"
    yield f"jobs started for {jobs['start_up'].sum():.1f} s, {starting:.1%} of the cores' time"
    if silent := jobs["start_up"].isna().sum():
        yield f"start-up of {silent} jobs unknown: their logs do not tell it"
    yield f"overhead: {idle / wall + starting:.1%}"
