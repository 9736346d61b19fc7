"""Snakemake's terminal: a bar for every stage, or in a log a line for every job; all else as Snakemake says it.

``logger: [ncpipe]`` in a profile, or ``snakemake --logger ncpipe``. Commands, inputs and reasons of all jobs stand in
the complete log, whose path the last line names.
"""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from logging import WARNING, LogRecord
from statistics import fmean
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from snakemake_logger_plugin_ncpipe.extras import require_extras

require_extras(sys.argv[1:])

DETAILS = {
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.GROUP_INFO,
    LogEvent.SHELLCMD,
    LogEvent.PROGRESS,
}
"""Events of which the complete log tells."""
CHATTER = (
    "Assuming unrestricted shared",
    "Building DAG",
    "Using shell:",
    "Conda environments:",
    "Singularity containers:",
    "Group jobs:",
    "Select jobs to execute",
    "Elapsed time:",
)
TOLD = 0.05
"""Share of the jobs that have ended before the time left is told."""


class Pace:
    """Jobs of a workflow by rule: how long they took, and what that says of those to come."""

    def __init__(self, jobs: Counter[str]) -> None:
        self.jobs, self.began = jobs, time.monotonic()
        self.took: dict[str, list[float]] = defaultdict(list)
        self.running: dict[int, tuple[str, float]] = {}

    @property
    def done(self) -> int:
        return sum(map(len, self.took.values()))

    def start(self, job: int, rule: str) -> None:
        self.running[job] = rule, time.monotonic()

    def end(self, job: int) -> tuple[str, float]:
        """Rule and seconds of a job that has ended."""
        rule, began = self.running.pop(job)
        seconds = time.monotonic() - began
        self.took[rule].append(seconds)
        return rule, seconds

    def fail(self, job: int) -> None:
        """Forget a job that has failed; it may be started again."""
        self.running.pop(job, None)

    def left(self) -> float | None:
        """Seconds to the end, if jobs take what others of their rule took, and as many run at once; None at first."""
        now, worked = time.monotonic(), sum(map(sum, self.took.values()))
        if not self.done or self.done < TOLD * self.jobs.total():
            return None
        mean = worked / self.done
        rest = sum((n - len(self.took[rule])) * fmean(self.took[rule] or [mean]) for rule, n in self.jobs.items())
        spent = sum(now - began for _, began in self.running.values())
        at_once = (worked + spent) / max(now - self.began, 1e-9)
        return max(rest - spent, 0.0) / max(at_once, 1e-9)


class LogHandler(LogHandlerBase):
    """Bars on a terminal, lines elsewhere."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        settings = self.common_settings
        self.console = Console(
            stderr=not settings.stdout, no_color=settings.nocolor or None, highlight=False, soft_wrap=True
        )
        self.as_snakemake = settings.dryrun or settings.verbose or settings.debug_dag
        self.pace = Pace(Counter())
        self.names: dict[int, str] = {}
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self.bars = Progress(*columns, console=self.console, disable=not self.console.is_terminal)
        self.tasks: dict[str, TaskID] = {}

    def emit(self, record: LogRecord) -> None:
        try:
            self._tell(record)
        except Exception:
            self.handleError(record)

    def _tell(self, record: LogRecord) -> None:
        tellers = {LogEvent.RUN_INFO: self._plan, LogEvent.JOB_INFO: self._start, LogEvent.JOB_FINISHED: self._end}
        event = None if self.as_snakemake else getattr(record, "event", None)
        if event == LogEvent.JOB_ERROR:
            self.pace.fail(int(record.__dict__["jobid"]))
        if event in tellers:
            tellers[event](record.__dict__)
        elif event not in DETAILS and self._is_told(record) and (text := self.format(record)) not in ("", "None"):
            self.console.print(text, markup=False, style="red" if record.levelno > WARNING else None)

    def _is_told(self, record: LogRecord) -> bool:
        text = record.getMessage()
        return self.as_snakemake or record.levelno >= WARNING or not text.startswith(CHATTER)

    def _plan(self, told: dict[str, Any]) -> None:
        """The jobs of the workflow: a bar for all, and one a stage."""
        stats = told["stats"]
        jobs = Counter({str(rule): int(n) for rule, n in stats.items() if rule not in ("total", "all")})
        self.pace = Pace(jobs)
        self.console.print(f"{jobs.total()} jobs: " + ", ".join(f"{n} {_stage(rule)}" for rule, n in jobs.items()))
        for name, total in (("all", jobs.total()), *jobs.items()):
            self.tasks[name] = self.bars.add_task(_stage(name), total=total, left="", start=name == "all")
        self.bars.start()

    def _start(self, told: dict[str, Any]) -> None:
        rule, job = str(told["rule_name"]), int(told["jobid"])
        self.names[job] = " ".join([_stage(rule), *map(str, (told["wildcards"] or {}).values())])
        self.pace.start(job, rule)
        if rule in self.tasks:
            self.bars.start_task(self.tasks[rule])

    def _end(self, told: dict[str, Any]) -> None:
        job = int(told["job_id"])
        if job not in self.pace.running:
            return
        rule, seconds = self.pace.end(job)
        if rule not in self.pace.jobs:
            return
        left, ended = self.pace.left(), self.pace.done == self.pace.jobs.total()
        rest = "" if left is None or ended else f"about {_clock(left)} left"
        for name in (rule, "all"):
            self.bars.advance(self.tasks[name])
        self.bars.update(self.tasks["all"], left=rest)
        if ended:
            self.bars.stop()  # what follows stands below them
        if self.bars.disable:
            place = f"[{self.pace.done}/{self.pace.jobs.total()}]"
            self.console.print(
                f"{place} {self.names[job]}: {_clock(seconds)}" + (f"; {rest}" if rest else ""), markup=False
            )

    def close(self) -> None:
        self.bars.stop()
        super().close()


def _stage(rule: str) -> str:
    return rule.replace("_", " ")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
