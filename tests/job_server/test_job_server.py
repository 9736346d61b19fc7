"""Jobs handed over to a server: as they would be without it, whatever ends first, and only where it is the same."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ncpipe.job_server import client, server
from ncpipe.job_server.client import ADDRESS
from ncpipe.job_server.start import ONE_THREAD, WITHOUT_THREAD, job_behind

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")

JOBS = """
import os, signal, sys, threading, time

def main():
    print("forked" if "ncpipe.job_server.server" in sys.modules else "started", os.getpid(), flush=True)
    exec(sys.argv[1])
"""
"""Stands for ``ncpipe``: a command is Python code."""
SERVER = """
import os, socket, sys
from pathlib import Path
import jobs
from ncpipe.job_server import server
server.IMPORTS, server.PERHAPS = {}, ("wave",)
sys.modules["ncpipe.__main__"] = sys.modules["ncpipe.cli.main"] = jobs
server.Server(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))).serve()
"""
CLIENT = """
import os
from ncpipe.job_server.client import hand_over
hand_over()
import jobs
jobs.main()
"""


class Place:
    """A server of jobs, and the environment of those."""

    def __init__(self, folder: Path, first: str = "") -> None:
        self.folder, self.log = folder, folder / "log"
        self.sockets = folder / "sockets"
        self.sockets.mkdir(mode=0o700)
        (folder / "jobs.py").write_text(first + JOBS)
        (folder / "client.py").write_text(CLIENT)
        path = os.pathsep.join([str(folder), *sys.path])
        self.environment = os.environ | ONE_THREAD | {"PYTHONPATH": path}
        with socket.socket(socket.AF_UNIX) as listener, self.log.open("w") as log:
            listener.bind(str(self.sockets / "socket"))
            listener.listen()
            self.server = subprocess.Popen(
                [sys.executable, "-P", "-c", SERVER, str(self.sockets), str(listener.fileno())],
                env=self.environment | WITHOUT_THREAD, stdin=subprocess.PIPE, stdout=log, stderr=log,
                pass_fds=[listener.fileno()], start_new_session=True,
            )  # fmt: skip
        self.environment |= {ADDRESS: str(self.sockets / "socket")}

    def start(self, code: str, **environment: str) -> subprocess.Popen[str]:
        """Start a job; its ``pid`` is that of the process that stands in for it."""
        command = [sys.executable, str(self.folder / "client.py"), textwrap.dedent(code)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, env=self.environment | environment, text=True, cwd=self.folder, **pipes)

    def run(self, code: str, **environment: str) -> tuple[str, str, str, int]:
        """How a job was begun, what it printed and said, and its exit code."""
        job = self.start(code, **environment)
        out, err = job.communicate("a line", timeout=60)
        return (*out.partition("\n")[0].split()[:1], out.partition("\n")[2], err, job.returncode)

    def begun(self, code: str) -> tuple[subprocess.Popen[str], int]:
        """A job that runs, and its own process."""
        job = self.start(code)
        how, pid = job.stdout.readline().split()
        assert how == "forked"
        return job, int(pid)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    yield place
    place.server.kill()
    place.server.communicate()


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    ended = bool(select.select([handle], [], [], 20)[0])
    os.close(handle)
    return ended


ENDS = {
    "pass": 0,
    "sys.exit()": 0,
    "sys.exit(75)": 75,
    "sys.exit('reason')": 1,
    "1 / 0": 1,
    "raise KeyboardInterrupt": -signal.SIGINT,
    "os.kill(os.getpid(), signal.SIGTERM)": -signal.SIGTERM,
    "os.kill(os.getpid(), signal.SIGKILL)": -signal.SIGKILL,
    "os.abort()": -signal.SIGABRT,
}


def test_a_job_ends_as_it_would_without_a_server(place):
    for code, expected in ENDS.items():
        how, _, err, returned = place.run(code)
        assert (how, returned) == ("forked", expected), code
        alone = place.run(code, **{ADDRESS: ""})
        assert (alone[0], alone[3]) == ("started", expected), code
        assert err.splitlines()[-1:] == alone[2].splitlines()[-1:], code
    assert place.log.read_text() == ""


def test_a_job_has_the_arguments_streams_and_environment_of_its_process(place):
    code = """
        import atexit, tempfile
        atexit.register(print, "at exit")
        threading.Thread(target=lambda: (time.sleep(0.3), print("thread"))).start()
        print(input(), sys.argv[0], os.getcwd(), os.environ["OLDPWD"], tempfile.gettempdir(), ADDRESS in os.environ)
    """.replace("ADDRESS", repr(ADDRESS))
    for _ in range(2):  # nothing of the first is left to the second
        how, out, _, _ = place.run(code, OLDPWD="/here", TMPDIR=str(place.folder))
        assert how == "forked"
        assert out == f"a line {place.folder}/client.py {place.folder} /here {place.folder} False\nthread\nat exit\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_job_gets_the_signals_of_its_process(place, number):
    job, _ = place.begun(f"""
        signal.signal({int(number)}, lambda *_: (print("told to stop", flush=True), sys.exit(75)))
        print("ready", flush=True)
        for _ in range(6000):  # one sleep would miss a signal that comes just before it
            time.sleep(0.01)
    """)
    assert job.stdout.readline() == "ready\n"
    job.send_signal(number)
    assert job.communicate(timeout=20)[0] == "told to stop\n"
    assert job.returncode == 75


def test_a_job_stops_and_goes_on_with_its_process(place):
    job, pid = place.begun("time.sleep(60)")
    for number, states in ((signal.SIGTSTP, "T"), (signal.SIGCONT, "SR")):
        job.send_signal(number)
        deadline = time.monotonic() + 20
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in states:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    job.terminate()
    assert job.wait(20) == -signal.SIGTERM


def test_benchmarks_find_the_job_behind_a_process(place, monkeypatch):
    job, pid = place.begun("time.sleep(60)")
    monkeypatch.setenv(ADDRESS, place.environment[ADDRESS])
    deadline = time.monotonic() + 20
    while job_behind(job.pid) != pid:  # a moment after the job has begun
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert job_behind(os.getpid()) is None
    for address in ("", "/elsewhere/socket"):
        monkeypatch.setenv(ADDRESS, address)
        assert job_behind(job.pid) is None
    job.kill()


def test_a_job_is_killed_with_its_process(place):
    job, pid = place.begun("time.sleep(60)")
    job.kill()
    assert gone(pid)


def test_the_jobs_of_a_killed_server_are_begun_anew_without_it(place):
    job, pid = place.begun("time.sleep(60 if 'ncpipe.job_server.server' in sys.modules else 0)")
    place.server.kill()
    assert gone(pid)
    out, _ = job.communicate(timeout=20)
    assert (out.split()[0], job.returncode) == ("started", 0)
    assert place.run("pass")[0] == "started"  # on a socket that nobody listens to


def test_a_server_ends_with_its_parent_but_waits_for_jobs(place):
    job, _ = place.begun("time.sleep(1); print('to its end')")
    place.server.stdin.close()
    assert place.run("pass")[0] == "started"
    assert job.communicate(timeout=20)[0] == "to its end\n"
    assert place.server.wait(20) == 0
    assert not place.sockets.exists()


def test_a_job_of_another_environment_is_not_the_servers(place):
    assert place.run("pass", OMP_NUM_THREADS="2")[0] == "started"
    assert place.run("pass", MPLBACKEND="svg")[0] == "started"
    assert "other environment (MPLBACKEND)" in place.log.read_text()


def test_code_that_has_changed_is_not_the_servers(place):
    assert place.run("pass")[0] == "forked"
    (place.folder / "jobs.py").write_text(JOBS + "\n# edited\n")
    assert place.run("pass")[0] == "started"
    assert "the code has changed" in place.log.read_text()


def test_packages_differ_once_one_is_installed_not_once_one_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(server.sysconfig, "get_path", lambda _: tmp_path)
    before = server.Server._library()
    (tmp_path / "__pycache__").mkdir()
    assert server.Server._library() == before
    (tmp_path / "wave-2.0.dist-info").mkdir()
    assert server.Server._library() != before


def test_what_a_job_imports_is_read_anew_by_each(place):
    for word in ("one", "other"):
        (place.folder / "elsewhere").mkdir(exist_ok=True)
        (place.folder / "elsewhere/mine.py").write_text(f"print({word!r})")
        how, out, _, _ = place.run("sys.path.insert(0, 'elsewhere'); sys.dont_write_bytecode = True; import mine")
        assert (how, out) == ("forked", f"{word}\n")


def test_what_only_some_jobs_import_is_imported_once_one_has_done_so(place):
    known = "print('wave' in sys.modules)"
    assert [place.run(code)[1] for code in (known, "import wave", known)] == ["False\n", "", "True\n"]


def test_a_server_with_threads_forks_no_job(tmp_path):
    """A thread of a library would be missing in the job, with what it holds locked for good."""
    place = Place(
        tmp_path, "import threading, time\nthreading.Thread(target=time.sleep, args=[60], daemon=True).start()\n"
    )
    assert place.run("pass")[0] == "started"
    place.server.kill()
    assert "threads in the job server" in place.log.read_text()


def test_torch_computes_with_threads_in_a_job(place):
    code = """
        import torch
        torch.set_num_threads(2)
        square = torch.randn(600, 600, generator=torch.Generator().manual_seed(0))
        print((square @ square).double().sum().item(), torch.get_num_threads())
    """
    first, second = place.run(code), place.run(code, **{ADDRESS: ""})
    assert (first[0], second[0]) == ("forked", "started")
    assert first[1:] == second[1:]


def test_the_socket_of_another_user_is_left_alone(place, monkeypatch):
    assert place.sockets.stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    monkeypatch.setattr(socket, "send_fds", lambda *_: pytest.fail("handed over"))
    assert client._ended(place.environment[ADDRESS]) is None
