"""Seconds and memory for the metrics of one layer: ncpipe against hand-written projections and the d x d recipe.

    python benchmarks/collapse.py [--full] [--busy 4] [--threads 2] [--repeats 5] [--device cpu]

All run in this process on the same float32 features with the same threads. The rivals compute four metrics (NC1,
NC2, NC3, NC4), ncpipe all of them, in float64; CollapseMetrics takes batches of 1,024, in two passes or in one, which
sums the d x d scatter and leaves NC4 out. No figure is printed before every result agrees with ncpipe's.

    (a) Two passes: class means, the SVD of the centred means, and one product of every chunk with a matrix of
        2K - 1 columns that gives NC1, the nearest means and the logits. All in float32, or all in float64.
    (b) Within- and between-class covariance, d x d, and torch.linalg.pinv, as most published code has it.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ncpipe
from ncpipe.collapse import collapse_metrics, layer_statistics

SIZES = ((50_000, 512, 10), (50_000, 2048, 100))
MANY_CLASSES = (200_000, 2048, 1000)
CONVOLUTION = (20_000, 10)
"""Samples and classes of the convolution's features, which are 64 x 16 x 16 = 16,384 wide."""
LARGE = 150_000_000
"""Features, N d, beyond which the covariances in float64 are left out."""
INVERSE_ONCE = 1024
"""Width beyond which the covariances are timed once, in the call that is checked: they take seconds."""
WIDEST_INVERSE = 4096
"""Width beyond which the pseudo-inverse is left out."""
COMPARED = ("nc1_pinv", "nc2_means_etf", "nc3_duality", "nc4_mismatch")
BATCH = 1024
"""Samples in a batch of the metric that takes batches."""
MIB = 1 << 20
OURS = "ncpipe.measure"


@dataclass(frozen=True)
class Case:
    """Features of one layer and the classifier that reads them."""

    features: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def random(cls, samples: int, dim: int, classes: int, device: str = "cpu") -> Case:
        """Gaussian clusters that overlap a little, and a classifier near their means."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(samples) % classes
        means = torch.randn(classes, dim, generator=generator) * 4 / math.sqrt(dim)
        features = torch.randn(samples, dim, generator=generator)
        for rows in chunks(features):
            features[rows] += means[labels[rows]]
        return cls._with_head(features, labels, means, generator, device)

    @classmethod
    def convolution(cls, samples: int, classes: int, device: str = "cpu") -> Case:
        """Flattened maps of relu(conv2d) on noisy images of a random template per class, 64 x 16 x 16 wide."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(samples) % classes
        templates = torch.randn(classes, 3, 16, 16, generator=generator) / 4
        kernels = torch.randn(64, 3, 3, 3, generator=generator) / math.sqrt(27)
        features = torch.empty(samples, 64 * 16 * 16)
        for rows in torch.arange(samples).split(500):
            images = templates[labels[rows]] + torch.randn(len(rows), 3, 16, 16, generator=generator)
            features[rows] = torch.conv2d(images, kernels, padding=1).relu_().flatten(1)
        means, _ = class_means(features, labels, classes, torch.float32)
        return cls._with_head(features, labels, means, generator, device)

    @classmethod
    def _with_head(
        cls, features: Tensor, labels: Tensor, means: Tensor, generator: torch.Generator, device: str
    ) -> Case:
        centred = means - means.mean(dim=0)
        noise = torch.randn(means.shape, generator=generator) * centred.norm(dim=1).mean() / math.sqrt(means.shape[1])
        bias = torch.randn(len(means), generator=generator) / 10
        return cls(features.to(device), labels.to(device), (centred + noise / 5).to(device), bias.to(device))

    def first(self, samples: int) -> Case:
        return Case(self.features[:samples], self.labels[:samples], self.weight, self.bias)


def measure(case: Case) -> dict[str, float]:
    return ncpipe.measure(case.features, case.labels, case.weight, case.bias)


def statistics_and_metrics(case: Case) -> dict[str, float]:
    stats = layer_statistics(case.features, case.labels, len(case.weight), weight=case.weight, bias=case.bias)
    return collapse_metrics(stats, case.weight, case.bias)


