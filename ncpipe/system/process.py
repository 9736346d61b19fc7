"""The process of this job as others see it: its own, or the one that handed the job over to a server."""

from __future__ import annotations

import os
import time
from pathlib import Path

pid = os.getpid()


def configure_libraries() -> None:
    """Set what numerical libraries read from the environment when they are loaded, where the user has not."""
    # MKL then gives a product the same bits wherever its factors lie in memory, so that a run does not depend on
    # what it is batched with. It is read at the first product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    # A thread of libgomp that waits for others sleeps after some 50 microseconds, not after milliseconds: where other
    # processes are busy, those are not running. It is what libgomp takes where it has more threads than cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def parent() -> int:
    """The process that started it."""
    if pid == os.getpid():
        return os.getppid()
    return int(_stat()[1])


def process_age() -> float:
    """Seconds since it was created."""
    if Path("/proc/self/stat").exists():  # finer than psutil, whose time of boot is in whole seconds there
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(_stat()[19]) / os.sysconf("SC_CLK_TCK")
    import psutil

    return time.time() - psutil.Process().create_time()


def _stat() -> list[str]:
    """Fields of ``/proc/PID/stat`` from the third on, see proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
