"""Seconds to mirror a study of many UFM problems into an MLflow store, and to find that nothing has changed.

    python benchmarks/mirror.py [--problems 10000] [--uri postgresql://...] [--sample 200]

The problems are not solved: their tables are written with what an L-BFGS fit of a sweep leaves, 40 metrics of the
last features and 3 quantities of the solver. The baseline logs parameters, tags and points of a sample of the runs
in the usual way, mlflow.start_run with log_params, set_tags and log_metrics, into a store of the same kind.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from collapse import machine

from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_rows
from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.system.credentials import redacted
from ncpipe.tracking.records import RunRecord, StudyRecords
from ncpipe.tracking.sync import sync

import mlflow  # isort: skip  # after ncpipe, which sets it to be silent

Row = dict[str, Any]

METRICS, QUANTITIES = 40, ("objective", "gap", "gradient_norm")
BAR = 300
"""Seconds that 10,000 problems may take."""


# --- the study -------------------------------------------------------------------------------------


def write_tables(layout: Layout, problems: int) -> None:
    """The tables of a sweep over penalties and seeds."""
    ids = [f"plain-mse-nobias-lbfgs-{number:08x}" for number in range(problems)]
    rows = {
        "runs": [run_row(run_id, number) for number, run_id in enumerate(ids)],
        "ufm": [fit_row(run_id) for run_id in ids],
        "history": [history_row(run_id, quantity) for run_id in ids for quantity in QUANTITIES],
        "collapse": [collapse_row(run_id, metric) for run_id in ids for metric in range(METRICS)],
        "timings": [timing_row(run_id, number) for number, run_id in enumerate(ids)],
    }
    for name, schema in TABLES.items():
        write_rows(layout.tables / f"{name}.parquet", schema, rows.get(name, []), {"git_commit": "0123456789"})


def run_row(run_id: str, number: int) -> Row:
    weight_decay = float(10 ** np.random.default_rng(number).uniform(-4, -2))
    return {
        "source": "ufm", "run_id": run_id, "kind": "declared", "status": "done", "label": f"plain {weight_decay:.2g}",
        "classes": 4, "train_samples": 200, "model": "plain", "depth": 1, "loss": "mse", "bias": "none",
        "optimizer": "lbfgs", "weight_decay": [weight_decay], "feature_decay": 1e-3, "epochs": 2000, "samples": 50,
        "activation": "linear", "dim": 20, "seed": number % 10, "final_epoch": 61, "settings": "{}",
    }  # fmt: skip


def fit_row(run_id: str) -> Row:
    basis = "soft-thresholded singular values (Tirer & Bruna 2022, Theorem 3.1)"
    return {"run_id": run_id, "kind": "declared", "status": "done", "basis": basis, "iterations": 61}


def history_row(run_id: str, quantity: str) -> Row:
    return {"source": "ufm", "run_id": run_id, "time": 61, "quantity": quantity, "value": 0.1}


def collapse_row(run_id: str, metric: int) -> Row:
    return {
        "source": "ufm", "run_id": run_id, "split": "train", "layer": "features", "depth": 1, "time": 61,
        "metric": f"metric_{metric}", "value": 1 / (1 + metric),
    }  # fmt: skip


def timing_row(run_id: str, number: int) -> Row:
    finished = datetime.fromtimestamp(1_750_000_000 + number // 16, UTC)  # 16 problems are fitted at once
    return {"run_id": run_id, "stage": "ufm", "time": 61, "seconds": 1.0, "finished_at": finished}


# --- the baseline ----------------------------------------------------------------------------------


def log_as_usual(uri: str, records: Sequence[RunRecord]) -> None:
    """Runs by MLflow's fluent API."""
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("baseline")
    for record in records:
        with mlflow.start_run(run_name=record.name):
            mlflow.log_params(record.params)
            mlflow.set_tags(record.tags)
            for step in sorted({point.step for point in record.points}):
                mlflow.log_metrics({p.key: p.value for p in record.points if p.step == step}, step=step)


# --- the comparison --------------------------------------------------------------------------------


@contextmanager
def timed(what: str, runs: int) -> Iterator[list[float]]:
    """Print the seconds of the block and the runs per second, which are in the list afterwards."""
    rate: list[float] = []
    start = time.perf_counter()
    yield rate
    seconds = time.perf_counter() - start
    rate.append(runs / seconds)
    print(f"{what:<44} {runs:>7,} runs {seconds:>8.1f} s {rate[0]:>9.1f} runs/s", flush=True)


def compare(folder: Path, uri: str | None, problems: int, sample: int) -> None:
    layout = Layout(folder / "results")
    config = Config.model_validate(
        {"study": {"name": f"mirror-{problems}", "results": str(layout.results)}, "tracking": {"uri": uri}}
    )
    write_tables(layout, problems)
    with timed("ncpipe, first sync", problems + 1) as ours:
        summary = sync(config, layout)
    assert summary.created == problems + 1, str(summary)
    with timed("ncpipe, second sync, nothing new", problems + 1):
        summary = sync(config, layout)
    assert summary.kept == problems + 1, str(summary)
    records = list(islice(StudyRecords(config, layout), 1, 1 + sample))
    usual = uri or f"sqlite:///{folder / 'usual.db'}"
    log_as_usual(usual, [])  # the store is made before the clock runs
    with timed("start_run, log_params, set_tags, log_metrics", len(records)) as theirs:
        log_as_usual(usual, records)
    print(f"\nfirst sync, runs/s, against the usual calls: {ours[0] / theirs[0]:.1f} x")
    print(f"10,000 problems at this rate: {10_000 / ours[0]:.0f} s (bar {BAR} s)")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10_000)
    parser.add_argument("--sample", type=int, default=200, help="runs of the baseline")
    parser.add_argument("--uri", help="the store; default: SQLite in a temporary folder")
    options = parser.parse_args(arguments)
    points = METRICS + len(QUANTITIES)
    print(f"{machine('cpu')}, MLflow {mlflow.__version__}")
    print(f"{options.problems:,} problems, {points} points each, into {redacted(options.uri or 'SQLite')}\n")
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options.uri, options.problems, options.sample)


if __name__ == "__main__":
    main()
