"""Seconds and memory of planning large studies, against Snakemake planning as many trivial jobs.

    python benchmarks/planning.py [--networks 100 1000 10000] [--repeats 1]

A study of N networks (digits of 4 classes, tiny MLPs over widths, losses, penalties and seeds, both UFMs matched to
each) and 10 N declared UFM problems is planned by `snakemake -n --quiet` with ncpipe's Snakefile. Its twin has the
same numbers of jobs with the same dependencies, as many inputs, outputs, logs and benchmark files under names as
long, and the same threads and memory; but its rules hold constants and wildcards only, no functions and no params,
and its jobs only touch files. The bar is 1.2 times the twin's time. Below it: what every job of the study reads again
(`Study`), and `ncpipe plan --no-estimate`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from collapse import machine

from ncpipe.study.study import Study

ROOT = Path(__file__).resolve().parent.parent
BAR = 1.2

PROBLEMS_PER_NETWORK = 10
SETTINGS = 20
"""Networks, and UFM problems of one shape, that differ in more than the seed."""
UFM_WIDTHS = (4, 6, 8, 12, 16)

TWIN = """
RUNS = [f"digits-mlp2x16-mse-nobias-s0-{i:08x}" for i in range(%(networks)d)]
BATCHES = [f"plain-mse-nobias-lbfgs-{i:08x}" for i in range(%(batches)d)]
FIGURES = %(figures)s
ENDINGS = ["svg", "png", "pdf"]
TABLES = expand("results/tables/{t}.parquet", t=["runs", "history", "collapse", "grams", "ufm", "claims", "timings"])

wildcard_constraints:
    run="[A-Za-z0-9_-]+",
    batch="(?!matched-)[A-Za-z0-9_-]+",
    figure="[A-Za-z0-9_-]+",

rule all:
    default_target: True
    input: "results/report.html", "results/mlflow/sync.json"

rule dataset:
    output: expand("results/data/digits/{f}", f=["train.safetensors", "test.safetensors", "dataset.json"])
    log: "results/logs/dataset/digits.log"
    benchmark: "results/benchmarks/dataset/digits.tsv"
    resources: mem_mb=4000, runtime=60
    shell: "touch {output} > {log} 2>&1"

rule train:
    input: "results/data/digits/dataset.json"
    output:
        expand("results/runs/{{run}}/{f}.parquet", f=["history", "timings"]),
        expand("results/runs/{{run}}/{f}", f=["spec.json", "model.safetensors"]),
        directory("results/runs/{run}/checkpoints"),
    log: "results/logs/train/{run}.log"
    benchmark: "results/benchmarks/train/{run}.tsv"
    resources: mem_mb=4000, runtime=1440
    shell: "touch {output} > {log} 2>&1"

rule features:
    input: "results/data/digits/dataset.json", "results/runs/{run}/spec.json", "results/runs/{run}/checkpoints"
    output: "results/runs/{run}/statistics.safetensors", "results/runs/{run}/features.safetensors"
    log: "results/logs/features/{run}.log"
    benchmark: "results/benchmarks/features/{run}.tsv"
    resources: mem_mb=6000, runtime=240
    shell: "touch {output} > {log} 2>&1"

rule collapse_network:
    input: "results/runs/{run}/statistics.safetensors"
    output: "results/runs/{run}/collapse.parquet", "results/runs/{run}/grams.parquet"
    log: "results/logs/collapse/{run}.log"
    benchmark: "results/benchmarks/collapse/{run}.tsv"
    resources: mem_mb=2000, runtime=30
    shell: "touch {output} > {log} 2>&1"

rule match:
    input: "results/runs/{run}/spec.json", "results/runs/{run}/statistics.safetensors"
    output:
        expand("results/ufm/matched-{{run}}/{f}.parquet", f=["fits", "history", "timings", "collapse", "grams"]),
        expand("results/ufm/matched-{{run}}/{f}.safetensors", f=["minimisers", "statistics"]),
    log: "results/logs/ufm/matched-{run}.log"
    benchmark: "results/benchmarks/ufm/matched-{run}.tsv"
    resources: mem_mb=2000, runtime=60
    shell: "touch {output} > {log} 2>&1"

