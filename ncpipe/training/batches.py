"""Batches of a split on the device: order, augmentation and normalisation, the same wherever the images lie."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from ncpipe.data import Dataset
from ncpipe.training.augmentation import cut_out, draw, flipped_and_cropped
from ncpipe.training.computation import laid_out
from ncpipe.training.settings import AugmentSpec


class Batches(ABC):
    """Normalised images, or vectors (N, d) in their place, and the labels (N,) of one split. Where a data set has
    several labels a sample, they number its tag sets."""

    def __init__(self, dataset: Dataset, split: Literal["train", "test"], device: torch.device) -> None:
        self.device = device
        self.image_shape = dataset.image_shape
        self.labels = dataset.split(split).labels.to(device)
        self.tag_sets = None if dataset.tag_sets is None else dataset.tag_sets.to(device, torch.float32)
        by_channel = (1, -1, *[1] * (len(dataset.image_shape) - 1))
        self.shift = (dataset.unit * dataset.mean).view(by_channel).to(device)
        self.scale = (dataset.unit * dataset.std).clamp_min(torch.finfo().tiny).view(by_channel).to(device)

    def __len__(self) -> int:
        return len(self.labels)

    def targets(self, labels: Tensor) -> Tensor:
        """What a loss compares logits with: the labels (...), or their tags (..., K) 0/1 float32."""
        return labels if self.tag_sets is None else self.tag_sets[labels]

    def steps(self, batch_size: int) -> int:
        """Number of batches of an epoch."""
        return math.ceil(len(self) / batch_size)

    @abstractmethod
    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in their order, for evaluation: images (B, C, H, W) float32 and labels (B,)."""

    def shuffled(
        self,
        batch_size: int,
        augment: AugmentSpec,
        seeds: Sequence[int],
        epoch: int,
        start: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch for M = len(seeds) members: images (M, B, C, H, W) float32, labels (M, B).

        Order and augmentation of a member depend on its seed and the epoch alone, so that a resumed run, a member
        of an ensemble and the ranks of a run on several GPUs see what a run alone sees. Batches differ by at most
        one sample in size: a last batch of a single image would break BatchNorm.

        Args:
            batch_size: largest number of samples of a member in a batch.
            augment: random changes of the images.
            seeds: of the members.
            epoch: number of the epoch.
            start: number of steps to pass over.
            share: (rank, ranks): every batch is split evenly among the ranks.
        """
        plan = self.epoch_plan(augment, seeds, epoch)
        here, there = (
            self.split_plan(copied, batch_size, start, share) for copied in (plan, on_device(plan, self.device))
        )
        for images, part in zip(self.gathered(here, there, augment), there, strict=True):
            draws = part.transpose(0, 1).flatten(1)[1:]  # (0 or 6, MB)
            yield self.augmented(images, augment, draws).unflatten(0, (len(seeds), -1)), self.labels[part[:, 0]]

    @abstractmethod
    def gathered(self, here: list[Tensor], there: list[Tensor], augment: AugmentSpec) -> Iterator[Tensor]:
        """The stored images (MB, C, H, W) on the device of every part (M, 1 or 7, B) of a plan, which is given on the
        CPU and on the device."""

    def epoch_plan(self, augment: AugmentSpec, seeds: Sequence[int], epoch: int) -> Tensor:
        """Order and draws of an epoch on the CPU, (M, 1 or 7, N) int64: the sample at every place, and its draws.

        Drawn on the CPU, so that all devices see the same; copied at once, so that no step waits for a copy.
        """
        members = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(len(self), generator=generator)[None]
            if augment != AugmentSpec():
                _, height, width = self.image_shape
                order = torch.cat([order, draw(len(self), augment, height, width, generator)])
            members.append(order)
        return torch.stack(members)

    def split_plan(self, plan: Tensor, batch_size: int, start: int, share: tuple[int, int]) -> list[Tensor]:
        """This rank's part (M, 1 or 7, B) of the plan, step by step from ``start``."""
        rank, ranks = share
        steps = plan.tensor_split(self.steps(batch_size), dim=-1)[start:]
        return [step.tensor_split(ranks, dim=-1)[rank] for step in steps]

    def finished(self, images: Tensor) -> Tensor:
        """Normalised images from stored images (n, C, H, W) on the device."""
        return laid_out(self._normalized(images))

    def augmented(self, images: Tensor, augment: AugmentSpec, draws: Tensor) -> Tensor:
        """Augmented and normalised images from stored images (n, C, H, W) and draws (6 or 0, n) on the device."""
        images = flipped_and_cropped(images, augment, draws)
        return laid_out(cut_out(self._normalized(images), augment, draws))

    def _normalized(self, images: Tensor) -> Tensor:
        return images.to(torch.float32, copy=True).sub_(self.shift).div_(self.scale)


class ImageBatches(Batches):
    """Images that live on the device as they are stored: batches without workers."""

    def __init__(self, dataset: Dataset, split: Literal["train", "test"], device: torch.device) -> None:
        super().__init__(dataset, split, device)
        images = dataset.split(split).images
        assert isinstance(images, Tensor)
        self.images = images.to(device)

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size)):
            yield self.finished(images), labels

    def gathered(self, here: list[Tensor], there: list[Tensor], augment: AugmentSpec) -> Iterator[Tensor]:
        return (self.images.index_select(0, part[:, 0].flatten()) for part in there)


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a GPU through pinned memory, for which the host does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