def in_batches(case: Case, *, one_pass: bool) -> dict[str, float]:
    """What training loops do: batches in turn, once or twice; one pass has no decisions."""
    metric = ncpipe.CollapseMetrics(len(case.weight), case.weight, case.bias, one_pass=one_pass)
    metric = metric.to(case.features.device)
    for step in range(1 if one_pass else 2):
        if step:
            metric.start_second_pass()
        for features, labels in zip(case.features.split(BATCH), case.labels.split(BATCH)):
            metric.update(features, labels)
    row = metric.compute()
    return {name: float(value) for name, value in row.items() if name not in row.undefined}


def chunks(features: Tensor) -> Iterator[slice]:
    """Rows worked on at once: few enough for the caches of a CPU, many for a GPU."""
    most, elements = (1024, 1 << 20) if features.device.type == "cpu" else (1 << 20, 1 << 24)
    step = max(1, min(most, elements // features.shape[1]))
    for start in range(0, len(features), step):
        yield slice(start, start + step)


def two_passes(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Class means, then what every chunk says in the directions of the means and of the classifier."""
    weight, bias = case.weight.to(dtype), case.bias.to(dtype)
    means, _ = class_means(case.features, case.labels, len(weight), dtype)
    centred = means - means.mean(dim=0)
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    rank = len(means) - 1
    matrix = torch.cat([directions[:rank] / sizes[:rank, None], weight]).T.contiguous()
    own_places = means @ matrix[:, :rank]
    # |h - mu_c|^2 = |h|^2 + |mu_c|^2 - 2 <h, mu_c>, and <h, mu_c> is <h, m_c> up to what all classes share.
    places = (centred @ directions[:rank].T * sizes[:rank]).T.contiguous()
    norms = means.square().sum(dim=1)
    total = means.new_zeros(())
    differing = torch.zeros((), dtype=torch.int64, device=means.device)
    for rows in chunks(case.features):
        projected = case.features[rows].to(dtype) @ matrix
        whitened, logits = projected[:, :rank], projected[:, rank:]
        deviation = whitened - own_places[case.labels[rows]]
        total += torch.linalg.vecdot(deviation, deviation).sum()
        nearest = torch.addmm(norms, whitened, places, alpha=-2).argmin(dim=1)
        differing += ((logits + bias).argmax(dim=1) != nearest).sum()
    return {
        "nc1_pinv": float(total) / len(case.features),
        **frames(centred, weight),
        "nc4_mismatch": float(differing) / len(case.features),
    }


def covariances(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Within- and between-class covariance, d x d, and the pseudo-inverse."""
    features, weight = case.features.to(dtype), case.weight.to(dtype)
    means, _ = class_means(features, case.labels, len(weight), dtype)
    centred = means - means.mean(dim=0)
    within = _within(features, case.labels, means)
    between = centred.T @ centred / len(means)
    nearest = (means.square().sum(dim=1) - 2 * features @ means.T).argmin(dim=1)
    decided = (features @ weight.T + case.bias.to(dtype)).argmax(dim=1)
    return {
        "nc1_pinv": float((within @ torch.linalg.pinv(between)).trace()) / len(means),
        **frames(centred, weight),
        "nc4_mismatch": float((decided != nearest).double().mean()),
    }


def covariance_alone(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """The within-class covariance, whose trace is compared: less than ``covariances`` takes."""
    means, _ = class_means(case.features, case.labels, len(case.weight), dtype)
    within = _within(case.features.to(dtype), case.labels, means)
    between = (means - means.mean(dim=0)).square().sum() / len(means)
    return {"nc1_trace_ratio": float(within.trace() / between)}


def _within(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    deviation = features - means[labels]
    return deviation.T @ deviation / len(features)


def class_means(features: Tensor, labels: Tensor, classes: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Means (K, d) and counts (K,)."""
    counts = torch.bincount(labels, minlength=classes)
    sums = torch.zeros(classes, features.shape[1], dtype=dtype, device=features.device)
    for rows in chunks(features):
        sums.index_add_(0, labels[rows], features[rows].to(dtype))
    return sums / counts[:, None], counts


def frames(centred: Tensor, weight: Tensor) -> dict[str, float]:
    count = len(centred)
    etf = (torch.eye(count, dtype=centred.dtype, device=centred.device) - 1 / count) / math.sqrt(count - 1)
    gram = centred @ centred.T
    difference = weight / weight.norm() - centred / centred.norm()
    return {
        "nc2_means_etf": float((gram / gram.norm() - etf).norm()),
        "nc3_duality": float(difference.square().sum()),
    }


@dataclass
class Method:
    """One way to the metrics, and what it has taken."""

    name: str
    compute: Callable[[Case], dict[str, float]]
    tolerance: float
    """Relative difference to ncpipe's result that is allowed."""
    once: bool = False
    """Timed in the call that is checked, and not again."""
    seconds: list[float] = field(default_factory=list)
    memory: float | None = None
    """Peak extra memory in MiB."""

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def run(self, case: Case) -> dict[str, float]:
        """The metrics; adds the time."""
        synchronize(case)
        start = time.perf_counter()
        found = self.compute(case)
        synchronize(case)
        self.seconds.append(time.perf_counter() - start)
        return found

    def disagreement(self, case: Case, found: dict[str, float], expected: dict[str, float]) -> str | None:
        for metric in found.keys() & {*COMPARED, "nc1_trace_ratio"}:
            # A decision may tip for a few samples in float32.
            absolute = 20 / len(case.features) if metric == "nc4_mismatch" else 0.0
            if not abs(found[metric] - expected[metric]) <= self.tolerance * abs(expected[metric]) + absolute:
                return f"{self.name}: {metric} is {found[metric]}, ncpipe has {expected[metric]}"
        return None


def methods_for(case: Case) -> list[Method]:
    """Ours first; those that are affordable at this size."""
    methods = [
        Method(OURS, measure, 0.0),
        Method("layer_statistics + collapse_metrics", statistics_and_metrics, 1e-12),
        Method("CollapseMetrics, two passes", partial(in_batches, one_pass=False), 1e-10),
        Method("(a) two passes, float32", partial(two_passes, dtype=torch.float32), 1e-3),
        Method("(a) two passes, float64", partial(two_passes, dtype=torch.float64), 1e-9),
    ]
    if case.features.shape[1] > WIDEST_INVERSE:
        alone = partial(covariance_alone, dtype=torch.float32)
        return [*methods, Method("(b) covariance alone, no pinv, float32", alone, 1e-3, once=True)]
    once = case.features.shape[1] > INVERSE_ONCE
    methods.append(Method("CollapseMetrics, one pass", partial(in_batches, one_pass=True), 1e-10, once))
    single, double = (partial(covariances, dtype=dtype) for dtype in (torch.float32, torch.float64))
    methods.append(Method("(b) covariances and pinv, float32", single, 1e-3, once))
    if case.features.numel() <= LARGE:
        methods.append(Method("(b) covariances and pinv, float64", double, 1e-6, once))
    return methods


def run_case(case: Case, repeats: int) -> tuple[list[Method], list[str]]:
    """Every method checked, then timed in turns, so that a busy machine hits all alike."""
    methods, remarks, expected = methods_for(case), [], {}
    for method in methods:
        found, method.memory = with_peak(partial(method.run, case), case)
        expected = expected or found
        if problem := method.disagreement(case, found, expected):
            raise SystemExit(problem)
        kept = method.memory
        if method.name == OURS and kept is not None:
            _, half = with_peak(partial(measure, case.first(len(case.features) // 2)), case)
            remarks.append(_memory_remark(case, kept, half))
    remarks.insert(0, f"{len(expected)} metrics by {OURS}")
    repeated = [method for method in methods if repeats and not method.once]
    for method in repeated:
        method.seconds.clear()  # the first call, which is the checked one, finds cold caches
    for _ in range(repeats):
        for method in repeated:
            method.run(case)
    return methods, remarks


def _memory_remark(case: Case, extra: float, half: float | None) -> str:
    width = case.features.shape[1]
    unit = 8 * len(case.weight) * width / MIB
    rows = next(chunks(case.features))
    chunk = 8 * min(rows.stop, len(case.features)) * width / MIB
    halved = "" if half is None else f", {half:.0f} MiB with half of the samples"
    return f"extra memory {extra:.0f} MiB{halved}; K d float64 are {unit:.2f} MiB, a chunk is {chunk:.0f} MiB"


def synchronize(case: Case) -> None:
    if case.features.device.type == "cuda":
        torch.cuda.synchronize()


def seconds_of_two_reads(case: Case) -> float:
    """Two reads of the features at the bandwidth of a sum, or of a copy where that is faster."""

    def fastest(method: Callable[[], object]) -> float:
        taken = []
        for _ in range(5):
            synchronize(case)
            start = time.perf_counter()
            method()
            synchronize(case)
            taken.append(time.perf_counter() - start)
        return min(taken)

    # A copy reads and writes: as much traffic as two reads.
    return min(2 * fastest(case.features.sum), fastest(case.features.clone))


def with_peak(method: Callable[[], dict[str, float]], case: Case) -> tuple[dict[str, float], float | None]:
    """A call's result, and its peak memory above what was there before (MiB): of the GPU if the case is there,
    else resident; None where that is not known."""
    if case.features.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        return method(), (torch.cuda.max_memory_allocated() - start) / MIB
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
        before = _resident("VmRSS")
    except (OSError, AttributeError, TypeError):
        return method(), None
    result = method()
    return result, (_resident("VmHWM") - before) / 1024


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def machine(device: str) -> str:
    """Processor, threads, load and versions, in one line."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    gpu = f"{torch.cuda.get_device_name(device)}, " if device.startswith("cuda") else ""
    return (
        f"{gpu}{cpu}, {os.cpu_count()} CPUs{load()}, {torch.get_num_threads()} threads used,"
        f" torch {torch.__version__}, NumPy {np.__version__}, ncpipe {ncpipe.__version__}"
    )


def load() -> str:
    return f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def report(title: str, case: Case, repeats: int) -> None:
    """Run a case and print its table; the ratios of seconds are of medians, and of the least."""
    methods, remarks = run_case(case, repeats)
    ours = methods[0]
    samples, width = case.features.shape
    print(f"\n{title}: N, d, K = {samples:,}, {width:,}, {len(case.weight):,}{load()}")
    print("; ".join(remarks))
    print(f"{'':40}{'seconds':>16}{'ours/it':>14}{'it/ours':>16}{'MiB':>9}{'ours/it':>9}")
    print(f"{'':40}{'median':>8}{'least':>8}{'median':>8}{'least':>6}{'median':>9}{'least':>7}")
    for method in methods:
        memory = kept = "-"
        if method.memory is not None and ours.memory is not None:
            memory, kept = f"{method.memory:.0f}", f"{ours.memory / max(method.memory, 1):.2f}"
        middle, least = ours.median / method.median, min(ours.seconds) / min(method.seconds)
        print(
            f"{method.name:40}{method.median:8.3f}{min(method.seconds):8.3f}{middle:8.2f}{least:6.2f}"
            f"{1 / middle:9.2f}{1 / least:7.2f}{memory:>9}{kept:>9}"
        )
    reads = seconds_of_two_reads(case)
    gigabytes = 2 * case.features.nbytes / reads / 1e9
    print(
        f"two reads of the features at measured bandwidth ({gigabytes:.0f} GB/s): {reads:.4f} s,"
        f" ours/it {ours.median / reads:.1f}"
    )
    if width > WIDEST_INVERSE:
        print(f"(b) leaves out the pseudo-inverse of order {width:,}: a lower bound")


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """Processes that do nothing, as fast as they can."""
    started = [subprocess.Popen([sys.executable, "-c", "while 1: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="add 1,000 classes and a convolution's flattened maps")
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="all again beside N busy processes")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", help="where the features lie: cpu or cuda")
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    print(machine(arguments.device))
    print(f"relative to (a): ours/it, bar <= 1.3; to (b): it/ours, bar >= 5; all agree on {', '.join(COMPARED)}")
    run_case(Case.random(100, 8, 3, arguments.device), 0)  # loads what is loaded at first use
    for size in SIZES:
        case = Case.random(*size, arguments.device)
        report("Gaussian clusters", case, arguments.repeats)
        if arguments.busy:
            with neighbours(arguments.busy):
                report(f"The same beside {arguments.busy} busy processes", case, arguments.repeats)
    if arguments.full:
        report("Many classes", Case.random(*MANY_CLASSES, arguments.device), 0)
        report("Convolution, flattened", Case.convolution(*CONVOLUTION, arguments.device), arguments.repeats)


if __name__ == "__main__":
    main()
