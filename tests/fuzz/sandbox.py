"""What a case may do: compute for some seconds, take some memory, and write below the folders that it names."""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir
from types import FrameType
from typing import Any

SECONDS = 10.0
"""Processor time of a case. Processor time, since a busy machine makes no input hang."""
WAIT = 120.0
"""Wall clock of a case: catches what waits for ever."""
GIGABYTES = 1.5
"""Growth of the resident memory that fails a case; twice as much address space is all that it gets."""

FORBIDDEN = {
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "pickle.find_class", "socket.connect",
    "subprocess.Popen",
}  # fmt: skip
CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod",
    "os.chown",
    "os.utime", "os.mkfifo", "os.mknod", "shutil.rmtree",
}  # fmt: skip
# MLflow takes artifacts from a folder: a sync makes one where the system has its temporary files, and removes it.
HARMLESS = re.compile(rf"/dev/(null|tty)|/proc/self/.*|.*/__pycache__/.*|pipe:.*|{gettempdir()}/tmp\w{{8}}(/.*)?")  # noqa: S108
PROGRAMS = ("git", "uname", sys.executable)
"""What ncpipe starts of itself, and the command line under test."""


BESIDE = re.compile(r"/\.([^/]+)\.[0-9a-f]{8}\.tmp$")


class Hang(BaseException):
    """The case has used its time. No Exception, so that nothing swallows it."""


class Sandbox:
    """A folder with a working folder, a home and a folder for temporary files of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.work, self.home, self.temporary = (self.root / name for name in ("work", "home", "tmp"))
        for folder in (self.work, self.home, self.temporary):
            folder.mkdir(parents=True, exist_ok=True)

    def files(self) -> dict[str, tuple[int, int]]:
        """Size and time of change of everything inside."""
        found = {}
        for path in self.root.rglob("*"):
            stat = path.lstat()
            found[str(path.relative_to(self.root))] = (stat.st_size if path.is_file() else 0, _changed(path, stat))
        return found

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Work there, with its home and its folder for temporary files."""
        before, places = Path.cwd(), {"HOME": self.home, "TMPDIR": self.temporary, "XDG_CACHE_HOME": self.home / "c"}
        old = {name: os.environ.get(name) for name in places}
        os.environ |= {name: str(place) for name, place in places.items()}
        os.chdir(self.work)
        try:
            yield
        finally:
            os.chdir(before)
            for name, value in old.items():
                os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)


def _changed(path: Path, stat: os.stat_result) -> int:
    return 0 if path.is_dir() and not path.is_symlink() else stat.st_mtime_ns  # a folder changes with what is in it


# --- what Python does, by its audit events ---------------------------------------------------------

_watching: Callable[[str], None] | None = None
_allowed: tuple[str, ...] = ()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching is None:
        return
    if event in FORBIDDEN:
        program = arguments[0] if arguments else ""
        if not (event == "subprocess.Popen" and program in PROGRAMS):
            _watching(f"{event}{arguments[:2]}")
    elif event == "open":
        path, mode, flags = arguments
        if isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC):
            _check(f"open for writing ({mode})", path)
    elif event in CHANGES:
        if event in ("os.remove", "os.rmdir") and arguments[1] != -1:  # relative to an open folder, as rmtree does it
            arguments = (os.path.join(os.readlink(f"/proc/self/fd/{arguments[1]}"), arguments[0]),)  # noqa: PTH115, PTH118
        for path in arguments[: 2 if event in ("os.rename", "os.link") else 1]:
            _check(event, path)


def _check(what: str, path: Any) -> None:
    if isinstance(path, int):
        return
    # A file is written beside its place, and then renamed.
    name = BESIDE.sub(r"/\1", os.path.abspath(os.fsdecode(path)))  # noqa: PTH100
    if what == "os.mkdir" and os.path.isdir(name):  # noqa: PTH112
        return
    inside = any(name == place or name.startswith(place + "/") for place in _allowed)
    if not inside and not HARMLESS.fullmatch(name) and _watching is not None:
        _watching(f"{what}: {name}")


_hooked = False


@contextmanager
def watched(allowed: Iterable[Path]) -> Iterator[list[str]]:
    """What is written or removed outside the ``allowed`` paths, and what is started, meanwhile."""
    global _hooked, _watching, _allowed
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked = True
    seen: list[str] = []
    # The folders above an allowed one may be made.
    _allowed = tuple(os.path.abspath(path) for path in allowed)  # noqa: PTH100
    _watching = seen.append
    try:
        yield seen
    finally:
        _watching = None


# --- time and memory -------------------------------------------------------------------------------


@contextmanager
def limited() -> Iterator[None]:
    """Raise ``Hang`` past the time, and let Python raise ``MemoryError`` past the address space."""

    def stop(number: int, _: FrameType | None) -> None:
        raise Hang(f"{SECONDS:g} s of processor time" if number == signal.SIGPROF else f"{WAIT:g} s of waiting")

    old = {number: signal.signal(number, stop) for number in (signal.SIGPROF, signal.SIGALRM)}
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_memory("VmSize") + int(2 * GIGABYTES * 2**30), hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        for number, handler in old.items():
            signal.signal(number, handler)


@contextmanager
def growth() -> Iterator[list[float]]:
    """Gigabytes by which the resident memory grew at most meanwhile, in a list once it has ended."""
    grown: list[float] = []
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _memory("VmRSS")
    try:
        yield grown
    finally:
        grown.append((_memory("VmHWM") - before) / 2**30)


def _memory(entry: str) -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(re.search(rf"^{entry}:\s+(\d+) kB", status, re.MULTILINE)[1]) * 1024  # type: ignore[index]
