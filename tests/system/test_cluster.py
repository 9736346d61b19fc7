"""What jobs ask a cluster for, and jobs left in a queue; tests/slurm has the real cluster."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ncpipe.plan.estimates import Estimate
from ncpipe.plan.limits import SHORTEST, keep_estimates, megabytes, minutes, read_estimates
from ncpipe.plan.units import Unit, units
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json
from ncpipe.system.slurm import take_over

ROOT = Path(__file__).resolve().parents[2]
CONFIG = yaml.safe_load((ROOT / "config.yaml").read_text())


def planned(folder: Path) -> tuple[Study, Unit, Unit]:
    study = Study(CONFIG | {"study": {"name": "default", "results": str(folder)}})
    found = list(units(study))
    return study, *(next(unit for unit in found if unit.stage == stage) for stage in ("train", "features"))


def test_limits_follow_the_estimates_of_the_plan(tmp_path):
    study, train, features = planned(tmp_path)
    keep_estimates(study.layout, {train: Estimate(3600.0, 10e9), features: Estimate(1.0, 1e6)}, "cpu")
    kept = read_estimates(study.layout)
    assert minutes(kept, "train", train.id) == 180
    assert megabytes(kept, "train", train.id, 2) == 2 * 15000
    assert minutes(kept, "features", features.id) == SHORTEST
    assert megabytes(kept, "features", features.id, 1) == 6000


def test_memory_of_a_gpu_is_no_memory_of_a_job(tmp_path):
    study, train, _ = planned(tmp_path)
    keep_estimates(study.layout, {train: Estimate(None, 60e9)}, "cuda")
    kept = read_estimates(study.layout)
    assert megabytes(kept, "train", train.id, 1) == 4000
    assert minutes(kept, "train", train.id) == 1440


def test_a_later_plan_keeps_what_an_earlier_one_has_estimated(tmp_path):
    study, train, features = planned(tmp_path)
    keep_estimates(study.layout, {train: Estimate(3600.0)}, "cpu")
    keep_estimates(study.layout, {features: Estimate(7200.0)}, "cpu")
    kept = read_estimates(study.layout)
    assert minutes(kept, "train", train.id) == 180
    assert minutes(kept, "features", features.id) == 360


def test_the_workflow_asks_for_what_the_plan_has_estimated(tmp_path):
    study, train, _ = planned(tmp_path)
    keep_estimates(study.layout, {train: Estimate(36000.0, 40e9)}, "cpu")
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(CONFIG | {"study": {"name": "d", "results": str(tmp_path)}}))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--dry-run"]
    command += ["--directory", str(tmp_path), "--configfile", str(tmp_path / "study.yaml"), "--cores", "1"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    [job] = [part for part in text.split("\n\n") if re.search(f"^ *log: .*/train/{train.id}.log$", part, re.M)]
    assert "runtime=1800" in job
    assert "mem_mb=60000" in job
    assert "gpu=1" in job


class Slurm:
    """Stand-ins for squeue and scancel: a queue in a folder, one file a job."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queue = folder / "queue"
        self.queue.mkdir(parents=True)
        self._program(folder / "squeue", f'cd {self.queue}; grep -lxe "${{@: -1}}" * 2>/dev/null || true')
        self._program(folder / "scancel", f'cd {self.queue}; shift; rm "$@"')
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")

    def _program(self, path: Path, line: str) -> None:
        path.write_text(f"#!/bin/bash\n{line}\n")
        path.chmod(0o755)

    def add(self, job: str, name: str) -> None:
        (self.queue / job).write_text(f"--name={name}\n")

    def jobs(self) -> set[str]:
        return {path.name for path in self.queue.iterdir()}


def test_a_new_snakemake_cancels_the_jobs_of_the_last_one_on_these_results_only(tmp_path, monkeypatch, capsys):
    slurm, layout = Slurm(tmp_path / "bin", monkeypatch), Layout(tmp_path / "results")
    take_over(layout.slurm, "first")
    assert capsys.readouterr().out == ""
    for job, name in {"1": "first", "2": "first", "3": "other"}.items():
        slurm.add(job, name)
    take_over(layout.slurm, "second")
    assert slurm.jobs() == {"3"}
    assert "cancelling 2 jobs" in capsys.readouterr().out
    assert read_json(tmp_path / "results/logs/slurm.json") == {"job_name": "second"}


def test_a_silent_slurm_is_one_line_and_forgets_nothing(tmp_path, monkeypatch):
    layout = Layout(tmp_path / "results")
    take_over(layout.slurm, "first")
    (tmp_path / "squeue").write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"squeue does not answer .*Unable to contact"):
        take_over(layout.slurm, "second")
    assert read_json(tmp_path / "results/logs/slurm.json") == {"job_name": "first"}
