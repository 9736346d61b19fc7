"""Losses of one sample and their derivatives in the logits, on logits (B, K, M) and zero-one targets (K, M)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class SampleLoss(Protocol):
    """A loss with its derivative."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, M)."""

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        """Write the derivative in the logits, (B, K, M)."""


class SquaredError:
    """1/2 [k (z_y - M)^2 + sum_{j != y} z_j^2]; k = M = 1 is 1/2 |z - e_y|^2."""

    def __init__(self, k: float, target: float) -> None:
        self.k, self.target = k, target

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        off = (logits - self.target * targets).square()
        return off.addcmul_(off, targets, value=self.k - 1).sum(dim=1) / 2

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.sub(logits, targets, alpha=self.target, out=out)
        if self.k != 1:
            out.addcmul_(out, targets, value=self.k - 1)


class CrossEntropy:
    """log sum_j exp(z_j) - z_y, as log(1 + sum_{j != y} exp(z_j - z_y)), which keeps the digits of a small loss."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softplus(excess(logits, targets))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        # softmax of the others times their sum keeps the digits of a small derivative, which p_y - 1 loses
        torch.softmax(logits.masked_fill(targets > 0, -torch.inf), dim=1, out=out)
        out.sub_(targets).mul_(sigmoid(excess(logits, targets))[:, None])


class LabelSmoothing:
    """Cross entropy of targets (1 - alpha) e_y + alpha/K."""

    def __init__(self, smoothing: float) -> None:
        self.smoothing = smoothing

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        # beside the cross entropy, the mean over j of z_y - z_j
        own = (logits * targets).sum(dim=1)
        return CrossEntropy().loss(logits, targets) + self.smoothing * (own - logits.mean(dim=1))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.softmax(logits, dim=1, out=out)
        out.sub_(targets, alpha=1 - self.smoothing).sub_(self.smoothing / logits.shape[1])


class Focal:
    """-(1 - p_y)^gamma log p_y = s(u)^gamma softplus(u), u = log sum_{j != y} exp(z_j) - z_y, s the sigmoid."""

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        u = excess(logits, targets)
        return power(sigmoid(u), self.gamma) * softplus(u)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        u = excess(logits, targets)
        others = sigmoid(u)
        focus = power(others, self.gamma)
        slope = self.gamma * focus * sigmoid(-u) * softplus(u) + focus * others
        torch.softmax(logits.masked_fill(targets > 0, -torch.inf), dim=1, out=out)
        out.sub_(targets).mul_(slope[:, None])


class PickAllLabels:
    """Sum of the cross entropies of all tags of a sample; their mean, if normalised (Li et al. 2024).

    With the m tags' t = logsumexp(tags) and u = logsumexp(others) - t, their mean is t - mean(tags) + softplus(u).
    """

    def __init__(self, normalised: bool) -> None:
        self.normalised = normalised

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        tags, others = self._sides(logits, targets)
        size = targets.sum(dim=0)
        mean = (logits * targets).sum(dim=1) / size
        entropy = tags.logsumexp(dim=1) - mean + softplus(others.logsumexp(dim=1) - tags.logsumexp(dim=1))
        return entropy if self.normalised else entropy * size

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        tags, others = self._sides(logits, targets)
        size = targets.sum(dim=0)
        lost = sigmoid(others.logsumexp(dim=1) - tags.logsumexp(dim=1))[:, None]
        among_tags = torch.softmax(tags, dim=1)
        torch.softmax(others, dim=1, out=out)
        out.mul_(lost).add_(among_tags - targets / size).sub_(lost * among_tags)
        if not self.normalised:
            out.mul_(size)

    @staticmethod
    def _sides(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the tags and of the others, the rest at -inf."""
        tagged = targets > 0
        return logits.masked_fill(~tagged, -torch.inf), logits.masked_fill(tagged, -torch.inf)


def excess(logits: Tensor, targets: Tensor) -> Tensor:
    """u = log sum_{j != y} exp(z_j) - z_y, (B, K, M) -> (B, M): the log odds against the label."""
    others = logits.masked_fill(targets > 0, -torch.inf).logsumexp(dim=1)
    return others - (logits * targets).sum(dim=1)


# The next three exist in torch, whose own differ in the last bit between places in a buffer.


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(u)), also of small exp(u) to all digits."""
    return values.clamp_min(0) + torch.log1p(torch.exp(-values.abs()))


def sigmoid(values: Tensor) -> Tensor:
    """1 / (1 + exp(-u)), also where it is small to all digits."""
    small = torch.exp(-values.abs())
    return torch.where(values > 0, 1, small) / (1 + small)


def power(values: Tensor, exponent: float) -> Tensor:
    """values^exponent of values >= 0."""
    return torch.exp(exponent * torch.log(values))


LOSSES: dict[str, Callable[..., SampleLoss]] = {
    "mse": SquaredError,
    "ce": CrossEntropy,
    "label_smoothing": LabelSmoothing,
    "focal": Focal,
    "pick_all_labels": lambda: PickAllLabels(normalised=False),
    "pick_all_labels_normalized": lambda: PickAllLabels(normalised=True),
}
"""By name; called with the loss's parameters."""
MULTI_LABEL = ("pick_all_labels", "pick_all_labels_normalized")
"""Those of samples with several labels."""


def of_differences(loss: SampleLoss, classes: int) -> bool:
    """Whether a loss reads the differences of the logits alone, as those of softmax do: its derivative sums to 0."""
    logits = torch.from_numpy(np.random.default_rng(0).standard_normal((1, classes, classes)))
    slope = torch.empty_like(logits)
    loss.residual(logits, torch.eye(classes, dtype=torch.float64), out=slope)
    return bool(slope.sum(dim=1).abs().max() <= 1e-12 * classes)
