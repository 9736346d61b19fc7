"""Processes that start at once: forks of a server that has imported what they run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ncpipe.cli.main import main

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["pytest", "torch", "torchmetrics", "hypothesis", "ncpipe.training.trainer", __name__])


def run_ranks(function: Callable[..., None], arguments: tuple[Any, ...], count: int) -> None:
    """``torch.multiprocessing.spawn``."""
    torch.multiprocessing.start_processes(function, arguments, count, start_method="forkserver")


class Command:
    """``ncpipe`` with these words in a process of its own, which writes all that it says into a log."""

    def __init__(self, log: Path, *words: str | Path) -> None:
        self.log, surroundings = log, dict(os.environ)
        self.process = FORKS.Process(target=_run, args=([*map(str, words)], str(log), surroundings, str(Path.cwd())))
        self.process.start()

    def wait_for(self, file: Path) -> None:
        """Return once the file is there."""
        while not file.exists():
            self.process.join(0.005)
            assert self.process.exitcode is None, self.log.read_text()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def ended(self, seconds: float = 120) -> tuple[int | None, str]:
        """Its exit code, and what it has said."""
        self.process.join(seconds)
        return self.process.exitcode, self.log.read_text()


def _run(words: list[str], log: str, surroundings: dict[str, str], folder: str) -> None:
    os.environ.clear()
    os.environ.update(surroundings)
    os.chdir(folder)
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(stream, descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["ncpipe", *words]
    main()
