"""Images/s of training: ncpipe's trainer against the straightforward PyTorch script of the field.

    python benchmarks/train.py [--device cuda] [--threads 2] [--compile] [--augment] [--repeats 5] [--json FILE]

The script: float32, eager, NCHW; a Dataset of PIL images with ToTensor and Normalize per image in a DataLoader with
4 persistent workers, pinned memory on a GPU; torch.optim.SGD; loss.item() and the count of right decisions at every
step. It has torch's own switches, which compute convolutions in TF32 on a GPU, and cudnn.benchmark. It trains the
same network on the same images from the same weights; on a small batch both losses are compared before anything is
printed.

ncpipe is timed by what its Trainer records of an epoch. All rows take turns, after an epoch to warm up; figures are
medians. What is not timed: the test pass, and ncpipe's saving, 5 % of the time at most.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import Barrier
from typing import Any, Literal, Protocol

import torch
from collapse import load, machine
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ncpipe.data import Dataset, Split
from ncpipe.networks import build_network
from ncpipe.stages.devices import computation_of
from ncpipe.study.study import Study
from ncpipe.system.files import write_json
from ncpipe.system.stopwatch import start_up
from ncpipe.system.vision import import_torchvision
from ncpipe.training.computation import training_flops
from ncpipe.training.preemption import StopRequest
from ncpipe.training.settings import AugmentSpec, ComputeSpec, NetworkRun, NetworkSpec
from ncpipe.training.trainer import Trainer, new_network

CLASSES, TEST, EPOCHS = 10, 500, 200
"""Classes and test images of a case, and the length of its runs, on which it depends whether compiling repays."""
LR, MOMENTUM, WEIGHT_DECAY = 0.01, 0.9, 5e-4
MEAN, STD = 0.5, 0.25
TORCH_CONV, TORCH_MATMUL = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
"""The precision of float32 on a GPU that torch comes with."""
PEAKS = {"A100": 312, "H100 PCIe": 756, "H100 NVL": 835, "H200 NVL": 835, "H100": 989, "H200": 989}
"""Tflop/s of dense products in bf16 by GPU, from NVIDIA's data sheets."""
WAIT = 600.0
"""Seconds that jobs side by side wait for each other."""

# The script has four workers wherever it runs.
warnings.filterwarnings("ignore", message="This DataLoader will create")


@dataclass(frozen=True)
class Case:
    """A network and random images to train it on."""

    name: str
    model: dict[str, Any]
    image_shape: tuple[int, int, int]
    samples: int
    batch: int

    def dataset(self) -> Dataset:
        generator = torch.Generator().manual_seed(0)

        def split(count: int) -> Split:
            images = torch.randint(256, (count, *self.image_shape), dtype=torch.uint8, generator=generator)
            return Split(images, torch.randint(CLASSES, (count,), generator=generator))

        channels = torch.ones(self.image_shape[0])
        return Dataset(
            "random", tuple("0123456789"), split(self.samples), split(TEST), MEAN * channels, STD * channels
        )

    def spec(self, precision: str, augment: bool, seed: int = 0) -> NetworkSpec:
        return NetworkSpec.model_validate(
            {
                "dataset": {"name": "cifar10"},  # a name only: the images are at hand
                "model": self.model,
                "loss": {"name": "ce"},
                "optimizer": {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY},
                "schedule": {"name": "constant"},
                "augment": {"flip": True, "crop": 4} if augment else {},
                "epochs": EPOCHS,
                "batch_size": self.batch,
                "precision": precision,
                "seed": seed,
            }
        )


CONVNET = Case("convnet", {"name": "convnet", "depth": 3, "width": 32}, (1, 28, 28), 12_000, 128)
RESNET = Case("ResNet18 of width 16", {"name": "resnet18", "width": 16}, (3, 32, 32), 4_200, 128)
LARGE = Case("ResNet18 of width 64", {"name": "resnet18", "width": 64}, (3, 32, 32), 50_000, 512)
NARROW = Case("ResNet18 of width 8", {"name": "resnet18", "width": 8}, (3, 32, 32), 10_000, 128)
TINY = Case("convnet", {"name": "convnet", "depth": 2, "width": 4}, (1, 8, 8), 96, 32)


class Row(Protocol):
    """One way to train."""

    def epoch(self) -> float:
        """Train for an epoch; images/s."""


