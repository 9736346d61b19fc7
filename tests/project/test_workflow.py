"""The whole pipeline under a real Snakemake: what it writes, what it runs again, what a kill costs."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mlflow
import pyarrow.parquet as pq
import pytest
import yaml
from extent import cases
from workplace import ROOT, STUDY, Workplace

from ncpipe.records.schemas import TABLES

pytestmark = pytest.mark.slow


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


@pytest.mark.skipif(sys.platform != "linux", reason="jobs are forked on Linux alone")
def test_jobs_are_forked_and_measured(finished):
    results = finished.folder / "results"
    assert (results / "logs/job_server.log").read_text() == ""  # none was refused
    for stage in ("train", "features"):
        for benchmark in (results / "benchmarks" / stage).glob("*.tsv"):
            measured = dict(zip(*(line.split("\t") for line in benchmark.read_text().splitlines())))
            assert float(measured["max_rss"]) > 150, "of the process that stands in for the job"


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


@pytest.mark.thorough
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


@pytest.mark.thorough
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


# --- as a module of another workflow ---------------------------------------------------------------

SMALLEST = {
    "study": {"name": "smallest"},
    "datasets": {"base": {"name": "digits", "samples_per_class": 10}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 1, "width": 8},
            "loss": {"name": "mse"},
            "optimizer": {"lr": 0.05},
            "epochs": 1,
        }
    },
    "ufm": {"matched": []},
    "figures": [],
    "tracking": {"enabled": False},
}
UFM_ALONE = {key: SMALLEST[key] for key in ("study", "figures", "tracking")} | {"ufm": {"base": STUDY["ufm"]["base"]}}


def deploy(folder: Path, config: object, modules: str) -> None:
    """What `snakedeploy deploy-workflow` does: it copies two folders and declares the module."""
    for name in ("config", "profiles"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    (folder / "workflow").mkdir()
    (folder / "workflow/Snakefile").write_text(f'configfile: "config/config.yaml"\n{modules}')


def declared(name: str, config: str, more: str, used: str) -> str:
    source = repr(str(ROOT / ("Snakefile" if name == "net" else "workflow/Snakefile")))
    return (
        f"module {name}:\n    snakefile: {source}\n    config: {config}\n    {more}\nuse rule * from {name}{used}\n"
    )


def run_in(folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.thorough
def test_it_runs_where_it_is_deployed(tmp_path):
    deploy(tmp_path, SMALLEST, declared("ncpipe", "config", "", ""))
    run_in(tmp_path)
    assert (tmp_path / "results/report.html").exists()
    assert " on " in (tmp_path / "results/.lock").read_text()
    assert "finished" in json.loads((tmp_path / "results/logs/workflow.json").read_text())
    assert "Nothing to be done" in run_in(tmp_path)
    (tmp_path / "config/config.yaml").write_text("study: {name: a}\nstudy: {name: b}\n")
    done = subprocess.run([sys.executable, "-m", "snakemake", "-n"], cwd=tmp_path, capture_output=True, text=True)
    assert "'study' stands twice" in done.stdout + done.stderr


@pytest.mark.thorough
def test_two_studies_under_other_names_and_in_other_places_run_in_one_workflow(tmp_path):
    modules = "rule all:\n    input: 'deep/er/results/report.html', 'ufm/report.html'\n"
    modules += "onstart:\n    print('theirs before')\n"
    modules += declared("net", "config['net']", "prefix: 'deep/er'", " as net_*")
    modules += declared("ufm", "config['ufm']", "replace_prefix: {'results/': 'ufm/'}", " as ufm_*")
    modules += "use rule train from net as net_train with:\n    threads: 1\n"
    modules += "onstart:\n    print('theirs after')\nonsuccess:\n    print('theirs at the end')\n"
    deploy(tmp_path, {"net": SMALLEST, "ufm": UFM_ALONE}, modules)
    said = run_in(tmp_path)
    assert "theirs after" in said
    assert "theirs at the end" in said
    assert not (tmp_path / "results").exists()
    for place in ("deep/er/results", "ufm"):
        assert (tmp_path / place / "report.html").exists()
        assert "finished" in json.loads((tmp_path / place / "logs/workflow.json").read_text())
        assert json.loads((tmp_path / place / "study.json").read_text())["study"]["results"] == place
    assert "Nothing to be done" in run_in(tmp_path)
    with (tmp_path / "ufm/.lock").open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "ufm_all", "--forceall"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "ncpipe: another snakemake runs on ufm" in done.stdout + done.stderr


# --- copies ----------------------------------------------------------------------------------------


def scramble(folder: Path, order: int) -> None:
    """Date all files anew, as a copy without dates does, in an order of no meaning."""
    files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda p: (p.name, str(p)))
    for number, path in enumerate(files[:: 1 if order else -1]):
        os.utime(path, (number + 1e9, number + 1e9))


def test_nothing_is_due_where_dates_are_lost(finished, tmp_path):
    place = Workplace(tmp_path / "study")
    shutil.copytree(finished.folder, place.folder, dirs_exist_ok=True)
    largest = max(path.stat().st_size for path in (place.folder / "results").rglob("statistics.safetensors"))
    assert largest > 1_000_000, "Snakemake itself knows smaller files"
    for order in range(cases(2)):
        scramble(place.folder / "results", order)
        assert "Nothing to be done" in place.run()


def test_what_has_changed_is_due_though_dates_are_lost(finished, tmp_path):
    place = Workplace(tmp_path / "study")
    shutil.copytree(finished.folder, place.folder, dirs_exist_ok=True)
    (checkpoints,) = place.folder.glob("results/runs/*/checkpoints")
    first, second, *_ = sorted(checkpoints.glob("epoch*"))
    shutil.copy(second, first)
    scramble(place.folder / "results", 0)
    (checkpoints / ".snakemake_timestamp").touch()
    assert place.planned()["features"] == 1
