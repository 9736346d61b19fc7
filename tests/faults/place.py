"""The study under fault: run, killed, damaged, brought back, and compared with an undisturbed run."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import psutil
from workplace import Workplace

SMALL = {
    "networks.base.epochs": 200,
    "networks.sweep.grid.seed": [0, 1],
    "measure.epochs": [0, 100, 200],
    "ufm.base.solver.steps": 2000,
}
"""Two networks, what is matched to them, a declared UFM, a figure, claims and the mirror; mostly start-up of jobs."""
LIMIT = 3600
"""Seconds after which a run counts as hanging."""
REMEDIES = (
    r"cannot read (?P<it>\S+?): .*; delete it and run again",
    r"cannot read \S+?: .*; delete (?P<it>\S+) and run again",
    r"no \S+ in \S+; delete (?P<it>\S+) and run again",
    r"(?P<parent>\S+) is missing or was altered since it was prepared: delete its folder and run again",
    r"lacks .*: delete (?P<it>\S+) and run again",
    r"MLflow store sqlite:///(?P<it>\S+): .* or delete it, then run 'ncpipe sync'",
)


@dataclass
class Outcome:
    """Of one Snakemake: its exit code, what it printed, and the seconds it took."""

    code: int
    text: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """What ncpipe told the user."""
        told = (line.strip() for line in self.text.splitlines())
        return list(dict.fromkeys(line for line in told if re.match("ncpipe: (?!start-up)", line)))


@dataclass
class Row:
    """A line of the table: a fault, and what became of it every time."""

    tried: int = 0
    survived: int = 0
    seconds: list[float] = field(default_factory=list)
    """Of every recovery, from the command that is run after the fault to whole tables."""
    told: list[str] = field(default_factory=list)


class Ledger:
    """What was tried and what survived, for the table of docs/reliability.md."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}

    @contextmanager
    def trying(self, fault: str, times: int = 1) -> Iterator[Row]:
        """Count a fault as tried at once, and as survived where the block ends well."""
        row = self.rows.setdefault(fault, Row())
        row.tried += times
        yield row
        row.survived += times

    def markdown(self) -> str:
        lines = ["| Fault | Tried | Survived | Seconds to recover: median, most | What the user is told |"]
        lines.append("|---|---|---|---|---|")
        for fault, row in self.rows.items():
            seconds = f"{median(row.seconds):.0f}, {max(row.seconds):.0f}" if row.seconds else "-"
            told = "<br>".join(dict.fromkeys(row.told)) or "nothing"
            lines.append(f"| {fault} | {row.tried} | {row.survived} | {seconds} | {told} |")
        return "\n".join(lines) + "\n"


