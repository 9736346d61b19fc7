"""Progress of long work: a bar on a terminal, a plain line now and then in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG_INTERVAL = 10.0
"""Seconds between plain lines."""


@contextmanager
def progress(label: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """Yield ``update(done, text)``; ``total`` and ``done`` count the same unit."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(label, total=total, completed=done, text="")
            yield lambda count, text: bar.update(task, completed=count, text=text)
        return

    last = 0.0

    def update(count: int, text: str) -> None:
        nonlocal last
        if count == total or time.monotonic() - last > LOG_INTERVAL:
            last = time.monotonic()
            print(f"{label} {count}/{total} {text}", file=sys.stderr, flush=True)

    yield update


@contextmanager
def silent(label: str, total: int, done: int = 0) -> Iterator[Callable[[int, str], None]]:
    """In place of ``progress`` where another process shows it."""
    yield lambda count, text: None
