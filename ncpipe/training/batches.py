"""Batches of a split on the device: order, augmentation and normalisation, the same wherever the images lie."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from ncpipe.data import Dataset
from ncpipe.training.augmentation import cut_out, draw, flipped_and_cropped, is_on
from ncpipe.training.computation import memory_format
from ncpipe.training.settings import AugmentSpec


class Batches(ABC):
    """Normalised images and the labels (N,) of one split. Where a data set has pairs, labels number its tag sets."""

    def __init__(self, dataset: Dataset, split: Literal["train", "test"], device: torch.device) -> None:
        self.device = device
        self.image_shape = dataset.image_shape
        self.labels = dataset.split(split).labels.to(device)
        self.tag_sets = None if dataset.tag_sets is None else dataset.tag_sets.to(device, torch.float32)
        self.shift = (255 * dataset.mean).view(1, -1, 1, 1).to(device)
        self.scale = (255 * dataset.std).clamp_min(1e-6).view(1, -1, 1, 1).to(device)

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
        """The uint8 images (MB, C, H, W) on the device of every part (M, 1 or 7, B) of a plan, which is given on the
        CPU and on the device."""

    def epoch_plan(self, augment: AugmentSpec, seeds: Sequence[int], epoch: int) -> Tensor:
        """Order and draws of an epoch on the CPU, (M, 1 or 7, N) int64: the sample at every place, and its draws.

        Drawn on the CPU, so that all devices see the same; copied at once, so that no step waits for a copy.
        """
        members = []
        for seed in seeds:
            generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
            order = torch.randperm(len(self), generator=generator)[None]
            draws = [draw(len(self), augment, *self.image_shape[1:], generator)] if is_on(augment) else []
            members.append(torch.cat([order, *draws]))
        return torch.stack(members)

    def split_plan(self, plan: Tensor, batch_size: int, start: int, share: tuple[int, int]) -> list[Tensor]:
        """This rank's part (M, 1 or 7, B) of the plan, step by step from ``start``."""
        rank, ranks = share
        steps = plan.tensor_split(self.steps(batch_size), dim=-1)[start:]
        return [step.tensor_split(ranks, dim=-1)[rank] for step in steps]

    def finished(self, images: Tensor) -> Tensor:
        """Normalised images from uint8 images (n, C, H, W) on the device."""
        return _laid_out(self._normalized(images))

    def augmented(self, images: Tensor, augment: AugmentSpec, draws: Tensor) -> Tensor:
        """Augmented and normalised images from uint8 images (n, C, H, W) and draws (6 or 0, n) on the device."""
        images = flipped_and_cropped(images, augment, draws)
        return _laid_out(cut_out(self._normalized(images), augment, draws))

    def _normalized(self, images: Tensor) -> Tensor:
        return images.float().sub_(self.shift).div_(self.scale)


class ImageBatches(Batches):
    """Images that live on the device as uint8: batches without workers."""

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


def _laid_out(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=memory_format(images.device))


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy to a GPU through pinned memory, for which the host does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
