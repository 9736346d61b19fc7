"""Cost of many classes: CPU seconds, wall seconds and peak memory of ``ncpipe.measure`` by K, all metrics.

    python benchmarks/collapse_classes.py [10 100 1000 4000] [--width 512] [--samples 5] [--threads 1]

Every K in a process of its own. Beside it, in the same process, two products that nobody can do without who compares
every sample with every class in float64: the distances to all class means and the logits, N K d each; and, up to
K = 4,000, distances of class means from differences (``torch.cdist``), which are taken twice where no table is kept.
"""

from __future__ import annotations

import argparse
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch

import ncpipe

MOST_BY_DIFFERENCES = 4000
ROWS = 256
"""Samples that the products compare at a time."""


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def products(features: torch.Tensor, means: torch.Tensor, weight: torch.Tensor) -> None:
    for rows in features.split(ROWS):
        wide = rows.double()
        for matrix in (means, weight):
            (wide @ matrix.T).argmax(dim=1)


def one(classes: int, width: int, samples: int) -> str:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes * samples) % classes
    means = torch.randn(classes, width, generator=generator) * 4 / math.sqrt(width)
    features = torch.randn(len(labels), width, generator=generator)
    for rows, own in zip(features.split(4096), labels.split(4096)):
        rows += means[own]
    weight = means + torch.randn(means.shape, generator=generator) / 10
    ncpipe.measure(features[:3000], labels[:3000] % 3)  # loads what is loaded at first use
    cpu, wall = timed(lambda: ncpipe.measure(features, labels, weight))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    least, _ = timed(lambda: products(features, means.double(), weight.double()))
    line = f"{classes:8,}{len(labels):10,}{width:7,}{cpu:10.2f}{wall:10.2f}{cpu / features.numel() * 1e9:10.1f}"
    line += f"{peak:8.2f}{cpu / least:10.2f}"
    if classes <= MOST_BY_DIFFERENCES:
        wide = means.double()
        apart, _ = timed(lambda: torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist"))
        line += f"{2 * apart:10.2f}"
    return line


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classes", type=int, nargs="*", default=[10, 100, 1000, 4000])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--samples", type=int, default=5, help="of every class")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args(words)
    if len(arguments.classes) > 1:
        columns = ("K", 8), ("N", 10), ("d", 7), ("CPU s", 10), ("wall s", 10), ("ns/elem.", 10), ("GiB", 8)
        print("".join(f"{name:>{width}}" for name, width in (*columns, ("/ 2 NKd", 10), ("cdist s", 10))))
        for count in arguments.classes:
            options = [f"--{name}={getattr(arguments, name)}" for name in ("width", "samples", "threads")]
            subprocess.run([sys.executable, __file__, str(count), *options], check=True)
        return
    torch.set_num_threads(arguments.threads)
    print(one(arguments.classes[0], arguments.width, arguments.samples), flush=True)


if __name__ == "__main__":
    main()