class Place(Workplace):
    """A folder with the small study, which can be put back to where its undisturbed run ended."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        super().__init__(folder)
        self.ledger = ledger
        self.saved = folder.with_name(f"{folder.name}.saved")
        self.small = SMALL
        self.configure(SMALL)

    def elsewhere(self, folder: Path) -> Place:
        """A place that is to end as this one."""
        other = Place(folder, self.ledger)
        shutil.rmtree(folder)
        other.reference, other.ids, other.undisturbed = self.reference, self.ids, self.undisturbed
        return other

    @property
    def results(self) -> Path:
        return self.folder / "results"

    # --- an undisturbed run, and back to it --------------------------------------------------------

    def build(self) -> None:
        """The undisturbed run, whose tables are the reference."""
        self.undisturbed = self.attempt().seconds
        shutil.copytree(self.folder, self.saved, symlinks=True)
        self.reference, self.ids = self.products(), self.mirrored()

    def restore(self) -> None:
        """Back to the end of the undisturbed run."""
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run(["cp", "-a", self.saved, self.folder], check=True)
        self.small = SMALL | {"tracking.live": False}  # a process less where nothing is killed
        self.configure(self.small)

    def clear(self) -> None:
        """Back to before it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.small = SMALL
        self.configure(SMALL)

    def forget(self, folder: str) -> None:
        """Remove what a stage wrote and what follows: Snakemake makes nothing anew that nothing missing needs."""
        followed = {"data": ["runs", "tables"], "runs": ["tables"], "ufm": ["tables"]}
        for name in [folder, *followed.get(folder, [])]:
            shutil.rmtree(self.results / name)

    def find(self, pattern: str) -> Path:
        return min(self.folder.glob(pattern))

    # --- running -----------------------------------------------------------------------------------

    def start(self, *options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*options),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def ended(self, process: subprocess.Popen[str], began: float) -> Outcome:
        text, _ = process.communicate(timeout=LIMIT)
        return Outcome(process.returncode, text, time.monotonic() - began)

    def attempt(self, *options: str) -> Outcome:
        began = time.monotonic()
        return self.ended(self.start(*options), began)

    def wait_for(self, process: subprocess.Popen[str], there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not there():
            assert process.poll() is None, "ended before the fault"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def job(self, process: subprocess.Popen[str], stage: str) -> psutil.Process | None:
        """The process of a job that Snakemake has started, once it computes."""
        for child in family(process.pid):
            try:
                words = child.cmdline()
            except psutil.Error:
                continue
            if "snakemake" not in " ".join(words[:3]) and stage in words and any("ncpipe" in w for w in words[:3]):
                return child
        return None

    # --- recovery ----------------------------------------------------------------------------------

    def recover(self, row: Row, *options: str) -> None:
        """Run, follow what the user is told, run again, until the run ends well; then compare with the reference."""
        began = time.monotonic()
        for _ in range(4):
            done = self.attempt(*options)
            if done.code == 0:
                break
            self.tell(row, done)
            removed = [self.follow(line) for line in done.lines]
            assert any(removed), f"no remedy in: {done.lines}\n{done.text}"
        else:
            raise AssertionError("the remedies do not help")
        seconds = time.monotonic() - began
        self.check()
        row.seconds.append(seconds)

    def tell(self, row: Row, done: Outcome) -> None:
        """Note the lines of a run that failed; there must be some, and no traceback."""
        assert "Traceback" not in done.text, done.text
        assert done.lines, done.text
        row.told += [self.anonymous(line) for line in done.lines]

    def anonymous(self, line: str) -> str:
        """Without what differs from run to run."""
        line = line.replace(str(self.folder.resolve()), "").replace(str(self.folder), "")
        line = re.sub(r"(digits|extended|matched|mlp)[\w-]*-[0-9a-f]{8}", "ID", line)
        return re.sub(r"\d+ on \S+\)", "PID on HOST)", line).removeprefix("ncpipe: ").replace("|", r"\|")

    def follow(self, line: str) -> bool:
        """Delete what a message says is to be deleted."""
        for pattern in REMEDIES:
            if found := re.search(pattern, line):
                groups = found.groupdict()
                target = self.folder / (groups.get("it") or str(Path(groups["parent"]).parent))
                assert target.exists(), f"the remedy names nothing: {line}"
                shutil.rmtree(target) if target.is_dir() else target.unlink()
                return True
        return False

    def check(self) -> None:
        """The same tables and figures to the byte, every run in MLflow once, and nothing left to do."""
        products = self.products()
        assert [name for name in self.reference if products[name] != self.reference[name]] == []
        mirrored = self.mirrored()
        assert len(mirrored) == len(set(mirrored)), "a run twice in MLflow"
        assert mirrored == self.ids
        again = self.attempt()
        assert again.code == 0, again.text
        assert "Nothing to be done" in again.text, again.text

    def products(self) -> dict[str, bytes]:
        figures = sorted((self.results / "figures").iterdir())
        return self.tables() | {path.name: path.read_bytes() for path in figures}

    def mirrored(self) -> list[str]:
        """The ``ncpipe.id`` of all finished runs in the store, with their number of points."""
        query = """SELECT tags.value, (SELECT COUNT(*) FROM metrics WHERE metrics.run_uuid = runs.run_uuid)
                   FROM runs JOIN tags USING (run_uuid)
                   WHERE tags.key = 'ncpipe.id' AND runs.lifecycle_stage = 'active' AND runs.status = 'FINISHED'"""
        with closing(sqlite3.connect(self.results / "mlflow/mlflow.db")) as store:
            found = sorted(store.execute(query).fetchall())
            (count,) = store.execute("SELECT COUNT(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()
        assert count == len(found), "a run that has not ended well"
        return [f"{name}: {points} points" for name, points in found]


def family(pid: int) -> list[psutil.Process]:
    """All that a process has started and that still lives, in whatever process group."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def kill_all(process: subprocess.Popen[str]) -> None:
    """SIGKILL for Snakemake and everything it has started, the process that shows networks in MLflow included."""
    others = family(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for other in others:
        with suppress(psutil.NoSuchProcess):
            other.kill()
    process.communicate()
    psutil.wait_procs(others, timeout=60)
