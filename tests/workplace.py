"""A folder with a small study in which Snakemake runs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from ncpipe.records.schemas import TABLES
from ncpipe.settings.sweep import laid_over
from ncpipe.study.study import Study

ROOT = Path(__file__).resolve().parent.parent
COMPARED = sorted(set(TABLES) - {"timings"})

STUDY = {
    "study": {"name": "tiny", "results": "results"},
    "datasets": {"base": {"name": "digits", "samples_per_class": 30}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 16},
            "loss": {"name": "mse"},
            "head": {"bias": False},
            "optimizer": {"lr": 0.05, "weight_decay": 1e-2},
            "epochs": 300,
            "batch_size": 64,
        },
        "sweep": {"grid": {"seed": [0]}},
    },
    "ufm": {
        "base": {
            "classes": 3,
            "samples": 5,
            "dim": 6,
            "weight_decay": [5e-3, 5e-3],
            "feature_decay": 1e-3,
            "activation": "relu",
            "solver": {"name": "gradient_descent", "steps": 20000, "init_scale": 0.3},
        },
    },
    "measure": {"epochs": list(range(0, 301, 3))},
    "figures": ["frames"],
    "claims": ["tirer2022"],
}


def planned_jobs(dry_run: str) -> dict[str, int]:
    """Jobs by rule, of what a dry run has said."""
    counts = re.search(r"Job stats:\n.*?\n-+.*?\n(.*?)\n\n", dry_run, re.S)
    rows = (line.split() for line in counts.group(1).splitlines()) if counts else []
    return {name: int(number) for name, number in rows if name not in ("all", "total")}


class Workplace:
    """A folder with a study in it, in which Snakemake runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.configure({})

    def configure(self, changes: dict[str, object]) -> Study:
        config = laid_over(STUDY, changes)
        (self.folder / "study.yaml").write_text(yaml.safe_dump(config))
        return Study(config)

    def command(self, *options: str) -> list[str]:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(self.folder)]
        command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(self.folder / "study.yaml")]
        return [*command, *options]

    def run(self, *options: str) -> str:
        done = subprocess.run(self.command(*options), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def planned(self) -> dict[str, int]:
        """Jobs that Snakemake would run, by rule."""
        return planned_jobs(self.run("--dry-run"))

    def kill_at(self, marker: str, stage: str, *options: str) -> None:
        """Start Snakemake, wait for a file that shows where it is, kill everything it started with SIGKILL."""
        process = subprocess.Popen(
            self.command(*options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 120
        # A log is there from the job's start; its first line comes from the work itself.
        while not any(path.stat().st_size for path in self.folder.glob(marker)):
            assert process.poll() is None, f"{stage} ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def tables(self) -> dict[str, bytes]:
        return {name: (self.folder / f"results/tables/{name}.parquet").read_bytes() for name in COMPARED}
