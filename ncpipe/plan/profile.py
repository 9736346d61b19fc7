"""Where the time of the last workflow went: work, start-up of jobs, and what Snakemake took."""

from __future__ import annotations

import csv
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ncpipe.plan.units import clock
from ncpipe.study.layout import Layout
from ncpipe.system import stopwatch
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, write_json


def record_path(layout: Layout) -> Path:
    return layout.results / "logs" / "workflow.json"


def workflow_starts(layout: Layout, cores: int | None) -> None:
    """Note when this process, Snakemake's, was created: its hook ``onstart`` runs after parsing and planning."""
    write_json(record_path(layout), {"started": time.time() - stopwatch.process_age(), "cores": cores})


def workflow_ends(layout: Layout) -> None:
    """Note the end of the workflow, failed or not."""
    path = record_path(layout)
    write_json(path, read_json(path) | {"finished": time.time()})


@dataclass(frozen=True)
class Job:
    """A job of the workflow; times in seconds, ``end`` since the epoch."""

    stage: str
    end: float
    seconds: float
    start_up: float | None


@dataclass(frozen=True)
class Profile:
    """The last workflow: its jobs, and the times of its process in seconds since the epoch."""

    started: float
    finished: float
    cores: int | None
    jobs: tuple[Job, ...]

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
        jobs = (job for job in _jobs(layout) if span[0] <= job.end <= span[1])
        return cls(*span, record["cores"], tuple(jobs))

    @property
    def wall(self) -> float:
        return self.finished - self.started

    @property
    def idle(self) -> float:
        """Seconds of the wall time in which no job ran."""
        return self.wall - covered((max(job.end - job.seconds, self.started), job.end) for job in self.jobs)

    @property
    def start_up(self) -> float:
        """Seconds of start-up of all jobs."""
        return sum(job.start_up or 0 for job in self.jobs)

    @property
    def overhead(self) -> float:
        """Share of the cores' time that was no work: no job at all, or one that started."""
        return self.idle / self.wall + self.start_up / (self.wall * (self.cores or 1))


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _jobs(layout: Layout) -> Iterator[Job]:
    benchmarks, logs = layout.results / "benchmarks", layout.results / "logs"
    for path in sorted(benchmarks.rglob("*.tsv")):
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
        job = path.relative_to(benchmarks).with_suffix("")
        log = logs / job.with_name(f"{job.name}.log")
        text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        stage = "match" if job.name.startswith("matched-") and job.parts[0] == "ufm" else job.parts[0]
        yield Job(stage, path.stat().st_mtime, float(rows[-1]["s"]), stopwatch.start_up(text))


def print_profile(layout: Layout) -> None:
    """Print the profile of the last workflow of a study."""
    from rich.console import Console
    from rich.table import Table

    profile = Profile.read(layout)
    table = Table("stage", box=None)
    for heading in ("jobs", "time", "of it start-up"):
        table.add_column(heading, justify="right")
    for stage in dict.fromkeys(job.stage for job in sorted(profile.jobs, key=lambda job: job.end)):
        own = [job for job in profile.jobs if job.stage == stage]
        table.add_row(stage, *_sums(own))
    table.add_row("total", *_sums(profile.jobs))
    console = Console(highlight=False)
    console.print(table)
    for line in _lines(profile):
        console.print(line, soft_wrap=True)


def _sums(jobs: Iterable[Job]) -> tuple[str, str, str]:
    listed = list(jobs)
    started = [job.start_up for job in listed if job.start_up is not None]
    return str(len(listed)), clock(sum(job.seconds for job in listed)), f"{sum(started):.1f} s" if started else ""


def _lines(profile: Profile) -> Iterator[str]:
    cores = f" on {profile.cores} cores" if profile.cores else ""
    yield f"wall time {clock(profile.wall)}{cores}"
    yield (
        f"no job ran for {profile.idle:.1f} s, {profile.idle / profile.wall:.1%} of it:"
        " Snakemake's parsing, planning and choosing"
    )
    share = profile.start_up / (profile.wall * (profile.cores or 1))
    yield f"jobs started for {profile.start_up:.1f} s, {share:.1%} of the cores' time"
    silent = sum(job.start_up is None for job in profile.jobs)
    if silent:
        yield f"start-up of {silent} jobs unknown: their logs do not tell it"
    yield f"overhead: {profile.overhead:.1%}"
