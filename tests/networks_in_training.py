"""A small planned network, and what a run wrote: shared by the tests of training and of the feature pass."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ncpipe.data import Dataset, Split
from ncpipe.data.storage import StoredImages, write_split
from ncpipe.settings.sweep import laid_over
from ncpipe.training.computation import Computation
from ncpipe.training.settings import NetworkRun, NetworkSpec

CPU = Computation(torch.device("cpu"))
NETWORK = {
    "dataset": {"name": "digits", "samples_per_class": 20, "test_samples_per_class": 10},
    "model": {"name": "mlp", "depth": 2, "width": 16},
    "loss": {"name": "mse"},
    "optimizer": {"lr": 0.05, "weight_decay": 1e-2},
    "epochs": 6,
    "batch_size": 32,
}


def planned(measured: tuple[int, ...] = (0, 3, 6), **changes: object) -> NetworkRun:
    spec = NetworkSpec.model_validate(laid_over(NETWORK, {k.replace("__", "."): v for k, v in changes.items()}))
    return NetworkRun("run", spec, "digits", measured, tuple(spec.layers()))


def stored(dataset: Dataset, folder: Path) -> Dataset:
    """The same data with its images on disk."""
    splits = []
    for name in ("train", "test"):
        images, labels = dataset.split(name).images, dataset.split(name).labels
        write_split(folder / name, tuple(images.shape), images.split(7), labels)
        splits.append(Split(StoredImages(folder / name), labels))
    return replace(dataset, train=splits[0], test=splits[1])


def content(folder: Path) -> dict[str, object]:
    """What a run wrote, without wall-clock times."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "timings.parquet")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}
