"""Where ``ncpipe`` hands a job to the job server of its workflow, and stands in for it until it ends.

It imports nothing but the standard library: it is in every job's way.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

ADDRESS = "NCPIPE_JOB_SERVER"
"""Environment variable by which the jobs of a workflow know the socket of its server."""
PATIENCE = 120.0
"""Seconds until a server that does not answer, since it imports for others, is left alone."""
FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def hand_over() -> None:
    """Run this process's command as a fork of the job server, and end as it ends; return where no server takes it.

    The job has the directory, environment and standard streams of this process, gets the signals that this one gets,
    and is killed if this one is. A server that dies takes its jobs with it: this process then does the job itself.
    """
    address = os.environ.pop(ADDRESS, "")  # what the job starts itself is none of the server's
    held = signal.pthread_sigmask(signal.SIG_BLOCK, [*FORWARDED, signal.SIGTSTP])
    try:
        status = _ended(address)
    except (OSError, ValueError):
        return
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    if status is not None:
        _end_as(os.waitstatus_to_exitcode(status))


def _ended(address: str) -> int | None:
    """The wait status of the job; None where the server has not run it to its end."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(address)
        if peer(connection)[1] != os.getuid():
            return None
        request = json.dumps({
            "argv": sys.argv, "cwd": os.getcwd(),  # noqa: PTH109 - pathlib would take longer than all of this
            "environ": dict(os.environ), "path": sys.path, "pid": os.getpid(), "python": [sys.prefix, sys.version],
        }).encode()  # fmt: skip
        socket.send_fds(connection, [struct.pack("=Q", len(request))], [0, 1, 2])
        connection.sendall(request)
        _, jobs, *_ = socket.recv_fds(connection, 1, 1)
        for job in jobs:  # one, or none where the server refuses it
            connection.settimeout(None)
            with _forwarding(job) as woken:
                with suppress(ConnectionError):
                    _wait(connection, woken)
                    if status := connection.makefile("rb").readline():
                        return int(status)
                _wait(job, woken)
    return None


def peer(connection: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a Unix socket."""
    pid, user, _ = struct.unpack("=3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return pid, user


def _wait(source: int | socket.socket, woken: socket.socket) -> None:
    """Wait until there is something to read; Python would miss a signal that comes just before a wait in ``recv``."""
    while source not in select.select([source, woken], [], [])[0]:
        woken.recv(64)


@contextmanager
def _forwarding(job: int) -> Iterator[socket.socket]:
    """Give the job the signals that this process gets, and stop and go on with it; what is yielded wakes at each."""

    def forward(number: int, _: object) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(job, number)

    def stop(*_: object) -> None:
        forward(signal.SIGSTOP, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        forward(signal.SIGCONT, None)

    before = {number: signal.getsignal(number) for number in (*FORWARDED, signal.SIGTSTP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, stop if number == signal.SIGTSTP else forward)
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_as(code: int) -> None:
    if code < 0:
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [-code])
        os.kill(os.getpid(), -code)
    os._exit(code)
