"""The job server: a process that imports what jobs need, once, and forks one process a job.

``python -m ncpipe.job_server.server FOLDER LISTENER`` serves on a listening socket until its standard input ends.
Fork is safe here since nothing has been computed: no CUDA context, no pool of OpenMP, BLAS, torch or Arrow, one
thread. Where that is not so, or where code or environment of a job are not the server's, the job starts as it would
without.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import json
import os
import select
import selectors
import shutil
import signal
import socket
import struct
import sys
import sysconfig
import tempfile
import threading
import weakref
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module, invalidate_caches
from itertools import compress
from mmap import mmap
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from ncpipe.job_server.client import peer
from ncpipe.job_server.start import WITHOUT_THREAD
from ncpipe.system import process
from ncpipe.system.lock import HELD

TRACKING = ("ncpipe.tracking.sync", "ncpipe.tracking.live", "ncpipe.tracking.experiment")
DRAWING = ("ncpipe.figures.drawing.output", "matplotlib.backends.backend_pdf", "matplotlib.backends.backend_svg")
IMPORTS = {
    "dataset": ("torch", "ncpipe.data.preparation"),
    "train": ("ncpipe.stages.train", "torch._dynamo"),  # which torch.optim imports when it is used
    "features": ("ncpipe.features.extraction", "ncpipe.stages.devices"),
    "collapse": ("ncpipe.stages.collapse",),
    "fit": ("ncpipe.stages.fit",),
    "match": ("ncpipe.stages.match", "ncpipe.stages.collapse"),
    "continual": ("ncpipe.stages.continual", "ncpipe.stages.devices", "torch._dynamo"),
    "tables": ("ncpipe.stages.tables", "ncpipe.recording.folder"),
    "figure": ("ncpipe.cli.figure", *DRAWING),
    "report": ("ncpipe.report", "ncpipe.figures", "ncpipe.tracking.view"),
    "claims": ("ncpipe.report.claims_page",),
    "store": TRACKING,
    "live": TRACKING,
    "sync": TRACKING,
}
"""What a command's jobs import, imported before the first of them is forked."""
PERHAPS = ("torchvision",)
"""What some jobs import: imported when one of them has done so."""
OF_A_JOB = {"PATH", "PWD", "OLDPWD", "SHLVL", "_", "TMPDIR", "TMP", "TEMP", "TEMPDIR", HELD, *WITHOUT_THREAD}
"""Environment variables in which jobs may differ from the server: nothing reads them when it is imported."""
LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib")})
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Job:
    pid: int
    connection: socket.socket
    handle: int
    link: Path
    """From the process that stands in for the job to the job: Snakemake's benchmarks follow it."""