# --- the baseline ----------------------------------------------------------------------------------


class PilImages(TorchDataset[tuple[Tensor, int]]):
    """Images that are decoded and transformed one by one, as torchvision's CIFAR10 and MNIST do it."""

    def __init__(self, split: Split, augment: AugmentSpec) -> None:
        import_torchvision()
        from torchvision import transforms

        images = split.images
        assert isinstance(images, Tensor)
        channels, height, _ = images.shape[1:]
        self.arrays = images.permute(0, 2, 3, 1).squeeze(-1).numpy()
        self.labels = split.labels.tolist()
        random = [transforms.RandomCrop(height, padding=augment.crop), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose(
            [
                *(random if augment.flip else []),
                transforms.ToTensor(),
                transforms.Normalize((MEAN,) * channels, (STD,) * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[index])), self.labels[index]


class Baseline:
    """The script of the field."""

    def __init__(self, case: Case, device: torch.device, augment: bool, workers: int) -> None:
        self.device, spec = device, case.spec("float32", augment)
        self.network = build_network(spec.model, spec.head, case.image_shape, CLASSES, spec.seed).to(device)
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )
        self.loader = DataLoader(
            PilImages(case.dataset().train, spec.augment),
            batch_size=case.batch,
            shuffle=True,
            num_workers=workers,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
            multiprocessing_context="fork" if workers else None,  # Linux' usual, also in a process that was spawned
        )
        self.loss = self.accuracy = math.nan

    def epoch(self) -> float:
        torch.set_flush_denormal(False)
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = True
        torch.backends.cudnn.conv.fp32_precision = TORCH_CONV
        torch.backends.cuda.matmul.fp32_precision = TORCH_MATMUL
        start = time.perf_counter()
        self.network.train()
        total_loss, right, seen = 0.0, 0, 0
        for images, labels in self.loader:
            images = images.to(self.device, non_blocking=True)
            labels = labels.to(self.device, non_blocking=True)
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.network(images).logits
            loss = self.criterion(logits, labels)
            loss.backward()
            self.optimizer.step()
            total_loss += loss.item() * len(labels)
            right += (logits.argmax(dim=1) == labels).sum().item()
            seen += len(labels)
        self.loss, self.accuracy = total_loss / seen, right / seen
        return seen / (time.perf_counter() - start)


# --- ncpipe ----------------------------------------------------------------------------------------


class Ours:
    """ncpipe's Trainer of one network, or of several seeds as one stack."""

    def __init__(
        self,
        case: Case,
        device: torch.device,
        augment: bool,
        precision: str = "auto",
        compiled: bool | Literal["auto"] = "auto",
        members: int = 1,
    ) -> None:
        dataset, self.place = case.dataset(), tempfile.TemporaryDirectory()
        specs = [case.spec(precision, augment, seed) for seed in range(members)]
        runs = [NetworkRun(f"run{spec.seed}", spec, "random", (EPOCHS,), ("features",)) for spec in specs]
        folders = [Path(self.place.name) / run.id for run in runs]
        images = EPOCHS * case.samples
        computation = computation_of(specs[0], dataset, images, device, ComputeSpec(compile=compiled))
        self.trainer = Trainer(runs, folders, dataset, computation)

    @property
    def how(self) -> str:
        computation = self.trainer.computation
        return computation.precision + (", compiled" if computation.compiled else "")

    def epoch(self) -> float:
        self.trainer.computation.configure()
        self.trainer.save()  # or it would save in this epoch what became due while others had their turn
        self.trainer.epoch(StopRequest())
        return self.trainer.progress[0].timings[-1]["images_per_second"]


def check_the_baseline(case: Case) -> None:
    """Stop unless the script and ncpipe have the same losses while they train on one batch, on the CPU."""
    small = Case(case.name, case.model, case.image_shape, 32, 32)
    theirs = Baseline(small, torch.device("cpu"), augment=False, workers=0)
    ours = Ours(small, torch.device("cpu"), augment=False, precision="float32", compiled=False)
    for step in range(5):
        theirs.epoch()
        ours.epoch()
        found = ours.trainer.progress[0].history[-1]["train_loss"]
        if not math.isclose(found, theirs.loss, rel_tol=3e-4):
            raise SystemExit(f"{case.name}: loss at step {step} is {found}, the baseline has {theirs.loss}")


# --- jobs side by side -----------------------------------------------------------------------------


class SideBySide:
    """Processes of one thread each that train at once, as the jobs of a study do on a CPU."""

    def __init__(self, count: int, make: Callable[[], Row]) -> None:
        self.count, context = count, get_context("spawn")
        self.pool = ProcessPoolExecutor(count, context, _join, (context.Barrier(count), make))

    def epoch(self) -> float:
        """Images of all over the time of the slowest."""
        waiting = [self.pool.submit(_epoch_together) for _ in range(self.count)]
        return self.count * min(job.result() for job in waiting)


_together: dict[str, Any] = {}
"""What a process of ``SideBySide`` holds."""


def _join(barrier: Barrier, make: Callable[[], Row]) -> None:
    torch.set_num_threads(1)
    _together.update(barrier=barrier, row=make())


def _epoch_together() -> float:
    _together["barrier"].wait(WAIT)
    return _together["row"].epoch()


# --- the tables ------------------------------------------------------------------------------------


@dataclass
class Timed:
    """A row and what it has taken."""

    name: str
    row: Row
    first: float = math.nan
    """Seconds of the first epoch."""
    rates: list[float] = field(default_factory=list)
    """Images/s of the epochs after it."""

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


def rows_of(case: Case, chosen: argparse.Namespace) -> list[Timed]:
    """The baseline first; a way that equals what ncpipe chooses by itself has no row of its own."""
    device = torch.device(chosen.device)
    script = partial(Baseline, case, device, chosen.augment, chosen.workers)
    ours = partial(Ours, case, device, chosen.augment)
    usual = ours()
    rows = [
        Timed(f"the field's script, {chosen.workers} workers", script()),
        Timed("ncpipe, float32", ours("float32", False)),
        Timed(f"ncpipe as it comes: {usual.how}", usual),
    ]
    forced = [("bf16", False), ("bf16", True)] if chosen.compile else [("bf16", False)]
    rows += [Timed(f"ncpipe, {row.how}", row) for row in (ours(*how) for how in forced) if row.how != usual.how]
    if device.type == "cpu" and chosen.threads > 1:
        at_once = f"{chosen.threads} jobs of one thread at once"
        rows.append(Timed(f"the script, {at_once}", SideBySide(chosen.threads, script)))
        rows.append(Timed(f"ncpipe as it comes, {at_once}", SideBySide(chosen.threads, ours)))
    return rows


def ensemble_rows(case: Case, chosen: argparse.Namespace) -> list[Timed]:
    """A run alone, whose images/s are those of runs in turn, and several as one stack."""
    alone = Ours(case, torch.device(chosen.device), chosen.augment)
    compiled = alone.trainer.computation.compiled
    stack = Ours(case, torch.device(chosen.device), chosen.augment, compiled=False, members=chosen.ensemble)
    rows = [Timed(f"runs in turn: {alone.how}", alone)]
    if compiled:  # the stack is not
        plain = Ours(case, torch.device(chosen.device), chosen.augment, compiled=False)
        rows.append(Timed(f"runs in turn: {plain.how}", plain))
    return [*rows, Timed(f"{chosen.ensemble} runs as one stack: {stack.how}", stack)]


def measure(title: str, case: Case, rows: list[Timed], repeats: int, peak: float | None) -> dict[str, Any]:
    """Time the rows in turns, print their table, relative to the first; returns the record."""
    for timed in rows:
        start = time.perf_counter()
        timed.row.epoch()
        timed.first = time.perf_counter() - start
    for _ in range(repeats):
        for timed in rows:
            timed.rates.append(timed.row.epoch())
    for timed in rows:
        if isinstance(timed.row, SideBySide):
            timed.row.pool.shutdown()
    flops = training_flops(new_network(case.spec("float32", False), case.dataset()), case.image_shape)
    shape = "x".join(map(str, case.image_shape))
    print(f"\n{title}: {case.name}, {case.samples:,} images of {shape}, batch {case.batch}{load()}")
    print(f"{flops / 1e6:.1f} Mflop of training an image; ratios to the first row; medians of {repeats} epochs")
    print(f"{'':50}{'images/s':>10}{'least':>9}{'most':>9}{'ratio':>7}{'Gflop/s':>10}{'MFU':>7}{'warm-up s':>11}")
    record = [_record(timed, rows[0], case, flops, peak) for timed in rows]
    for row in record:
        mfu = "-" if row["mfu"] is None else f"{row['mfu']:.1%}"
        print(
            f"{row['name']:50}{row['images_per_second']:10,.0f}{min(row['all']):9,.0f}{max(row['all']):9,.0f}"
            f"{row['ratio']:7.2f}{row['flops_per_second'] / 1e9:10,.0f}{mfu:>7}{row['warm_up']:11.1f}"
        )
    return {"case": case.name, "title": title, "samples": case.samples, "batch": case.batch, "rows": record}


def _record(timed: Timed, first: Timed, case: Case, flops: int, peak: float | None) -> dict[str, Any]:
    members = timed.row.count if isinstance(timed.row, SideBySide) else 1
    members = len(timed.row.trainer.runs) if isinstance(timed.row, Ours) else members
    rate = timed.median * flops
    return {
        "name": timed.name,
        "images_per_second": timed.median,
        "all": timed.rates,
        "ratio": timed.median / first.median,
        "flops_per_second": rate,
        "mfu": None if peak is None else rate / peak,
        "warm_up": max(0.0, timed.first - members * case.samples / timed.median),
    }


def known_peak(device: torch.device) -> float | None:
    """Operations a second in bf16, where the data sheet is at hand."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return next((1e12 * rate for part, rate in PEAKS.items() if part in name), None)


# --- start-up --------------------------------------------------------------------------------------


def start_ups(models: Sequence[dict[str, Any]], device: str, repeats: int) -> dict[str, list[float]]:
    """Seconds from the start of ``ncpipe train`` to its first step, on the digits; by model."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as place:
        for model in models:
            config = Path(place) / "study.json"
            config.write_text(json.dumps(_digits_study(model, place)))
            study = Study.read(config)
            (dataset,), (run,) = study.datasets, study.networks
            _ncpipe("dataset", str(config), dataset)
            for _ in range(repeats):
                log = _ncpipe("train", str(config), run, "--device", device)
                seconds = start_up(log)
                assert seconds is not None, log
                found.setdefault(model["name"], []).append(seconds)
    return found


def _digits_study(model: dict[str, Any], place: str) -> dict[str, Any]:
    network = {"model": model, "loss": {"name": "ce"}, "optimizer": {"lr": LR}, "epochs": 1}
    return {
        "study": {"name": "start-up", "results": f"{place}/results"},
        "datasets": {"base": {"name": "digits"}},
        "networks": {"base": network},
        "measure": {"epochs": [1]},
        "ufm": {"matched": []},
    }


def _ncpipe(*words: str) -> str:
    ended = subprocess.run([sys.executable, "-m", "ncpipe", *words], capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(ended.stderr)
    return ended.stdout


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=cores(), help="of the CPU; by default all of this process")
    parser.add_argument("--workers", type=int, default=4, help="of the baseline's DataLoader")
    parser.add_argument("--augment", action="store_true", help="random crops and flips")
    parser.add_argument("--compile", action="store_true", help="add a row with torch.compile")
    parser.add_argument("--ensemble", type=int, default=8, help="runs in one stack; 0: none")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", type=float, help="Tflop/s of the device; default: in bf16, where known")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that everything runs")
    chosen = parser.parse_args(words)
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    peak = known_peak(device) if chosen.peak is None else 1e12 * chosen.peak
    record: dict[str, Any] = {"machine": machine(chosen.device), "peak": peak, "tables": []}
    print(record["machine"])
    cases = [TINY] if chosen.tiny else [LARGE] if device.type == "cuda" else [CONVNET, RESNET]
    for case in cases:
        check_the_baseline(case)
        record["tables"].append(measure("One network", case, rows_of(case, chosen), chosen.repeats, peak))
    if chosen.ensemble:
        case = NARROW if device.type == "cuda" else cases[-1]
        record["tables"].append(measure("Ensemble", case, ensemble_rows(case, chosen), chosen.repeats, peak))
    record["start_up"] = start_ups([case.model for case in cases], chosen.device, 1 if chosen.tiny else 3)
    print("\nSeconds from the start of `ncpipe train` to its first step, on the digits; median, without compilation")
    for name, seconds in record["start_up"].items():
        print(f"{name:20}{statistics.median(seconds):6.2f}")
    if chosen.json is not None:
        write_json(chosen.json, record)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main()
