"""A study on a real SLURM of two nodes, through failed, cancelled and lost jobs and killed controllers.

`make test-slurm` runs it, as root, with Debian's slurm-wlm, munge, slurmdbd and mariadb-server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import mlflow
import pytest
import yaml
from workplace import COMPARED, ROOT

from ncpipe.study.study import Study

pytestmark = pytest.mark.slurm
CLUSTER = ROOT / "tests/slurm/cluster.sh"
NEEDED = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd")
PATIENCE = 1500.0
PROFILE = ("--profile", str(ROOT / "workflow/profiles/slurm"), "--slurm-init-seconds-before-status-checks", "3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"no SLURM here: needs root and {', '.join(missing) or 'nothing else'}")
    state = Path("/tmp/ncpipe-slurm")  # noqa: S108, a short path for the sockets in it
    os.environ |= {"SLURM_ROOT": str(state), "SLURM_CONF": str(state / "etc/slurm.conf")}
    subprocess.run([CLUSTER, "down"], check=True)
    try:
        subprocess.run([CLUSTER, "up"], check=True)
        yield state
    finally:
        subprocess.run([CLUSTER, "down"], check=False)
        # Without cgroups SLURM loses sight of some processes of jobs that were cancelled or lost.
        for process in processes_of_jobs(os.environ["SLURM_CONF"]):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)


class Controller:
    """A Snakemake in a folder of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options, self.starts = folder, options, 0
        folder.mkdir(exist_ok=True)

    def start(self, *more: str) -> None:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.folder), *self.options, *more]
        self.starts += 1
        with (self.folder / f"snakemake-{self.starts}.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self) -> str:
        code = self.process.wait(timeout=PATIENCE)
        text = (self.folder / f"snakemake-{self.starts}.log").read_text()
        assert code == 0, text[-6000:]
        return text

    def until(self, what: str, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            log = self.folder / f"snakemake-{self.starts}.log"
            assert self.process.poll() is None, f"ended before {what}: {log.read_text()[-3000:]}"
            assert time.monotonic() < end, f"waited too long for {what}"
            time.sleep(0.5)

    def tables(self) -> dict[str, bytes]:
        return {name: (self.folder / f"results/tables/{name}.parquet").read_bytes() for name in COMPARED}


def slurm(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()


def running(rule: str) -> dict[str, tuple[str, str]]:
    """Run or group and node of the running jobs of a rule or group, by SLURM id."""
    rows = [line.split("|") for line in slurm("squeue", "--noheader", "--states=RUNNING", "--format=%i|%k|%N")]
    return {job: (name, node) for job, name, node in rows if name.startswith(f"rule_{rule}")}


def queue() -> set[str]:
    return set(slurm("squeue", "--noheader", "--format=%i"))


def processes(folder: Path, *words: str) -> list[int]:
    """Processes of ncpipe with these words in their command, working in the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            at_work = entry.name.isdigit() and (entry / "cwd").resolve() == folder
        except OSError:
            continue
        if at_work and any(Path(word).name == "ncpipe" for word in arguments[:3]) and set(words) <= set(arguments):
            found.append(int(entry.name))
    return found


def job_of(process: int) -> str:
    variables = Path(f"/proc/{process}/environ").read_bytes().decode().split("\0")
    return dict(line.split("=", 1) for line in variables if line)["SLURM_JOB_ID"]


def trainings(folder: Path) -> list[int]:
    """Processes that train in jobs which run: of a cancelled one they save and end a little later."""
    jobs, found = running("train"), []
    for process in processes(folder, "train"):
        with suppress(OSError, KeyError):  # it has ended by now
            if job_of(process) in jobs:
                found.append(process)
    return found


def processes_of_jobs(configuration: str) -> list[int]:
    """What jobs of the SLURM with this configuration have started and what still lives."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if f"SLURM_CONF={configuration}".encode() in variables and any(
                variable.startswith(b"SLURM_JOB_ID=") for variable in variables
            ):
                found.append(int(entry.name))
    return found


def processes_of(job: str) -> list[int]:
    """Everything that runs for a job, its shepherds included."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, KeyError, ValueError):
            command = (entry / "cmdline").read_bytes()
            if command.startswith(f"slurmstepd: [{job}.".encode()) or job_of(int(entry.name)) == job:
                found.append(int(entry.name))
    return found


def state(job: str) -> str:
    [line] = slurm("sacct", "-X", "--noheader", "--parsable2", f"--jobs={job}", "--format=State") or ["UNKNOWN"]
    return line.split()[0]


def default_study(folder: Path) -> str:
    """The default study with all its kinds of jobs, few and none of them long: a job starts Snakemake twice."""
    study = yaml.safe_load((ROOT / "config.yaml").read_text())
    study["datasets"]["base"]["samples_per_class"] = 60
    sweep = study["networks"]["sweep"]
    sweep["grid"] = {"seed": [0]}
    sweep["zip"][0] = {name: values[:2] for name, values in sweep["zip"][0].items()}  # the MLPs
    sweep["zip"][0] |= {"epochs": [30, 30], "terminal": [{"iterations": 10}] * 2}
    study["measure"]["epochs"] = 4
    study["ufm"]["base"]["solver"] = {"name": "gradient_descent", "steps": 5_000, "init_scale": 0.3}
    kinds = study["ufm"]["sweep"]["zip"]
    kinds.pop("solver.init_scale")
    study["ufm"]["sweep"] = {"grid": {"seed": [0]}, "zip": {name: values[1:3] for name, values in kinds.items()}}
    study["ufm"]["matched"] = ["predicted"]
    study["figures"] = study["figures"][:2]
    path = folder / "default.yaml"
    path.write_text(yaml.safe_dump(study))
    return str(path)


def test_a_study_comes_through_every_fault_with_the_same_tables(cluster, tmp_path):
    study = default_study(tmp_path)
    alone = Controller(tmp_path / "alone", "--configfile", study, "--cores", "1")
    alone.start("tables")
    place = Controller(tmp_path / "slurm", "--configfile", study, *PROFILE)
    place.start()

    # A job that fails: its process dies.
    place.until("a training", lambda: processes(place.folder, "train"))
    [process, *_] = processes(place.folder, "train")
    failing = job_of(process)
    os.kill(process, signal.SIGKILL)
    place.until("the failure", lambda: state(failing) == "FAILED")

    # A job that is cancelled.
    place.until("another training", lambda: running("train"))
    [cancelled, *_] = running("train")
    slurm("scancel", cancelled)
    place.until("the cancellation", lambda: state(cancelled) == "CANCELLED")

    # SLURM's controller dies and comes back, while a training is held on its way. It saves its state every five
    # seconds: of a job that ended since, the node would tell it minutes later.
    place.until("a third training", lambda: trainings(place.folder))
    [held, *_] = trainings(place.folder)
    os.kill(held, signal.SIGSTOP)
    time.sleep(6)
    pid = int((cluster / "run/slurmctld.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    (cluster / "run/slurmctld.pid").unlink()
    time.sleep(5)
    subprocess.run([CLUSTER, "controller"], check=True)

    # Snakemake dies and is started again, while its jobs go on.
    place.kill()
    left = queue()
    assert job_of(held) in left
    os.kill(held, signal.SIGCONT)
    place.start()
    place.until("jobs of the second", lambda: queue() - left)
    assert not queue() & left

    # A node is lost while it measures. What runs on it is cut off, and goes on when another node has the job: its
    # outputs have two writers.
    place.until("a group at work", lambda: running("measure") and processes(place.folder, "features"))
    [(lost, (_, node)), *_] = running("measure").items()
    cut_off = [*processes_of(lost), int((cluster / f"run/slurmd.{node}.pid").read_text())]
    for process in cut_off:
        os.kill(process, signal.SIGSTOP)
    place.until("the loss", lambda: state(lost) == "NODE_FAIL")
    place.until("its successor", lambda: running("measure").keys() - {lost})
    os.kill(cut_off.pop(), signal.SIGKILL)
    (cluster / f"run/slurmd.{node}.pid").unlink()
    for process in cut_off:
        os.kill(process, signal.SIGCONT)
    time.sleep(10)
    subprocess.run([CLUSTER, "node", node[1:]], check=True)

    place.finish()
    alone.finish()
    assert place.tables() == alone.tables()
    client = mlflow.MlflowClient(f"sqlite:///{place.folder}/results/mlflow/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    names = [run.data.tags.get("ncpipe.id") for run in runs]
    assert len(names) == len(set(names))
    place.start()
    assert "Nothing to be done" in place.finish()
    assert not list((place.folder / "results").rglob("*.tmp"))


TWO_GPUS = {
    "study": {"name": "two_gpus"},
    "datasets": {"base": {"name": "digits", "samples_per_class": 30}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 16},
            "loss": {"name": "ce"},
            "epochs": 2,
            "batch_size": 64,
            "gpus": 2,
            "optimizer": {"lr": 0.05},
        },
    },
}


def test_a_network_on_two_gpus_gets_them_on_one_node_for_one_task(cluster, tmp_path):
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(TWO_GPUS))
    place = Controller(tmp_path / "two", "--configfile", str(config), *PROFILE)
    [network] = Study(TWO_GPUS).networks
    place.start(f"results/runs/{network}/spec.json")
    place.finish()
    accounts = slurm("sacct", "--noheader", "--parsable2", "--format=JobID,AllocTRES,NTasks,NNodes,Comment")
    [job] = [row.split("|")[0] for row in accounts if "gres/gpu=2" in row and "." not in row.split("|")[0]]
    steps = [row.split("|") for row in accounts if row.startswith(f"{job}.") and "batch" not in row]
    assert [(tasks, nodes) for _, _, tasks, nodes, _ in steps] == [("1", "1")]
