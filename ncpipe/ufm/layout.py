"""Where features, weights and bias of a batch of equally shaped problems lie in one vector of parameters.

Features are *columns*: one per sample, or, tied, one per class (per set of tags) that stands for its samples. A
column of multiplicity m is stored as g = sqrt(m) h, so that its penalty is lambda_H/2 |g|^2 in both cases; by
homogeneity of the layers (linear or ReLU) its logits are then those of g over sqrt(m).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from ncpipe.collapse.frames import simplex_etf
from ncpipe.losses import SampleLoss
from ncpipe.ufm.model import Model


class Parameters(NamedTuple):
    """Views of parameter vectors; B problems, M columns."""

    features: Tensor
    """(B, d_1, M)."""
    weights: list[Tensor]
    """The trained of W_1 .. W_L, (B, d_2, d_1) .. (B, K, d_L)."""
    bias: Tensor | None
    """(B, K, 1)."""


@dataclass(frozen=True)
class Layout:
    """What all problems of a batch share: everything but their penalties."""

    tag_sets: tuple[tuple[int, ...], ...]
    counts: tuple[int, ...]
    classes: int
    widths: tuple[int, ...]
    loss: SampleLoss
    activation: str
    has_bias: bool
    frozen: bool
    """The classifier is a fixed simplex."""
    temperature: float | None
    nonnegative: bool
    tied: bool

    @classmethod
    def of(cls, problem: Model, tied: bool = False) -> Layout:
        return cls(
            problem.tag_sets,
            problem.counts,
            problem.classes,
            problem.widths,
            problem.sample_loss,
            problem.activation,
            has_bias=problem.bias_decay is not None,
            frozen=problem.classifier == "etf",
            temperature=problem.temperature,
            nonnegative=problem.nonnegative,
            tied=tied,
        )

    @property
    def kinds(self) -> Tensor:
        """Class, or number of the set of tags, of each column, (M,)."""
        kinds = torch.arange(len(self.counts))
        return kinds if self.tied else kinds.repeat_interleave(torch.tensor(self.counts))

    @property
    def targets(self) -> Tensor:
        """Labels of each column as zeros and ones, (K, M) float64."""
        table = torch.zeros(self.classes, len(self.tag_sets), dtype=torch.float64)
        for number, tags in enumerate(self.tag_sets):
            table[list(tags), number] = 1
        return table[:, self.kinds]

    @property
    def multiplicities(self) -> Tensor:
        """Samples that each column stands for, (M,)."""
        counts = torch.tensor(self.counts)
        return counts if self.tied else torch.ones(int(counts.sum()), dtype=torch.int64)

    @property
    def column_scales(self) -> Tensor:
        """sqrt(m) of each column, by which it is stored larger, (M,)."""
        return self.multiplicities.double().sqrt()

    @property
    def num_columns(self) -> int:
        return len(self.counts) if self.tied else sum(self.counts)

    @property
    def weight_shapes(self) -> list[tuple[int, int]]:
        """Shapes of the trained W_1, W_2, .."""
        shapes = [(after, before) for before, after in pairwise((*self.widths, self.classes))]
        return shapes[:-1] if self.frozen else shapes

    def frame(self, device: torch.device | str = "cpu") -> list[Tensor]:
        """The frozen classifier (K, d), where there is one."""
        return [simplex_etf(self.classes, self.widths[-1]).to(device)] if self.frozen else []

    @property
    def sizes(self) -> list[int]:
        """Entries of features, trained weights and bias."""
        weights = [rows * columns for rows, columns in self.weight_shapes]
        return [self.widths[0] * self.num_columns, *weights, *([self.classes] * self.has_bias)]

    def views(self, vectors: Tensor) -> Parameters:
        """Views of vectors (B, P) as features, weights and bias."""
        batch, parts = len(vectors), vectors.split(self.sizes, dim=1)
        return Parameters(
            parts[0].view(batch, self.widths[0], -1),
            [part.view(batch, *shape) for part, shape in zip(parts[1:], self.weight_shapes, strict=False)],
            parts[-1].view(batch, self.classes, 1) if self.has_bias else None,
        )


def balancing_scales(layout: Layout, decays: Tensor) -> tuple[Tensor, Tensor]:
    """Factors s (B, P) and penalties (B, F) of the same problems in balanced variables s * parameters.

    Scaling every factor by sqrt(lambda_j / lambda), lambda the geometric mean of the penalties, leaves the
    product of the factors as it is and gives all of them the penalty lambda. Without penalties s = 1.
    """
    factors = decays[:, : 1 + len(layout.weight_shapes)]
    mean = factors.log().mean(dim=1, keepdim=True).exp()
    if layout.temperature is not None:
        factors = mean = torch.ones_like(factors)
    balanced, scales = decays.clone(), torch.ones_like(decays)
    if layout.temperature is None:
        balanced[:, : factors.shape[1]] = mean
    scales[:, : factors.shape[1]] = (factors / mean).sqrt()
    return scales.repeat_interleave(torch.tensor(layout.sizes, device=decays.device), dim=1), balanced
