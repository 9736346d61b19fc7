"""One workflow at a time on a results folder: a lock that the system frees when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from ncpipe.system.errors import UserError
from ncpipe.system.files import unwritable

HELD = "NCPIPE_HELD"
"""Environment variable by which a workflow knows the folder that the workflow which started it holds."""

_held: list[TextIO] = []


def hold(results: Path) -> None:
    """Hold ``results/.lock`` until this process ends; ``UserError`` where another process holds it.

    Where the file system knows no locks, one line says so and nothing is held.
    """
    path = results / ".lock"
    if os.environ.get(HELD) == str(results.resolve()):
        return
    try:
        results.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise unwritable(path, error) from None
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        holder = stream.read().strip() or "unknown"
        raise UserError(
            f"another snakemake runs on {results} (process {holder}): wait until it has ended, or end it, then run"
            " again"
        ) from None
    except OSError as error:
        note = f"ncpipe: {path} cannot be locked ({error.strerror}): run one snakemake at a time on these results"
        print(note, file=sys.stderr, flush=True)
        return
    with suppress(OSError):  # the disk is full: the lock is held all the same
        stream.truncate(0)
        print(f"{os.getpid()} on {socket.gethostname()}", file=stream, flush=True)
    _held.append(stream)
    os.environ[HELD] = str(results.resolve())
