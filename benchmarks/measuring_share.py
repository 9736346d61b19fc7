"""Seconds of measuring every layer of a ResNet18, and of the forward passes that make the features.

    python benchmarks/measuring_share.py [--samples 2000] [--width 64] [--threads 2] [--repeats 3]

Measuring is: averaging the maps to vectors, the statistics of all layers and both splits, and all their metrics.
The bar is 10 % of the forward passes. On the CPU, and on a GPU if there is one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ncpipe.collapse import LayerStatistics, Measurement, collapse_metrics, layer_statistics
from ncpipe.networks import Network, as_vectors, build_network
from ncpipe.networks.architectures.resnet import ResNet
from ncpipe.networks.head_settings import HeadSpec

CLASSES = 10
BATCH = 512
TEST_SHARE = 4
"""Training samples per test sample."""

Splits = dict[str, tuple[Tensor, Tensor]]
"""Images (N, 1, 28, 28) and labels (N,) by split."""


class Stopwatch:
    """Seconds by what they were spent on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self._wait()
        start = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] += time.perf_counter() - start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def random_splits(samples: int, device: torch.device) -> Splits:
    """Noisy images of one template per class."""
    generator = torch.Generator().manual_seed(0)
    templates = torch.randn(CLASSES, 1, 28, 28, generator=generator)
    splits = {}
    for name, count in (("train", samples), ("test", samples // TEST_SHARE)):
        labels = torch.arange(count) % CLASSES
        images = templates[labels] + torch.randn(count, 1, 28, 28, generator=generator)
        splits[name] = images.to(device), labels.to(device)
    return splits


@torch.no_grad()
def measure_all(
    network: Network, splits: Splits, watch: Stopwatch
) -> tuple[dict[tuple[str, str], Measurement], dict[str, float]]:
    """The metrics by layer and split, and the accuracy of the logits by split."""
    head = network.head.weight, network.head.bias
    stats: dict[tuple[str, str], LayerStatistics] = {}
    rows: dict[tuple[str, str], Measurement] = {}
    accuracy = {}
    for split, (images, labels) in splits.items():
        features, logits = forward(network, images, watch)
        accuracy[split] = float((logits.argmax(dim=1) == labels).double().mean())
        for layer, values in features.items():
            weight, bias = head if layer == network.layer_names[-1] else (None, None)
            means = stats[layer, "train"].means if split == "test" else None
            with watch("statistics"):
                stats[layer, split] = layer_statistics(
                    values, labels, CLASSES, weight=weight, bias=bias, train_means=means
                )
            with watch("metrics"):
                rows[layer, split] = collapse_metrics(stats[layer, split], weight, bias, train_means=means)
    return rows, accuracy


def forward(network: Network, images: Tensor, watch: Stopwatch) -> tuple[dict[str, Tensor], Tensor]:
    """Vectors (N, d) of every layer, and the logits."""
    parts: dict[str, list[Tensor]] = {layer: [] for layer in network.layer_names}
    logits = []
    for batch in images.split(BATCH):
        with watch("forward"):
            maps, out = network.features(batch)
        logits.append(out)
        with watch("averaging"):
            for layer in network.layer_names:
                parts[layer].append(as_vectors(maps[layer], "average"))
    with watch("averaging"):
        features = {layer: torch.cat(values) for layer, values in parts.items()}
    return features, torch.cat(logits)


def check(network: Network, splits: Splits, device: torch.device) -> int:
    """The number of metrics; stops if they are not what the features and logits themselves say."""
    rows, accuracy = measure_all(network, splits, Stopwatch(device))
    last = network.layer_names[-1]
    for split, (images, labels) in splits.items():
        if abs(rows[last, split]["accuracy"] - accuracy[split]) > 5 / len(images):
            raise SystemExit(f"{split}: accuracy is {accuracy[split]}, measured {rows[last, split]['accuracy']}")
        with torch.no_grad():
            features, _ = forward(network, images, Stopwatch(device))
        for layer, values in features.items():
            wide = values.double()
            means = torch.stack([wide[labels == c].mean(dim=0) for c in range(CLASSES)])
            within = (wide - means[labels]).square().sum() / len(wide)
            ratio = float(within / ((means - means.mean(dim=0)).square().sum() / CLASSES))
            found = rows[layer, split]["nc1_trace_ratio"]
            if abs(found - ratio) > 1e-4 * ratio:  # the network need not repeat itself to the last bit
                raise SystemExit(f"{layer}, {split}: nc1_trace_ratio is {ratio}, measured {found}")
    return sum(map(len, rows.values()))


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="training samples; a quarter more for testing")
    parser.add_argument("--width", type=int, default=64, help="channels of the ResNet's first stage")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.threads)
    for device in map(torch.device, ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)):
        splits = random_splits(arguments.samples, device)
        model = ResNet(name="resnet18", width=arguments.width)
        network = build_network(model, HeadSpec(), (1, 28, 28), CLASSES, seed=0).to(device).eval()
        count = check(network, splits, device)
        watches = [Stopwatch(device) for _ in range(arguments.repeats)]
        for watch in watches:
            measure_all(network, splits, watch)
        seconds = {part: statistics.median(watch.seconds[part] for watch in watches) for part in watches[0].seconds}
        measuring = sum(value for part, value in seconds.items() if part != "forward")
        load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        print(
            f"{device.type}, {torch.get_num_threads()} threads{load}: ResNet18 of width {arguments.width},"
            f" {len(network.layer_names)} layers, {' + '.join(str(len(y)) for _, y in splits.values())} images,"
            f" {count} metrics; median of {arguments.repeats}"
        )
        for part, value in seconds.items():
            print(f"{part:12}{value:9.3f} s")
        print(
            f"measuring / forward = {measuring:.3f} / {seconds['forward']:.3f} = {measuring / seconds['forward']:.1%}"
        )


if __name__ == "__main__":
    main()
