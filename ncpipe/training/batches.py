"""Batches of images that live on the device: order, augmentation and normalisation without workers."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from ncpipe.study.spec import AugmentSpec


class ImageBatches:
    """uint8 images (N, C, H, W) and labels (N,) of one split, normalised channel by channel."""

    def __init__(self, images: Tensor, labels: Tensor, mean: Tensor, std: Tensor, device: torch.device) -> None:
        self.images, self.labels = images.to(device), labels.to(device)
        self.shift = (255 * mean).view(1, -1, 1, 1).to(device)
        self.scale = (255 * std).clamp_min(1e-6).view(1, -1, 1, 1).to(device)

    def __len__(self) -> int:
        return len(self.images)

    def normalized(self, images: Tensor) -> Tensor:
        return (images.float() - self.shift) / self.scale

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """All samples in their order, for evaluation."""
        for images, labels in zip(self.images.split(batch_size), self.labels.split(batch_size)):
            yield self.normalized(images), labels

    def shuffled(
        self, batch_size: int, augment: AugmentSpec, seed: int, epoch: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in an order that depends on seed and epoch alone, so that a resumed run repeats it.

        Batches differ by at most one sample in size: a last batch of a single image would break BatchNorm.
        """
        generator = torch.Generator().manual_seed(1_000_003 * seed + epoch)
        order = torch.randperm(len(self), generator=generator).to(self.images.device)
        for rows in order.tensor_split(math.ceil(len(self) / batch_size)):
            images = augmented(self.images[rows], augment, generator)
            yield self.normalized(images), self.labels[rows]


def augmented(images: Tensor, augment: AugmentSpec, generator: torch.Generator) -> Tensor:
    """Random horizontal flips and crops of zero-padded images, drawn per image."""
    if augment.flip:
        chosen = torch.rand(len(images), generator=generator).to(images.device) < 0.5
        images = torch.where(chosen[:, None, None, None], images.flip(-1), images)
    if augment.crop:
        count, channels, height, width = images.shape
        padded = F.pad(images, [augment.crop] * 4)
        top, left = torch.randint(2 * augment.crop + 1, (2, count), generator=generator).to(images.device)
        rows = top[:, None] + torch.arange(height, device=images.device)
        columns = left[:, None] + torch.arange(width, device=images.device)
        sample = torch.arange(count, device=images.device)[:, None, None, None]
        channel = torch.arange(channels, device=images.device)[None, :, None, None]
        images = padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]
    return images
