"""Seconds, memory and bytes of the tables, figures, report and a query of large studies.

    python benchmarks/aggregating.py [--networks 100 1000 10000] [--folder FOLDER]

Nothing is trained or solved: the records of all runs are written with the schemas of the real ones, of every network
4 layers, 2 splits, 16 epochs and 15 metrics, two matched UFMs, and ten times as many declared UFM problems. Then the
real commands run one after the other, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ncpipe.records.schemas import COLLAPSE, GRAMS, HISTORY, TIMINGS, UFM
from ncpipe.records.writing import PARQUET
from ncpipe.study.runs import UfmBatch
from ncpipe.study.study import Study
from ncpipe.training.settings import NetworkRun

SEEDS, WIDTHS, PROBLEM_SEEDS = 4, (16, 32, 64, 128, 256), 10
EPOCHS, CLASSES = tuple(range(16)), 10
LAYERS = ("layer1", "layer2", "layer3", "features")
METRICS = (
    "nc1_pinv", "nc1_trace_ratio", "within_share", "cdnv", "nc2_means_equinorm", "nc2_means_etf", "nc2_means_of",
    "nc2_means_uncentred_etf", "nc2_weights_etf", "nc2_weights_of", "nc3_duality", "nc4_mismatch", "ncc_accuracy",
    "accuracy", "loss",
)  # fmt: skip
QUANTITIES = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "learning_rate")
SOLVED = ("objective", "gap", "gradient_norm")
MODELS = ("plain", "extended")
DESCENT = (0, 1, 3, 10, 30, 100, 300, 1000)
QUERY = (
    "SELECT r.width, c.depth, median(c.value) AS nc1 FROM collapse c JOIN runs r USING (run_id)"
    " WHERE c.metric = 'nc1_pinv' AND c.split = 'train' AND c.time = r.final_epoch AND c.source = 'net'"
    " GROUP BY ALL ORDER BY ALL"
)
Columns = dict[str, Any]


# --- the study -------------------------------------------------------------------------------------


def config(networks: int, results: Path) -> dict[str, Any]:
    """Networks over widths, weight decays and seeds; UFM problems over penalties and seeds, some by descent."""
    decays = [float(f"{x:.6g}") for x in np.geomspace(1e-5, 1e-1, max(1, networks // (SEEDS * len(WIDTHS))))]
    side = max(3, round((networks * 0.9) ** 0.5))
    penalties = [float(f"{x:.6g}") for x in np.geomspace(1e-5, 1e-1, side)]
    descent = {"name": "gradient_descent", "steps": DESCENT[-1]}
    extra = [{"feature_decay": h, "solver": descent} for h in np.geomspace(1e-5, 1e-2, networks).round(9).tolist()]
    return {
        "study": {"name": f"synthetic-{networks}", "results": str(results)},
        "datasets": {"base": {"name": "digits"}},
        "networks": {
            "base": {
                "model": {"name": "mlp", "depth": 4, "width": 16},
                "loss": {"name": "mse"},
                "optimizer": {"lr": 0.05},
                "epochs": EPOCHS[-1],
            },
            "sweep": {
                "grid": {
                    "model.width": WIDTHS,
                    "optimizer.weight_decay": decays,
                    "seed": list(range(SEEDS)),
                }
            },
        },
        "ufm": {
            "matched": list(MODELS),
            "base": {"classes": 4, "samples": 20, "dim": 8, "weight_decay": 5e-3, "feature_decay": 1e-3,
                     "solver": {"name": "lbfgs"}},
            "sweep": {
                "grid": {
                    "feature_decay": penalties,
                    "weight_decay": penalties,
                    "seed": list(range(PROBLEM_SEEDS)),
                },
                "include": extra,
            },
        },
        "measure": {"epochs": list(EPOCHS), "layers": 4},
    }  # fmt: skip


class Records:
    """Writes what the runs of a study leave; a few drawn series are shared out among the runs."""

    def __init__(self, study: Study) -> None:
        self.study, self.random = study, np.random.default_rng(0)
        places = [(s, n, d, t, m) for t in EPOCHS for d, n in enumerate(LAYERS, 1) for s in ("train", "test")
                  for m in METRICS]  # fmt: skip
        names = ("split", "layer", "depth", "time", "metric")
        self.collapse = dict(zip(names, map(list, zip(*places))))

    def write(self) -> None:
        for run in self.study.networks.values():
            self.network(run)
            self.matched(run)
        for batch in self.study.ufm_batches.values():
            self.batch(batch)

    def network(self, run: NetworkRun) -> None:
        folder = self.study.layout.run(run.id)
        record = {"status": "done", "final_epoch": EPOCHS[-1], "parameters": 5000, "device": "cpu"}
        folder.mkdir(parents=True)
        (folder / "spec.json").write_text(json.dumps(record | {"precision": "float32"}))
        values = np.exp(-np.repeat(EPOCHS, len(LAYERS) * 2 * len(METRICS)) / 4) * self.random.lognormal(size=1920)
        rows = {**self.collapse, "value": values, "rank": 9, "condition": 0.5, "reason": None}
        self.table(folder / "collapse.parquet", COLLAPSE, {"source": "net", "run_id": run.id, **rows})
        epochs, quantities = np.repeat(EPOCHS[1:], len(QUANTITIES)), QUANTITIES * (len(EPOCHS) - 1)
        value = np.where(epochs > 9, 1.0, self.random.random(len(epochs)))
        self.history(folder, "net", [run.id] * len(epochs), epochs, quantities, value)
        self.timings(folder, "train", [run.id] * (len(EPOCHS) - 1), EPOCHS[1:])
        self.grams(folder, "net", [run.id], EPOCHS[-1])

    def matched(self, run: NetworkRun) -> None:
        folder = self.study.layout.ufm(run.matched_id)
        ids = [f"matched-{model}-{run.id}" for model in MODELS]
        gram = np.eye(CLASSES).ravel() + 0.1 * self.random.random(CLASSES**2)
        names = [f"{side}_{what}_gram" for side in ("predicted", "measured") for what in ("means", "weights")]
        sizes = [f"{s}_{w}" for s in ("predicted", "measured") for w in ("loss", "feature_norm", "weight_norm")]
        fit = {"kind": "matched", "network_id": run.id, "model": list(MODELS), "activation": "linear", "loss": "mse",
               "bias": "none", "classes": CLASSES, "samples": 100, "dim": run.spec.model.width,
               "weight_decay": [[5e-3], [5e-3, 5e-3]], "feature_decay": 1e-4, "solver": "construction",
               "seed": run.spec.seed, "status": "done", "value": 0.03, "iterations": 0,
               "means_gram_error": 0.2, "weights_gram_error": 0.3}  # fmt: skip
        fit |= {name: [gram] * 2 for name in names} | {name: self.random.random(2) + 0.1 for name in sizes}
        self.table(folder / "fits.parquet", UFM, {"run_id": ids, **fit})
        self.solved(folder, ids, (0,), ("features",))

    def batch(self, batch: UfmBatch) -> None:
        folder, ids = self.study.layout.ufm(batch.id), list(batch.problems)
        specs = list(batch.problems.values())
        optimum = self.random.random(len(ids))
        fit = {"kind": "declared", "model": "plain", "activation": "linear", "loss": "mse", "bias": "none",
               "classes": 4, "samples": 20, "dim": 8, "weight_decay": [[s.weight_decay] for s in specs],
               "feature_decay": [s.feature_decay for s in specs], "solver": specs[0].solver.name,
               "seed": [s.seed for s in specs], "status": "done", "message": "reached the optimum",
               "value": optimum, "optimum": optimum, "optimum_is_zero": optimum > 0.8, "scale": 1 - optimum,
               "rank": 4, "is_global": True, "zero_threshold": [zero_threshold(s) for s in specs], "gap": 1e-12,
               "missed": False, "gradient_norm": 1e-9, "iterations": 60, "starts": 8, "success_fraction": 1.0,
               "dead_directions": 0, "basis": "soft-thresholded singular values"}  # fmt: skip
        self.table(folder / "fits.parquet", UFM, {"run_id": ids, **fit})
        descends = specs[0].solver.name == "gradient_descent"
        self.solved(folder, ids, DESCENT if descends else (60,), ("features",))

    def solved(self, folder: Path, ids: list[str], times: Sequence[int], layers: Sequence[str]) -> None:
        """Histories, metrics, Grams and times of UFMs."""
        keys = list(product(ids, times, enumerate(layers, 1), METRICS))
        rows = {
            "source": "ufm", "run_id": [k[0] for k in keys], "split": "train", "layer": [k[2][1] for k in keys],
            "depth": [k[2][0] for k in keys], "time": [k[1] for k in keys], "metric": [k[3] for k in keys],
            "value": self.random.lognormal(size=len(keys)), "rank": 3, "condition": 0.9, "reason": None,
        }  # fmt: skip
        self.table(folder / "collapse.parquet", COLLAPSE, rows)
        steps = list(product(ids, times, SOLVED))
        values = self.random.random(len(steps))
        self.history(folder, "ufm", [s[0] for s in steps], [s[1] for s in steps], [s[2] for s in steps], values)
        self.timings(folder, "ufm", ids, [times[-1]] * len(ids))
        self.grams(folder, "ufm", ids, times[-1])

    def history(self, folder: Path, source: str, ids: Any, time: Any, quantity: Any, value: Any) -> None:
        rows = {"source": source, "run_id": ids, "time": time, "quantity": quantity, "value": value}
        self.table(folder / "history.parquet", HISTORY, rows)

    def timings(self, folder: Path, stage: str, ids: Sequence[str], times: Sequence[int]) -> None:
        rows = {"run_id": ids, "stage": stage, "time": times, "seconds": 1.0, "images_per_second": None}
        self.table(folder / "timings.parquet", TIMINGS, rows | {"finished_at": datetime(2026, 1, 1, tzinfo=UTC)})

    def grams(self, folder: Path, source: str, ids: Sequence[str], time: int) -> None:
        classes = CLASSES if source == "net" or "matched" in ids[0] else 4
        kinds = ("means_uncentred", "means", "weights")
        row, column = np.indices((classes, classes)).reshape(2, -1)
        entries, kind_rows = classes**2, len(ids) * len(kinds)
        rows = {
            "source": source, "run_id": np.repeat(ids, len(kinds) * entries), "layer": "features", "time": time,
            "gram": np.tile(np.repeat(kinds, entries), len(ids)), "row": np.tile(row, kind_rows),
            "column": np.tile(column, kind_rows),
            "value": np.tile((row == column) + 0.1, kind_rows) + 0.1 * self.random.random(kind_rows * entries),
        }  # fmt: skip
        self.table(folder / "grams.parquet", GRAMS, rows)

    @staticmethod
    def table(path: Path, schema: pa.Schema, columns: Columns) -> None:
        """A single value fills its column, and a column that is not given is null."""
        length = max(len(v) for v in columns.values() if isinstance(v, list | tuple | np.ndarray))
        arrays = []
        for field in schema:
            value = columns.get(field.name)
            if not isinstance(value, list | tuple | np.ndarray):
                arrays.append(pa.repeat(pa.scalar(value, field.type), length))
            else:
                arrays.append(pa.array(value, field.type))
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), path, **PARQUET)  # without the wait for the disk


def zero_threshold(spec: Any) -> float:
    """Of the plain model with squared error."""
    return 1 / (spec.classes * (20 * spec.feature_decay * spec.weight_decay) ** 0.5)


# --- the commands ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """Of one command."""

    what: str
    seconds: float
    cpu: float
    mib: float
    output: str

    def __str__(self) -> str:
        return f"{self.what:<28} {self.seconds:>8.1f} s {self.cpu:>8.1f} CPU-s {self.mib:>8.0f} MiB  {self.output}"


def measured(what: str, *command: str, output: Path | None = None) -> Usage:
    """Run a command of ncpipe; its peak memory is that of its process."""
    start, stop = time.perf_counter(), 0.0
    process = subprocess.Popen([sys.executable, "-m", "ncpipe", *command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    stop = time.perf_counter()
    process.returncode = os.waitstatus_to_exitcode(status)
    size = "" if output is None else f"{weight(output) / 2**20:,.1f} MiB written"
    failed = "" if process.returncode == 0 else f"FAILED with {process.returncode}"
    return Usage(what, stop - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, failed or size)


def weight(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.name}*")
    return sum(file.stat().st_size for file in files if file.is_file())


def commands(study: Study, file: Path) -> Iterator[Usage]:
    layout = study.layout
    yield measured("ncpipe plan", "plan", str(file), "--no-estimate")
    yield measured("ncpipe tables", "tables", str(file), output=layout.tables)
    for name in study.figures:
        yield measured(f"ncpipe figure {name}", "figure", name, "--study", str(file), output=layout.figures / name)
    yield measured("ncpipe report", "report", str(file), output=layout.report)
    yield measured("ncpipe query", "query", QUERY, "--tables", str(layout.tables))


def run(networks: int, folder: Path, keep: bool) -> None:
    results = folder / f"{networks}"
    settings, file = config(networks, results), folder / f"{networks}.json"
    file.write_text(json.dumps(settings))  # the order of a sweep is that of its keys
    study = Study(settings)
    start = time.perf_counter()
    if not results.exists():
        Records(study).write()
    print(f"\n{len(study.networks):,} networks, {len(study.problems):,} UFM problems"
          f" (records written in {time.perf_counter() - start:.0f} s)", flush=True)  # fmt: skip
    for usage in commands(study, file):
        print(usage, flush=True)
    for table in sorted(study.layout.tables.glob("*.parquet")):
        count = pq.ParquetDataset(table).fragments
        total = sum(fragment.count_rows() for fragment in count)
        print(f"    {table.name:<18} {total:>12,} rows {weight(table) / 2**20:>9,.1f} MiB in {len(count)} files")
    if not keep:
        shutil.rmtree(results)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--folder", type=Path, help="keeps the records there; default: a temporary folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        for networks in options.networks:
            run(networks, options.folder or Path(temporary), keep=options.folder is not None)


if __name__ == "__main__":
    main()