rule fit:
    output:
        expand("results/ufm/{{batch}}/{f}.parquet", f=["fits", "history", "timings"]),
        expand("results/ufm/{{batch}}/{f}.safetensors", f=["minimisers", "statistics"]),
    log: "results/logs/ufm/{batch}.log"
    benchmark: "results/benchmarks/ufm/{batch}.tsv"
    resources: mem_mb=4000, runtime=240
    shell: "touch {output} > {log} 2>&1"

rule collapse_ufm:
    input: "results/ufm/{batch}/statistics.safetensors"
    output: "results/ufm/{batch}/collapse.parquet", "results/ufm/{batch}/grams.parquet"
    log: "results/logs/collapse/ufm-{batch}.log"
    benchmark: "results/benchmarks/collapse/ufm-{batch}.tsv"
    resources: mem_mb=2000, runtime=30
    shell: "touch {output} > {log} 2>&1"

rule tables:
    input:
        expand("results/runs/{run}/{f}.parquet", run=RUNS, f=["history", "timings", "collapse", "grams"]),
        expand("results/runs/{run}/spec.json", run=RUNS),
        expand("results/ufm/{batch}/{f}.parquet", batch=[*BATCHES, *(f"matched-{run}" for run in RUNS)],
            f=["fits", "history", "timings", "collapse", "grams"]),
    output: TABLES
    log: "results/logs/tables.log"
    benchmark: "results/benchmarks/tables.tsv"
    resources: mem_mb=4000, runtime=60
    shell: "touch {output} > {log} 2>&1"

rule figure:
    input: TABLES
    output: expand("results/figures/{{figure}}.{e}", e=ENDINGS)
    log: "results/logs/figures/{figure}.log"
    benchmark: "results/benchmarks/figures/{figure}.tsv"
    resources: mem_mb=2000, runtime=30
    shell: "touch {output} > {log} 2>&1"

rule report:
    input: TABLES, expand("results/figures/{figure}.svg", figure=FIGURES), "results/mlflow/store.json"
    output: "results/report.html"
    log: "results/logs/report.log"
    benchmark: "results/benchmarks/report.tsv"
    resources: mem_mb=2000, runtime=30
    shell: "touch {output} > {log} 2>&1"

rule store:
    output: "results/mlflow/store.json"
    log: "results/logs/store.log"
    benchmark: "results/benchmarks/store.tsv"
    priority: 100
    resources: mem_mb=2000, runtime=30
    shell: "touch {output} > {log} 2>&1"

rule sync:
    input: TABLES, "results/mlflow/store.json", "results/report.html"
    output: "results/mlflow/sync.json"
    log: "results/logs/sync.log"
    benchmark: "results/benchmarks/sync.tsv"
    resources: mem_mb=2000, runtime=120
    shell: "touch {output} > {log} 2>&1"
