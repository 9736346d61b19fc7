"""Where a workflow starts the server of its jobs, and ends it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from ncpipe.job_server.client import ADDRESS

LONGEST = 100
"""Bytes of a path that a Unix socket can have (108 with its end and its name)."""
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "GOTO_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)  # fmt: skip
"""What Snakemake sets to the threads of a job."""
ONE_THREAD = dict.fromkeys(THREAD_VARIABLES, "1")
WITHOUT_THREAD = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
"""Has Arrow's allocator start no thread of its own."""

_servers: dict[Path, subprocess.Popen[bytes]] = {}


def serve_jobs(log: Path) -> None:
    """Start the server of the jobs of this process; it ends with it, or by ``serve_no_more``.

    The jobs of a workflow that a job of another runs are the other's server's. Linux only: elsewhere libraries do not
    bear a fork.
    """
    if sys.platform != "linux" or ADDRESS in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="ncpipe-"))  # for its user alone
    if len(os.fsencode(folder)) > LONGEST:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="ncpipe-", dir="/tmp"))
    address = folder / "socket"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener, log.open("w") as stream:
        listener.bind(str(address))
        listener.listen(128)  # from here on jobs wait for the server
        _servers[folder] = subprocess.Popen(
            [sys.executable, "-P", "-m", "ncpipe.job_server.server", str(folder), str(listener.fileno())],
            env=os.environ | ONE_THREAD | WITHOUT_THREAD,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # Ctrl-C is for the jobs, which get it from what stands in for them
        )
    os.environ[ADDRESS] = str(address)


def job_behind(process: int) -> int | None:
    """The process of the job for which a process stands in, if it does."""
    try:
        return int(str(Path(os.environ[ADDRESS]).with_name(str(process)).readlink()))
    except (KeyError, ValueError, OSError):
        return None


def serve_no_more() -> None:
    """End the server when its last job has ended."""
    for folder, server in _servers.items():
        os.environ.pop(ADDRESS, None)
        assert server.stdin is not None
        server.stdin.close()
        shutil.rmtree(folder, ignore_errors=True)
    _servers.clear()
