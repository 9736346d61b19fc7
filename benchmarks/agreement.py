"""Whether bf16 training ends where float32 training ends: accuracy and collapse of a convnet and a narrow ResNet18.

    python benchmarks/agreement.py --data-path FOLDER [--compile] [--seeds 5] [--epochs 30] [--json FILE]

Both precisions train the same seeds on the same subset of Fashion-MNIST by ncpipe's train(); extract_features() and
collapse_metrics() measure the last layer, always in float32. Printed are means and standard deviations over seeds,
the difference of the means, and the difference over its standard error, sqrt((s1^2 + s2^2) / seeds): below 2 they
agree. Of many quantities a few lie beyond 2 by chance, and the last line says how many are expected to.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from collapse import machine
from scipy.stats import t as student

from ncpipe.data import load as load_dataset
from ncpipe.data import prepare
from ncpipe.data.settings import DatasetSpec
from ncpipe.features.extraction import extract_features
from ncpipe.records.traces import load_traces
from ncpipe.stages.collapse import collapse_rows
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_json
from ncpipe.training.computation import Computation, choose_device
from ncpipe.training.settings import ComputeSpec, NetworkRun, NetworkSpec

NETWORKS: tuple[dict[str, Any], ...] = (
    {"model": {"name": "convnet", "depth": 3, "width": 32}, "optimizer": {"lr": 0.05, "weight_decay": 5e-4}},
    {"model": {"name": "resnet18", "width": 8}, "optimizer": {"lr": 0.05, "weight_decay": 5e-4}},
)
TINY: tuple[dict[str, Any], ...] = (
    {"model": {"name": "convnet", "depth": 2, "width": 4}, "optimizer": {"lr": 0.05, "weight_decay": 5e-4}},
)
QUANTITIES = (
    ("train", "accuracy"),
    ("train", "loss"),
    ("train", "nc1_pinv"),
    ("train", "cdnv"),
    ("train", "nc2_means_etf"),
    ("train", "nc2_means_equinorm"),
    ("train", "nc2_weights_etf"),
    ("train", "nc3_duality"),
    ("test", "accuracy"),
    ("test", "loss"),
    ("test", "nc1_pinv"),
    ("test", "nc4_mismatch"),
)
"""Split and metric of the last layer at the last epoch; for the metrics see docs/metrics.md."""
AGREE = 2.0
"""Standard errors of a difference below which it counts as none."""

Key = tuple[str, str]


@dataclass(frozen=True)
class Way:
    """How to train."""

    precision: str
    compiled: bool = False

    def __str__(self) -> str:
        return self.precision + (" + compile" if self.compiled else "")


FLOAT32 = Way("float32")


@dataclass(frozen=True)
class Job:
    """One training: a network's settings, a seed and a way."""

    network: dict[str, Any]
    way: Way
    seed: int
    dataset: DatasetSpec
    prepared: Path
    epochs: int
    device: str


def outcome(job: Job) -> dict[Key, float]:
    """Train and measure; the quantities by split and metric."""
    settings = {**job.network, "dataset": job.dataset, "loss": {"name": "ce"}, "epochs": job.epochs}
    spec = NetworkSpec.model_validate({**settings, "seed": job.seed, "precision": job.way.precision})
    run = NetworkRun("run", spec, "data", (spec.epochs,), tuple(spec.layers()[-1:]))
    computation = Computation.choose(spec, choose_device(job.device), ComputeSpec(compile=job.way.compiled))
    data = load_dataset(job.prepared)
    with tempfile.TemporaryDirectory() as place, redirect_stdout(sys.stderr):
        folder = Path(place)
        train(run, data, folder, computation)
        extract_features(run, MeasureSpec(), data, folder, replace(computation, precision="float32"))
        trace = load_traces(folder / "statistics.safetensors")[run.id]
    return {(row["split"], row["metric"]): row["value"] for row in collapse_rows("net", run.id, trace)}


def outcomes(jobs: Sequence[Job], processes: int) -> list[dict[Key, float]]:
    """Of all jobs, in processes of one thread each."""
    if processes == 1:
        _use_one_thread()
        return [outcome(job) for job in jobs]
    with ProcessPoolExecutor(processes, get_context("spawn"), _use_one_thread) as pool:
        return list(pool.map(outcome, jobs))


