"""A prepared data set in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ncpipe.errors import UserError
from ncpipe.files import read_json, read_tensors, sha256

RECORD = "dataset.json"
"""Written last: where it is, the data set is whole."""


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W) uint8 and labels (N,) int64."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Dataset:
    """Both splits, and the channels' mean and standard deviation (C,) of the training images in [0, 1]."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    mean: Tensor
    std: Tensor

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def split(self, name: Literal["train", "test"]) -> Split:
        return self.train if name == "train" else self.test


def load(folder: Path) -> Dataset:
    """Load what ``prepare`` wrote; a missing or altered file is a ``UserError``."""
    if not (folder / RECORD).is_file():
        raise UserError(f"no prepared data set in {folder}: run the 'dataset' stage first")
    record = read_json(folder / RECORD)
    try:
        return Dataset(
            name=record["name"],
            class_names=tuple(record["classes"]),
            train=_load_split(folder / "train.safetensors", record["sha256"]["train"]),
            test=_load_split(folder / "test.safetensors", record["sha256"]["test"]),
            mean=torch.tensor(record["mean"]),
            std=torch.tensor(record["std"]),
        )
    except (KeyError, TypeError) as error:
        raise UserError(f"{folder / RECORD} lacks {error}: delete {folder} and run again") from None


def _load_split(path: Path, checksum: str) -> Split:
    if not path.is_file() or sha256(path) != checksum:
        raise UserError(f"{path} is missing or was altered since it was prepared: delete its folder and run again")
    tensors, _ = read_tensors(path)
    return Split(tensors["images"], tensors["labels"])
