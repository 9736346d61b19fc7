"""Signals that end a job early: the run is saved and the command ends with a code of its own."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 75
"""Exit code of a run that was told to stop and has saved its state (EX_TEMPFAIL of sysexits.h): run it again."""
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class Preempted(SystemExit):
    """The run was told to stop and is saved."""

    def __init__(self, message: str) -> None:
        super().__init__(EXIT_CODE)
        self.message = message


class StopRequest:
    """Whether one of ``SIGNALS`` has come."""

    def __init__(self) -> None:
        self.name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the signals instead of dying of them; the handlers before are put back at the end.

    Must be entered in the main thread. A second signal is noted like the first: saving takes seconds at most.
    """
    request = StopRequest()
    before = {number: signal.signal(number, request._note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