"""


def synthetic_study(networks: int) -> dict[str, Any]:
    """Config of a study of ``networks`` networks and ten times as many UFM problems; a multiple of 20."""
    problems = networks * PROBLEMS_PER_NETWORK
    return {
        "study": {"name": f"planning-{networks}", "results": "results"},
        "datasets": {"base": {"name": "digits", "classes": 4, "samples_per_class": 20}},
        "networks": {
            "base": {"model": {"name": "mlp", "depth": 2}, "head": {"bias": False}, "optimizer": {"lr": 0.05},
                     "epochs": 100},
            "sweep": {"grid": {
                "model.width": [16, 32],
                "loss": [{"name": "mse"}, {"name": "ce"}],
                "optimizer.weight_decay": [1e-4, 3e-4, 1e-3, 3e-3, 1e-2],
                "seed": list(range(networks // SETTINGS)),
            }},
        },
        "ufm": {
            "base": {"classes": 4, "samples": 10, "solver": {"name": "lbfgs"}},
            "sweep": {"grid": {
                "dim": list(UFM_WIDTHS),
                "feature_decay": [float(f"{10 ** (-4 + i / 10):.3g}") for i in range(SETTINGS)],
                "seed": list(range(problems // (SETTINGS * len(UFM_WIDTHS)))),
            }},
        },
    }  # fmt: skip


class Cost(NamedTuple):
    """Of a process: seconds it took, seconds of its CPU time, and MiB of memory at the peak."""

    wall: float
    cpu: float
    memory: float

    def __str__(self) -> str:
        return f"{self.wall:>8.1f} {self.cpu:>8.1f} {self.memory:>8.0f}"


def cost(command: Sequence[str], folder: Path) -> tuple[Cost, str]:
    """Run a command in a folder; its cost, and what it printed."""
    output = folder / "printed.txt"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with output.open("w") as stream:
        start, memory = time.perf_counter(), 0.0
        process = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT, env=environment)
        # The memory that wait4 gives is that of this process where it is larger.
        while not (ended := os.wait4(process.pid, os.WNOHANG))[0]:
            memory = max(memory, peak(process.pid))
            time.sleep(0.02)
        wall = time.perf_counter() - start
    _, status, used = ended
    process.returncode = os.waitstatus_to_exitcode(status)
    printed = output.read_text(encoding="utf-8")
    if process.returncode:
        raise RuntimeError(printed[-3000:])
    return Cost(wall, used.ru_utime + used.ru_stime, memory), printed


def peak(pid: int) -> float:
    """MiB that a process has held at most; 0 where it has ended."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found.group(1)) / 1024 if found else 0.0


def snakemake(folder: Path, *options: str) -> list[str]:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--directory", str(folder), "--dry-run"]
    return [*command, "--quiet", "rules", "--workflow-profile", str(ROOT / "workflow/profiles/default"), *options]


def jobs_planned(printed: str) -> int:
    found = re.search(r"^total +(\d+)", printed, re.M)
    assert found, printed[-1000:]
    return int(found.group(1))


def plan_both(networks: int, folder: Path, repeats: int) -> None:
    """Plan the study and its twin in turns, and print the cheapest of each."""
    config = synthetic_study(networks)
    (folder / "study.json").write_text(json.dumps(config))
    study = Study(config)
    assert len(study.networks) == networks
    assert len(study.problems) == networks * PROBLEMS_PER_NETWORK
    size = {"networks": networks, "batches": len(study.ufm_batches), "figures": list(study.figures)}
    (folder / "Twin").write_text(TWIN % size)
    commands = {
        "twin": snakemake(folder, "--snakefile", str(folder / "Twin")),
        "study": snakemake(
            folder, "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(folder / "study.json")
        ),
    }
    runs = [(name, *cost(command, folder)) for _ in range(repeats) for name, command in commands.items()]
    (jobs,) = {jobs_planned(printed) for _, _, printed in runs}
    taken = {name: min(used for which, used, _ in runs if which == name) for name in commands}
    for name, used in taken.items():
        print(f"{networks:>8,} {jobs:>8,}  {f'snakemake -n, {name}':<28} {used}", flush=True)
    ours, theirs = taken["study"], taken["twin"]
    print(f"{'':>19}ratio: wall {ours.wall / theirs.wall:.2f}, CPU {ours.cpu / theirs.cpu:.2f} (bar {BAR}),"
          f" memory {ours.memory / theirs.memory:.2f}")  # fmt: skip
    for name, command in (
        ("Study(config)", ["-c", "import json; from ncpipe.study.study import Study;"
                                 " Study(json.load(open('study.json')))"]),
        ("ncpipe plan --no-estimate", ["-m", "ncpipe", "plan", "study.json", "--no-estimate"]),
    ):  # fmt: skip
        print(f"{networks:>8,} {'':>8}  {name:<28} {cost([sys.executable, *command], folder)[0]}", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--networks", type=int, nargs="+", default=[100, 1000, 10_000], help=f"multiples of {SETTINGS}"
    )
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    print(machine("cpu"))
    print(f"\n{'networks':>8} {'jobs':>8}  {'':<28} {'wall, s':>8} {'CPU, s':>8} {'MiB':>8}")
    for networks in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            plan_both(networks, Path(folder), options.repeats)


if __name__ == "__main__":
    main()
