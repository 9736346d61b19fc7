"""Logits with labels, or with tags, as a loss takes them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ncpipe.training.settings import LossSpec

K = 4


def logits_and_targets(spec: LossSpec) -> tuple[Tensor, Tensor]:
    """Logits of 12 samples in float64 with labels, or tags of one to three classes."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, K, dtype=torch.float64, generator=generator)
    labels = torch.arange(12) % K
    if not spec.sample_loss.multi_label:
        return logits, labels
    tags = F.one_hot(labels, K)
    tags[4:8, 0], tags[8:, 1:3] = 1, 1
    return logits, tags.float()
