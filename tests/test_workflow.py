"""The whole pipeline under a real Snakemake: what it writes, what it runs again, what a kill costs."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import yaml

from ncpipe.study.study import Study
from ncpipe.study.sweep import laid_over
from ncpipe.tables.schemas import TABLES

pytestmark = pytest.mark.slow
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
        text = self.run("--dry-run")
        counts = re.search(r"Job stats:\n.*?\n-+.*?\n(.*?)\n\n", text, re.S)
        rows = (line.split() for line in counts.group(1).splitlines()) if counts else []
        return {name: int(number) for name, number in rows if name not in ("all", "total")}

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


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("study"))
    place.run()
    return place


def test_every_product_is_there(finished):
    results = finished.folder / "results"
    for name, schema in TABLES.items():
        table = pq.read_table(results / f"tables/{name}.parquet")
        assert table.num_rows > 0, name
        assert table.schema.equals(schema), name
        assert table.schema.metadata[b"study"] == b"tiny"
    for suffix in ("svg", "png", "pdf"):
        assert (results / f"figures/frames.{suffix}").stat().st_size > 1000
    assert "tirer2022" in (results / "report.html").read_text()
    assert not list(results.rglob("*.tmp"))
    assert not list(results.rglob(".state"))


def test_neural_collapse_is_in_the_tables(finished):
    table = pq.read_table(finished.folder / "results/tables/collapse.parquet").to_pandas()
    nc1 = table.query("source == 'net' and layer == 'features' and split == 'train' and metric == 'nc1_pinv'")
    by_time = nc1.set_index("time")["value"]
    assert by_time[300] < 0.05 * by_time[0]


def test_every_run_is_in_mlflow_once(finished):
    runs = pq.read_table(finished.folder / "results/tables/runs.parquet").to_pandas()
    assert set(runs["kind"]) == {"network", "declared", "matched"}
    client = mlflow.MlflowClient(f"sqlite:///{finished.folder}/results/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("tiny")
    found = client.search_runs([experiment.experiment_id])
    logged = [run.data.tags.get("ncpipe.id") for run in found]
    assert len(logged) == len(set(logged))
    assert {run.info.status for run in found} == {"FINISHED"}
    assert not any("ncpipe.live" in run.data.tags for run in found)
    assert (finished.folder / "results/logs/live.log").read_text() == ""
    assert not list((finished.folder / "results").rglob("epochs.jsonl"))
    assert set(runs["run_id"]) < set(logged)
    assert len(logged) == len(runs) + 1  # and the study itself


def test_the_second_run_has_nothing_to_do(finished):
    assert "Nothing to be done" in finished.run()


def test_a_change_runs_what_reads_it_and_no_more(finished):
    finished.configure({"figures": [{"name": "frames", "width": 3.25}, "training_curves"]})
    assert finished.planned() == {"figure": 2, "report": 1, "sync": 1}
    downstream = {"tables": 1, "figure": 1, "report": 1, "sync": 1}
    finished.configure({"networks.sweep.grid.seed": [0, 1], "measure.pool": "flatten"})
    network = {"train": 1, "features": 2, "collapse_network": 2, "match": 2}
    assert finished.planned() == network | downstream
    finished.configure({"ufm.base.feature_decay": 2e-3, "study.data_path": [str(ROOT)]})
    assert finished.planned() == {"fit": 1, "collapse_ufm": 1} | downstream
    finished.configure({})


def test_a_failed_job_says_why_and_the_rest_goes_on(tmp_path):
    place = Workplace(tmp_path / "study")
    (tmp_path / "images").mkdir()
    place.configure({"datasets.sweep": {"include": [{"name": "imagefolder", "path": str(tmp_path / "images"),
                                                     "image_size": 8, "samples_per_class": None}],
                                        "grid": {"name": ["digits"]}},
                     "networks.base.epochs": 5, "measure.epochs": 2, "ufm": {"matched": []}, "claims": [],
                     "tracking": {"enabled": False}})  # fmt: skip
    done = subprocess.run(place.command(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert re.search(r"ncpipe: .*images", done.stdout + done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert list(place.folder.glob("results/runs/digits-*/collapse.parquet"))


KILLS = {
    "ufm": ("results/logs/ufm/extended-*.log", "results/ufm/extended-*/fits.parquet", "--until", "fit"),
    "training": ("results/runs/*/.state/checkpoints/epoch000099.safetensors", "results/runs/*/spec.json"),
    "extraction": ("results/logs/features/*.log", "results/runs/*/statistics.safetensors"),
}
"""What shows that a stage is at work, and that it has ended, and options of Snakemake; in the order of the kills."""


def test_a_workflow_killed_three_times_ends_with_the_same_tables(finished, tmp_path):
    place = Workplace(tmp_path / "study")
    shutil.copytree(finished.folder / "results/data", place.folder / "results/data")
    for stage, (at_work, ended, *options) in KILLS.items():
        assert not any(place.folder.glob(at_work)), stage
        place.kill_at(at_work, stage, *options)
        assert not any(place.folder.glob(ended)), "the stage had ended before the kill"
        assert not (place.folder / "results/tables").exists()
    place.run()
    assert place.tables() == finished.tables()
    assert "Nothing to be done" in place.run()
    test_every_run_is_in_mlflow_once(place)
