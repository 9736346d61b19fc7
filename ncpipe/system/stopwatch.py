"""How long a job took to start and how long it worked, said in the last line of its log."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ncpipe.system.process import process_age

LINE = re.compile(r"^ncpipe: start-up ([\d.]+) s, work ([\d.]+) s$", re.MULTILINE)


_waited = 0.0


@contextmanager
def waiting() -> Iterator[None]:
    """Around a wait for another job, which is no start-up."""
    global _waited
    began = time.perf_counter()
    yield
    _waited += time.perf_counter() - began


@contextmanager
def work() -> Iterator[None]:
    """Around the work of a job, after imports and reading: where it ends well, print the line that ``LINE`` reads."""
    start_up, began = process_age() - _waited, time.perf_counter()
    yield
    print(f"ncpipe: start-up {start_up:.2f} s, work {time.perf_counter() - began:.2f} s", flush=True)


def start_up(log: str) -> float | None:
    """Seconds of start-up that the log of a job tells, if it does."""
    found = LINE.findall(log)
    return float(found[-1][0]) if found else None