class Server:
    """The sockets and jobs of a server, each with what is done when something happens to it."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.folder, self.listener = folder, listener
        self.environment = dict(os.environ)
        process.configure_libraries()
        self.library = self._library()
        self.imported = mmap(-1, len(PERHAPS))
        """Whether a job has, a byte each, shared with the jobs."""
        self.modules = 0
        """How many are imported."""
        self.sources: dict[str, set[tuple[str, int, int]]] = {}
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ, self._accept)
        self.selector.register(0, selectors.EVENT_READ, self._leave)

    def serve(self) -> None:
        """Fork jobs until the workflow has ended, and wait for those that still run."""
        while self.selector.get_map():
            for key, _ in self.selector.select():
                if key.fd in self.selector.get_map():
                    key.data()

    def _leave(self) -> None:
        self.selector.unregister(0)
        self.selector.unregister(self.listener)
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _accept(self) -> None:
        connection, _ = self.listener.accept()
        streams: list[int] = []
        try:
            connection.settimeout(10)
            header, streams, *_ = socket.recv_fds(connection, 8, 3)
            size = struct.unpack("=Q", header)[0]
            request = json.loads(connection.makefile("rb").read(size))
            command = " ".join(request["argv"][1:])
            if refusal := self._refusal(connection, request) or self._import(command.partition(" ")[0]):
                print(f"{command}: {refusal}: started anew", file=sys.stderr, flush=True)
                connection.sendall(b"-")
                connection.close()
            else:
                self._fork(connection, request, streams)
        except (OSError, ValueError, struct.error):
            connection.close()
        finally:
            for stream in streams:
                os.close(stream)

    def _refusal(self, connection: socket.socket, request: dict[str, Any]) -> str:
        """Why the job cannot be forked here; empty if it can."""
        ours, theirs = self.environment, request["environ"]
        differing = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)} - OF_A_JOB
        if peer(connection)[1] != os.getuid():
            return "of another user"
        if select.select([connection], [], [], 0)[0]:
            return "given up"
        if request["python"] != [sys.prefix, sys.version] or self.library != self._library():
            return "of another Python or other packages"
        if differing:
            return f"other environment ({', '.join(sorted(differing))})"
        if any(_sources(place) != known for place, known in self.sources.items()):
            return "the code has changed since the workflow started"
        return ""

    def _import(self, command: str) -> str:
        """Import what jobs of a command need; why none can be forked then, empty if they can."""
        for name in ("ncpipe.cli.main", *IMPORTS.get(command, ()), *compress(PERHAPS, self.imported[:])):
            with suppress(Exception):  # the job meets it too, and says it
                import_module(name)
        if len(sys.modules) > self.modules:
            self.modules = len(sys.modules)
            gc.freeze()  # modules live to the end: their pages stay shared with the jobs
            # Those of torch would cost a job more than its start.
            for finalizer in [*weakref.finalize._registry]:  # type: ignore[attr-defined]
                finalizer.atexit = False
            files = [vars(module).get("__file__") for module in sys.modules.values()]
            for folder in {str(Path(file).parent) for file in files if file} - self.sources.keys():
                if not folder.startswith(LIBRARIES):
                    self.sources[folder] = _sources(folder)
        threads = len([*Path("/proc/self/task").iterdir()])
        return "" if threads == 1 else "threads in the job server"

    @staticmethod
    def _library() -> set[str]:
        """Changes when a package is installed or removed; the date would change too when a module is compiled."""
        return {path.name for path in Path(sysconfig.get_path("purelib")).iterdir()} - {"__pycache__"}

    def _fork(self, connection: socket.socket, request: dict[str, Any], streams: list[int]) -> None:
        """Fork a job, which starts with all signals blocked: it must not miss one that is sent before it looks."""
        held, parent = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()), os.getpid()
        try:
            pid = os.fork()
            if pid == 0:
                for key in [*self.selector.get_map().values()]:
                    os.close(key.fd)
                connection.close()
                do(request, streams, held, parent, self)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        stand_in = peer(connection)[0]
        job = Job(pid, connection, os.pidfd_open(pid), self.folder / str(stand_in))
        with suppress(OSError):
            job.link.symlink_to(str(pid))
        self.selector.register(job.handle, selectors.EVENT_READ, lambda: self._report(job))
        self.selector.register(connection, selectors.EVENT_READ, lambda: self._kill(job))
        with suppress(OSError):  # where the other end is gone, so is the job soon
            socket.send_fds(connection, [b"+"], [job.handle])

    def _kill(self, job: Job) -> None:
        """The process that stood in for the job is gone."""
        self.selector.unregister(job.connection)
        with suppress(OSError):
            os.killpg(job.pid, signal.SIGKILL)

    def _report(self, job: Job) -> None:
        self.selector.unregister(job.handle)
        os.close(job.handle)
        status = os.waitpid(job.pid, 0)[1]
        job.link.unlink(missing_ok=True)
        if job.connection in self.selector.get_map():
            self.selector.unregister(job.connection)
        with suppress(OSError):
            job.connection.sendall(f"{status}\n".encode())
        job.connection.close()


def _sources(folder: str) -> set[tuple[str, int, int]]:
    """Names, dates and sizes of the modules in a folder."""
    try:
        found = [(entry.name, entry.stat()) for entry in os.scandir(folder) if entry.name.endswith(".py")]
    except OSError:
        return set()
    return {(name, known.st_mtime_ns, known.st_size) for name, known in found}


def do(request: dict[str, Any], streams: list[int], signals: Any, parent: int, server: Server) -> NoReturn:
    """Do the job of a request in this process, which was forked for it, and end as an interpreter does."""
    os.setpgid(0, 0)
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    sys.stdout.reconfigure(line_buffering=os.isatty(1))  # type: ignore[union-attr]
    os.chdir(request["cwd"])
    for name in server.environment.keys() - request["environ"].keys():
        del os.environ[name]
    os.environ |= request["environ"]  # beside what imports have set
    sys.argv, sys.path[:], tempfile.tempdir = request["argv"], request["path"], None
    sys.modules["__main__"] = ModuleType("__main__")
    process.pid = request["pid"]
    invalidate_caches()
    gc.enable()
    signal.pthread_sigmask(signal.SIG_SETMASK, signals)
    if "torch" in sys.modules and sys.modules["torch"].cuda._is_in_bad_fork():  # what was imported has asked for GPUs
        os.execv(sys.executable, [sys.executable, "-P", "-m", "ncpipe", *sys.argv[1:]])  # noqa: S606
    code = _exit_code()
    for number, name in enumerate(PERHAPS):
        server.imported[number] = name in sys.modules
    _end(code)


def _exit_code() -> int:
    try:
        import_module("ncpipe.__main__").main()
    except SystemExit as stop:
        if isinstance(stop.code, int | None):
            return (stop.code or 0) & 0xFF
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        return -signal.SIGINT if isinstance(error, KeyboardInterrupt) else 1
    return 0


def _end(code: int) -> NoReturn:
    """End without what costs time and does nothing: taking all modules to pieces."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = code or 120
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


if __name__ == "__main__":
    gc.disable()
    Server(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))).serve()
    os._exit(0)
