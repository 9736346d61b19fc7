"""A prepared data set, in memory or streamed from disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ncpipe.data.storage import StoredImages, altered, read_labels
from ncpipe.settings.identity import digest
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, read_tensors, sha256

RECORD = "dataset.json"
"""Written last: where it is, the data set is whole."""


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) or vectors (N, d), uint8 or float32, in memory or on disk, and labels (N,) int64."""

    images: Tensor | StoredImages
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """Both splits, and mean and standard deviation (C,) of the channels of the training images, or (d,) of the
    features of vectors: of uint8 scaled to [0, 1], of float32 as they are.

    ``tag_sets`` (S, K) uint8 belongs to data of several labels: a label s then means the classes of row s, where the
    first K rows are the single classes. Elsewhere it is None and labels are classes.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    mean: Tensor
    std: Tensor
    tag_sets: Tensor | None = None
    digest: str = ""
    """Digest of the prepared files: another one for other images or labels."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height, width; of vectors (d,)."""
        return tuple(self.train.images.shape[1:])

    @property
    def unit(self) -> int:
        """What 1 of the mean and deviation is in the images: 255 of uint8."""
        is_float = isinstance(self.train.images, Tensor) and self.train.images.is_floating_point()
        return 1 if is_float else 255

    def split(self, name: Literal["train", "test"]) -> Split:
        return self.train if name == "train" else self.test


def load(folder: Path) -> Dataset:
    """Load what ``prepare`` wrote; a missing or altered file is a ``UserError``.

    Images of a streamed set stay on disk and are checked when they are read (see ``StoredImages``).
    """
    if not (folder / RECORD).is_file():
        raise UserError(f"no prepared data set in {folder}: run the 'dataset' stage first")
    record = read_json(folder / RECORD)
    damaged = f"{folder / RECORD} is no record of a data set: delete {folder} and run again"
    try:
        name, classes = record["name"], tuple(record["classes"])
        dataset = Dataset(
            name=name,
            class_names=classes,
            train=_split(folder, "train", record),
            test=_split(folder, "test", record),
            mean=torch.tensor(record["mean"]),
            std=torch.tensor(record["std"]),
            tag_sets=_tags(record["tag_sets"], len(classes)) if "tag_sets" in record else None,
            digest=digest(record["sha256"]),
        )
    except KeyError as error:
        raise UserError(f"{folder / RECORD} lacks {error}: delete {folder} and run again") from None
    except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
        raise UserError(damaged) from None
    channels = dataset.image_shape[:1]
    if not dataset.mean.shape == dataset.std.shape == channels or not all(isinstance(c, str) for c in classes):
        raise UserError(damaged)
    return dataset


def _split(folder: Path, name: str, record: dict[str, Any]) -> Split:
    path = folder / f"{name}.safetensors"
    if record["settings"].get("stream"):
        return Split(StoredImages(path), read_labels(path))
    if not path.is_file() or sha256(path) != record["sha256"][name]:
        raise altered(path)
    tensors, _ = read_tensors(path)
    return Split(tensors["images"], tensors["labels"])


def _tags(sets: list[list[int]], num_classes: int) -> Tensor:
    """Sets of classes as tags (S, K) 0/1, uint8."""
    tags = torch.zeros(len(sets), num_classes, dtype=torch.uint8)
    for row, members in enumerate(sets):
        tags[row, members] = 1
    return tags
