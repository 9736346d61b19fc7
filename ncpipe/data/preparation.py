"""From a source to the files of a prepared data set: balanced subset, corrupted labels, statistics, record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncpipe.data.dataset import RECORD, Split
from ncpipe.data.sources import SourceSplit, open_source
from ncpipe.errors import UserError
from ncpipe.files import sha256, write_json, write_tensors
from ncpipe.study.spec import DatasetSpec

# One stream of random numbers per decision, so that no setting changes what another one draws.
TRAIN_SUBSET, TEST_SUBSET, LABEL_NOISE, RANDOM_LABELS = range(4)


def prepare(spec: DatasetSpec, folder: Path, search_path: Sequence[Path] = ()) -> None:
    """Write ``train.safetensors``, ``test.safetensors`` and, last, ``dataset.json`` to ``folder``.

    The files hold 'images' (N, C, H, W) uint8 and 'labels' (N,) int64. Equal settings and sources give equal
    files. Subsets are nested: a larger ``samples_per_class`` with the same seed contains the smaller.

    Args:
        spec: the data set, its subset and corruption.
        folder: where to write; created where needed.
        search_path: folders searched before the system's and before a download.

    Raises:
        UserError: the source is missing or damaged, or a class has too few samples. Nothing is written then.
    """
    source = open_source(spec, search_path)
    classes = source.class_names
    train = _subset(source.train, classes, spec.samples_per_class, "train", _generator(spec, TRAIN_SUBSET))
    test = _subset(source.test, classes, spec.test_samples_per_class, "test", _generator(spec, TEST_SUBSET))
    labels = _corrupted(train.labels, len(classes), spec)
    mean, std = channel_statistics(train.images)

    (folder / RECORD).unlink(missing_ok=True)
    splits = {"train": Split(train.images, labels), "test": test}
    for name, split in splits.items():
        write_tensors(folder / f"{name}.safetensors", {"images": split.images, "labels": split.labels})
    record = {
        "name": spec.slug,
        "classes": classes,
        "image_shape": tuple(train.images.shape[1:]),
        "counts": {name: _counts(split.labels, len(classes)) for name, split in splits.items()},
        "mean": mean,
        "std": std,
        "sha256": {name: sha256(folder / f"{name}.safetensors") for name in splits},
        "source": {"kind": source.kind, "sha256": source.checksums},
        "settings": spec.model_dump(mode="json", exclude={"path"}),  # no place of this machine
        "changed_labels": int((labels != train.labels).sum()),
    }
    write_json(folder / RECORD, record)


def channel_statistics(images: Tensor) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of every channel of uint8 images (N, C, H, W), scaled to [0, 1].

    Exact up to the last division, by counting values. A constant channel has deviation 1, so that dividing
    by it is harmless.
    """
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for channel in range(images.shape[1]):
        counts = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        weights = counts / counts.sum()
        centre = (weights * values).sum()
        variance = (weights * (values - centre).square()).sum()
        mean.append(centre.item())
        std.append(variance.sqrt().item() if counts.count_nonzero() > 1 else 1.0)
    return mean, std


def _generator(spec: DatasetSpec, stream: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, stream])


def _subset(
    split: SourceSplit, classes: Sequence[str], per_class: int | None, name: str, random: np.random.Generator
) -> Split:
    """The images and labels of ``per_class`` random samples of every class, in the source's order."""
    labels = split.labels.numpy()
    if labels.min() < 0 or labels.max() >= len(classes):
        raise UserError(f"{name} labels reach {labels.max()}, but there are {len(classes)} classes: damaged files?")
    chosen = []
    for label, class_name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) == 0:
            raise UserError(f"class {class_name!r} has no {name} samples: is the data set complete?")
        if per_class is not None and len(members) < per_class:
            key = "samples_per_class" if name == "train" else "test_samples_per_class"
            raise UserError(
                f"class {class_name!r} has {len(members)} {name} samples: lower dataset.{key} = {per_class}"
            )
        chosen.append(random.permutation(members)[:per_class])
    rows = torch.from_numpy(np.sort(np.concatenate(chosen)))
    return Split(split.read(rows), split.labels[rows])


def _corrupted(labels: Tensor, num_classes: int, spec: DatasetSpec) -> Tensor:
    """Labels after label noise, then after the permutation of all labels."""
    noisy = _with_noise(labels.numpy(), num_classes, spec.label_noise, _generator(spec, LABEL_NOISE))
    if spec.random_labels:
        noisy = _generator(spec, RANDOM_LABELS).permutation(noisy)
    return torch.from_numpy(noisy)


def _with_noise(labels: np.ndarray, num_classes: int, fraction: float, random: np.random.Generator) -> np.ndarray:
    """Replace that fraction of every class, to the nearest sample, by another class drawn uniformly."""
    noisy = labels.copy()
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        replaced = random.permutation(members)[: round(fraction * len(members))]
        noisy[replaced] = (label + random.integers(1, max(num_classes, 2), len(replaced))) % num_classes
    return noisy


def _counts(labels: Tensor, num_classes: int) -> list[int]:
    counts: Any = torch.bincount(labels, minlength=num_classes).tolist()
    return counts
