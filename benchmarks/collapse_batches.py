"""Cost of a batch: CPU and wall milliseconds of ``CollapseMetrics.update``, and of the bare products of both passes.

    python benchmarks/collapse_batches.py [32 128 256] [--width 512] [--classes 10] [--threads 2] [--busy 4]

The bare pass in torch, in float64 and with threads inside as torch takes them, has no checks, merges and statistics:
first, sums per class by a product with one-hot labels, and the scatter; then the projection on the class means, the
distances to all of them and the logits.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import torch
from collapse import machine, neighbours
from torch import Tensor

import ncpipe

BATCHES = 50
Batch = tuple[Tensor, Tensor]


class Bare:
    """Both passes, as little as there is to do."""

    def __init__(self, weight: Tensor) -> None:
        self.weight, self.sums = weight.double(), torch.zeros_like(weight, dtype=torch.float64)
        self.means, self.scatter = torch.randn_like(self.sums), torch.zeros((), dtype=torch.float64)

    def first(self, features: Tensor, labels: Tensor) -> None:
        wide, hot = features.double(), torch.nn.functional.one_hot(labels, len(self.weight)).double()
        self.sums += hot.T @ wide
        self.scatter += (wide - self.means[labels]).square().sum()

    def second(self, features: Tensor, labels: Tensor) -> None:
        wide = features.double()
        self.scatter += ((wide - self.means[labels]) @ self.means.T).square().sum()
        nearest = (self.means.square().sum(dim=1) - 2 * wide @ self.means.T).argmin(dim=1)
        self.scatter += (nearest != (wide @ self.weight.T).argmax(dim=1)).sum()


def per_batch(work: Callable[[Tensor, Tensor], object], batches: Sequence[Batch]) -> str:
    work(*batches[0])
    cpu, wall = time.process_time(), time.perf_counter()
    for features, labels in batches:
        work(features, labels)
    share = 1e3 / len(batches)
    return f"{(time.process_time() - cpu) * share:9.2f}{(time.perf_counter() - wall) * share:9.2f}"


def report(size: int, width: int, classes: int) -> None:
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(size) % classes
    batches = [(torch.randn(size, width, generator=draw), labels) for _ in range(BATCHES)]
    weight = torch.randn(classes, width, generator=draw)
    metric, bare = ncpipe.CollapseMetrics(classes, weight), Bare(weight)
    metric.update(torch.randn(classes, width, generator=draw), torch.arange(classes))
    line = f"{size:8}" + per_batch(metric.update, batches) + per_batch(bare.first, batches)
    metric.start_second_pass()
    print(line + per_batch(metric.update, batches) + per_batch(bare.second, batches), flush=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", type=int, nargs="*", default=[32, 128, 256])
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--busy", type=int, default=0, metavar="N", help="beside N busy processes")
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    print(machine("cpu"))
    print(f"{'':8}{'first pass':>18}{'bare':>18}{'second pass':>18}{'bare':>18}")
    print(f"{'samples':>8}" + f"{'CPU ms':>9}{'wall ms':>9}" * 4)
    with neighbours(arguments.busy):
        for size in arguments.sizes:
            report(size, arguments.width, arguments.classes)


if __name__ == "__main__":
    main()