def _use_one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Comparison:
    """A quantity over the seeds, trained in two ways."""

    reference: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def difference(self) -> float:
        return statistics.fmean(self.other) - statistics.fmean(self.reference)

    @property
    def error(self) -> float:
        """Standard error of the difference, for samples that are independent."""
        squares = statistics.variance(self.reference) + statistics.variance(self.other)
        return math.sqrt(squares / len(self.reference))

    @property
    def score(self) -> float:
        """Difference over its standard error; equal constants agree, different ones do not."""
        if self.error == 0:
            return 0.0 if self.difference == 0 else math.inf
        return abs(self.difference) / self.error

    @property
    def agrees(self) -> bool:
        return self.score < AGREE


def expected_by_chance(count: int, seeds: int) -> float:
    """Comparisons of ``count`` that lie beyond AGREE where there is no difference, by Student's distribution."""
    return count * 2 * float(student.sf(AGREE, 2 * seeds - 2))


def compare(found: dict[tuple[int, Way, int], dict[Key, float]], network: int, way: Way) -> dict[Key, Comparison]:
    """The way against float32, quantity by quantity."""

    def of(which: Way, key: Key) -> tuple[float, ...]:
        return tuple(row[key] for (n, w, _), row in found.items() if (n, w) == (network, which))

    return {key: Comparison(of(FLOAT32, key), of(way, key)) for key in QUANTITIES}


def print_table(title: str, compared: dict[Key, Comparison], way: Way) -> None:
    print(f"\n{title}")
    print(f"{'':27}{'float32':>22}{way!s:>22}{'difference':>12}{'/ error':>9}")
    for (split, metric), both in compared.items():
        columns = "".join(
            f"{statistics.fmean(values):12.4g} +- {statistics.stdev(values):<6.2g}"
            for values in (both.reference, both.other)
        )
        verdict = "agree" if both.agrees else "differ"
        print(f"{split:6}{metric:21}{columns}{both.difference:12.1e}{both.score:9.2f}  {verdict}")


def compared_all(chosen: argparse.Namespace) -> list[tuple[str, dict[Key, Comparison]]]:
    """Train everything, print the tables; the comparisons by title."""
    ways = [FLOAT32, Way("bf16"), *([Way("bf16", compiled=True)] if chosen.compile else [])]
    networks, name = (TINY, "digits") if chosen.tiny else (NETWORKS, "fashion_mnist")
    count = 20 if chosen.tiny else chosen.samples
    dataset = DatasetSpec.model_validate({"name": name, "samples_per_class": count, "test_samples_per_class": count})
    keys = [(n, way, seed) for n in range(len(networks)) for way in ways for seed in range(chosen.seeds)]
    with tempfile.TemporaryDirectory() as place:
        prepare(dataset, Path(place), chosen.data_path)
        jobs = [Job(networks[n], w, s, dataset, Path(place), chosen.epochs, chosen.device) for n, w, s in keys]
        found = dict(zip(keys, outcomes(jobs, chosen.processes)))
    print(f"{name}, {count} images of a class, {chosen.epochs} epochs, {chosen.seeds} seeds; mean +- sd over seeds")
    tables = []
    for number, network in enumerate(networks):
        for way in ways[1:]:
            compared = compare(found, number, way)
            title = f"{network['model']['name']} of width {network['model']['width']}: {way} against float32"
            print_table(title, compared, way)
            tables.append((title, compared))
    return tables


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, action="append", default=[], help="folder of data-set files")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="also compare bf16 with torch.compile")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--samples", type=int, default=200, help="training images of a class; as many for testing")
    parser.add_argument("--processes", type=int, help="trainings at once; default: one a core, one on a GPU")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--tiny", action="store_true", help="digits and sizes that only show that everything runs")
    chosen = parser.parse_args(words)
    chosen.processes = chosen.processes or (cores() if chosen.device == "cpu" else 1)
    print(f"{machine(chosen.device)}, {chosen.processes} trainings at once")
    try:
        tables = compared_all(chosen)
    except UserError as error:
        sys.exit(f"agreement: {error}")
    everything = [both for _, compared in tables for both in compared.values()]
    beyond, chance = sum(not both.agrees for both in everything), expected_by_chance(len(everything), chosen.seeds)
    print(f"\n{beyond} of {len(everything)} differ by {AGREE:g} errors or more; by chance about {chance:.1f} would")
    if chosen.json is not None:
        record = {title: [_record(key, both) for key, both in compared.items()] for title, compared in tables}
        write_json(chosen.json, {"machine": machine(chosen.device), "tables": record, "by_chance": chance})


def _record(key: Key, both: Comparison) -> dict[str, Any]:
    split, metric = key
    return {"split": split, "metric": metric, "float32": both.reference, "other": both.other, "score": both.score}


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
