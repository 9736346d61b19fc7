"""Mean and standard deviation of every channel of images, or of every feature of vectors."""

from __future__ import annotations

import torch
from torch import Tensor


class ChannelStatistics:
    """Statistics of values that come in pieces: of uint8 exact, from how often every value is there; of floats in
    float64, merged piece by piece about the mean (Chan, Golub & LeVeque 1979)."""

    def __init__(self, channels: int, dtype: torch.dtype) -> None:
        self.counts = torch.zeros(channels, 256, dtype=torch.int64) if dtype == torch.uint8 else None
        self.number = 0
        self.mean, self.squares = torch.zeros(2, channels, dtype=torch.float64)

    def add(self, images: Tensor) -> None:
        """Take in images (n, C, H, W) or vectors (n, d)."""
        if self.counts is not None:
            self.counts += torch.stack([channel.flatten().bincount(minlength=256) for channel in images.unbind(1)])
            return
        values = images.double().movedim(1, -1).flatten(0, -2)
        if len(values) == 0:
            return
        self.number += len(values)
        shift = values.mean(dim=0) - self.mean
        self.mean = self.mean + shift * len(values) / self.number
        self.squares += (values - values.mean(dim=0)).square().sum(dim=0)
        self.squares += shift.square() * len(values) * (self.number - len(values)) / self.number

    def mean_and_deviation(self) -> tuple[list[float], list[float]]:
        """By channel, of uint8 scaled to [0, 1]. A constant channel has deviation 1, so that dividing by it is
        harmless."""
        if self.counts is not None:
            return _of_counts(self.counts)
        deviation = (self.squares / self.number).sqrt()
        return self.mean.tolist(), deviation.where(deviation > 0, 1.0).tolist()


def _of_counts(counts: Tensor) -> tuple[list[float], list[float]]:
    """From how often every channel has every value, (C, 256); exact up to the last division."""
    values = torch.arange(256, dtype=torch.float64) / 255
    mean, std = [], []
    for count in counts.double():
        weights = count / count.sum()
        centre = (weights * values).sum()
        variance = (weights * (values - centre).square()).sum()
        mean.append(centre.item())
        std.append(variance.sqrt().item() if count.count_nonzero() > 1 else 1.0)
    return mean, std
