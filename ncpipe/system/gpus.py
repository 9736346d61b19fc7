"""The pool of GPUs of a workstation: jobs take slots by file locks, for Snakemake counts GPUs but assigns none."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from pathlib import Path

import torch
from filelock import BaseFileLock, FileLock, Timeout

from ncpipe.system.stopwatch import waiting

POLL = 1.0
"""Seconds between two looks for a free slot."""


@contextmanager
def claimed_gpus(count: int = 1, jobs_per_gpu: int = 1) -> Iterator[list[int] | None]:
    """Hold a slot on each of ``count`` GPUs of this machine, waiting until they are free; their numbers.

    A slot is a lock on a file of the user's in the temporary folder: the system frees it when the process ends,
    however it ends. Yields None where nothing is to be claimed: there is no GPU, or somebody else has assigned
    them, by ``CUDA_VISIBLE_DEVICES`` or as SLURM does for its jobs. Where there are fewer GPUs than ``count`` but
    some, all of them are claimed.
    """
    present = 0 if is_assigned() else torch.cuda.device_count()
    if not present:
        yield None
        return
    with ExitStack() as held:
        with waiting():
            claimed = _wait_for(min(count, present), present, jobs_per_gpu, held)
        yield claimed


def is_assigned() -> bool:
    """Whether this process has been told its GPUs, or that it has none."""
    return "CUDA_VISIBLE_DEVICES" in os.environ or "SLURM_JOB_ID" in os.environ


def _wait_for(count: int, present: int, jobs_per_gpu: int, held: ExitStack) -> list[int]:
    told = False
    while True:
        # Jobs that need several GPUs take them together, so that no two wait for each other's.
        with _lock("all", timeout=-1), ExitStack() as locks:
            chosen = _free_slots(count, present, jobs_per_gpu, locks)
            if len(chosen) == count:
                held.enter_context(locks.pop_all())
                return sorted(chosen)
        if not told:
            print(f"all GPUs are taken ({present}, {jobs_per_gpu} jobs each): waiting for one", flush=True)
            told = True
        time.sleep(POLL)


def _free_slots(count: int, present: int, jobs_per_gpu: int, locks: ExitStack) -> list[int]:
    """GPUs of which a slot was free and is locked now, ``count`` at most, those first that have the fewest jobs."""
    chosen: list[int] = []
    for number, gpu in product(range(jobs_per_gpu), range(present)):
        if gpu not in chosen and len(chosen) < count:
            with suppress(Timeout):
                locks.enter_context(_lock(f"gpu{gpu}.{number}", timeout=0))
                chosen.append(gpu)
    return chosen


def _lock(name: str, timeout: float) -> BaseFileLock:
    return FileLock(pool_folder() / f"{name}.lock", timeout=timeout)


def pool_folder() -> Path:
    """Where the locks lie: a folder of this user's, made with no access for others."""
    folder = Path(tempfile.gettempdir()) / f"ncpipe-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
