"""The batches of a data set, in memory or from disk."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ncpipe.data import Dataset
from ncpipe.training.batches import Batches, ImageBatches
from ncpipe.training.streams import StreamedBatches


def open_batches(dataset: Dataset, split: Literal["train", "test"], device: torch.device) -> Batches:
    """The batches of a split: of images in memory, copied to the device, or streamed from disk."""
    if isinstance(dataset.split(split).images, Tensor):
        return ImageBatches(dataset, split, device)
    return StreamedBatches(dataset, split, device)
