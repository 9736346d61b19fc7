"""The process of this job as others see it: its own, or the one that handed the job over to a server."""

from __future__ import annotations

import os
import time
from pathlib import Path

pid = os.getpid()


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
