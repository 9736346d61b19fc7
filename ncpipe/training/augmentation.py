"""Random changes of training images, computed for a whole batch where the batch lies.

What is random is drawn beforehand for every place of an epoch (``draw``), so that it depends neither on the size of
the batches nor on where an epoch is resumed, and a GPU waits for nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ncpipe.training.settings import AugmentSpec


def draw(count: int, augment: AugmentSpec, height: int, width: int, generator: torch.Generator) -> Tensor:
    """(6, count) int64: whether to flip; top and left of the crop; row and column of the centre of the cut; the seed
    of the resized crop.

    All are drawn whatever is used, so that no setting changes what another one draws.
    """
    bounds = (2, 2 * augment.crop + 1, 2 * augment.crop + 1, height, width, 2**62)
    return torch.stack([torch.randint(bound, (count,), generator=generator) for bound in bounds])


def flipped_and_cropped(images: Tensor, augment: AugmentSpec, draws: Tensor) -> Tensor:
    """Horizontal flips with probability 1/2 and crops of zero-padded images, of uint8 images (N, C, H, W)."""
    sample = torch.arange(len(images), device=images.device)
    if augment.flip:
        images = torch.cat([images, images.flip(-1)]).index_select(0, draws[0] * len(images) + sample)
    if augment.crop:
        height, width = images.shape[2:]
        windows = F.pad(images, [augment.crop] * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = windows[sample, :, draws[1], draws[2]]
    return images


def cut_out(images: Tensor, augment: AugmentSpec, draws: Tensor) -> Tensor:
    """Set a square of ``augment.cutout`` pixels to zero, in place; it may reach over the border."""
    if not augment.cutout:
        return images
    outside = []
    for side, centre in zip(images.shape[2:], draws[3:5], strict=True):
        first = centre[:, None] - augment.cutout // 2
        pixel = torch.arange(side, device=images.device)
        outside.append((pixel < first) | (pixel >= first + augment.cutout))
    return images.mul_(outside[0][:, None, :, None] | outside[1][:, None, None, :])
