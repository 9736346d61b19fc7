"""Seconds for the metrics of one layer: ncpipe against two hand-written passes and the usual d x d recipe.

    python benchmarks/collapse.py [--full] [--threads 1] [--repeats 3]

All run in this process on the same float32 features with the same threads. The rivals compute four metrics
(NC1, NC2, NC3, NC4), ncpipe all of them. Every result is compared with ncpipe's before anything is printed.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import ncpipe
from ncpipe.collapse import collapse_metrics, layer_statistics

SIZES = ((50_000, 512, 10), (20_000, 1024, 100))
FULL_SIZES = (*SIZES, (50_000, 2048, 100))
COMPARED = ("nc1_pinv", "nc2_means_etf", "nc3_duality", "nc4_mismatch")


@dataclass(frozen=True)
class Case:
    """Features of one layer and the classifier that reads them."""

    features: Tensor
    labels: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def random(cls, samples: int, dim: int, classes: int) -> Case:
        """Gaussian clusters that overlap a little, and a classifier near their means."""
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(samples) % classes
        means = torch.randn(classes, dim, generator=generator) * 4 / math.sqrt(dim)
        features = means[labels] + torch.randn(samples, dim, generator=generator)
        weight = means + 0.2 * torch.randn(classes, dim, generator=generator) / math.sqrt(dim)
        return cls(features, labels, weight, torch.randn(classes, generator=generator) / 10)


def statistics_and_metrics(case: Case) -> dict[str, float]:
    stats = layer_statistics(case.features, case.labels, len(case.weight), weight=case.weight, bias=case.bias)
    return collapse_metrics(stats, case.weight, case.bias)


def measure(case: Case) -> dict[str, float]:
    return ncpipe.measure(case.features, case.labels, case.weight, case.bias)


def two_passes(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Class means, then what is left about them in the directions of the means: all in one type, unchunked."""
    features, weight = case.features.to(dtype), case.weight.to(dtype)
    means, centred = class_means(features, case.labels, len(weight))
    _, sizes, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:-1].T  # rank K - 1
    projected = (features - means[case.labels]) @ (directions / sizes[:-1])
    return {
        "nc1_pinv": float(projected.square().sum()) / len(features),
        **frames(centred, weight),
        "nc4_mismatch": mismatch(features @ directions, means @ directions, features @ weight.T, case),
    }


def covariances(case: Case, dtype: torch.dtype) -> dict[str, float]:
    """Within- and between-class covariance, d x d, and the pseudo-inverse, as most published code has it."""
    features, weight = case.features.to(dtype), case.weight.to(dtype)
    means, centred = class_means(features, case.labels, len(weight))
    deviation = features - means[case.labels]
    within = deviation.T @ deviation / len(features)
    between = centred.T @ centred / len(means)
    return {
        "nc1_pinv": float((within @ torch.linalg.pinv(between)).trace()) / len(means),
        **frames(centred, weight),
        "nc4_mismatch": mismatch(features, means, features @ weight.T, case),
    }


def class_means(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    means = sums / torch.bincount(labels)[:, None]
    return means, means - means.mean(dim=0)


def frames(centred: Tensor, weight: Tensor) -> dict[str, float]:
    count = len(centred)
    etf = (torch.eye(count, dtype=centred.dtype) - 1 / count) / math.sqrt(count - 1)
    gram = centred @ centred.T
    difference = weight / weight.norm() - centred / centred.norm()
    return {
        "nc2_means_etf": float((gram / gram.norm() - etf).norm()),
        "nc3_duality": float(difference.square().sum()),
    }


def mismatch(points: Tensor, means: Tensor, logits: Tensor, case: Case) -> float:
    nearest = (means.square().sum(dim=1) - 2 * points @ means.T).argmin(dim=1)
    return float(((logits + case.bias.to(logits)).argmax(dim=1) != nearest).double().mean())


METHODS: dict[str, tuple[Callable[[Case], dict[str, float]], float]] = {
    "layer_statistics + collapse_metrics": (statistics_and_metrics, 0.0),
    "ncpipe.measure (checks its input)": (measure, 1e-12),
    "two passes, float32": (lambda case: two_passes(case, torch.float32), 1e-3),
    "two passes, float64": (lambda case: two_passes(case, torch.float64), 1e-9),
    "d x d covariances and pinv, float32": (lambda case: covariances(case, torch.float32), 1e-3),
    "d x d covariances and pinv, float64": (lambda case: covariances(case, torch.float64), 1e-6),
}
"""By name; with the relative difference to ncpipe's result that is allowed."""


def checked_memory(case: Case) -> dict[str, float | None]:
    """Peak extra memory by method; stops if metrics differ from ncpipe's by more than a method's type explains."""
    expected, extra = {}, {}
    for name, (method, tolerance) in METHODS.items():
        found, extra[name] = with_peak(partial(method, case))
        expected = expected or found
        for metric in COMPARED:
            # A decision may tip for a few samples in float32.
            absolute = 20 / len(case.features) if metric == "nc4_mismatch" else 0.0
            if abs(found[metric] - expected[metric]) > tolerance * abs(expected[metric]) + absolute:
                raise SystemExit(f"{name}: {metric} is {found[metric]}, ncpipe has {expected[metric]}")
    return extra


def interleaved_seconds(methods: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds by method; the methods take turns, so that a busy machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for _ in range(repeats):
        for name, method in methods.items():
            start = time.perf_counter()
            method()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def with_peak(method: Callable[[], dict[str, float]]) -> tuple[dict[str, float], float | None]:
    """A call's result, and its peak resident memory above what was there before (MiB; None where not Linux)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is resident now
        before = _resident("VmRSS")
    except (OSError, AttributeError, TypeError):
        return method(), None
    result = method()
    return result, (_resident("VmHWM") - before) / 1024


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def machine() -> str:
    """CPU, threads and versions, in one line."""
    names = [line for line in _cpuinfo() if line.startswith("model name")]
    cpu = names[0].split(":")[1].strip() if names else platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{cpu}, {os.cpu_count()} CPUs{load}, {torch.get_num_threads()} threads used,"
        f" torch {torch.__version__}, NumPy {np.__version__}, ncpipe {ncpipe.__version__}"
    )


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="add (50000, 2048, 100)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(machine())
    checked_memory(Case.random(100, 8, 3))  # loads what is loaded at first use
    for size in FULL_SIZES if arguments.full else SIZES:
        case = Case.random(*size)
        extra = checked_memory(case)
        calls = {name: partial(method, case) for name, (method, _) in METHODS.items()}
        seconds = interleaved_seconds(calls, arguments.repeats)
        baseline = next(iter(seconds.values()))
        print(f"\nN, d, K = {size}; median of {arguments.repeats}; all agree on {', '.join(COMPARED)}")
        print(f"{'':38}{'seconds':>9}{'ratio':>8}{'extra MiB':>11}")
        for name, value in seconds.items():
            shown = "-" if extra[name] is None else f"{extra[name]:.0f}"
            print(f"{name:38}{value:9.3f}{value / baseline:8.2f}{shown:>11}")


if __name__ == "__main__":
    main()
