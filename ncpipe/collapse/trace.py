"""The statistics of a run over time: the one form in which networks and UFMs reach everything downstream."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from ncpipe.collapse.statistics import LayerStatistics


@dataclass(frozen=True, order=True)
class Moment:
    """One measurement: an epoch or iteration, a layer, a split."""

    time: int
    layer: str
    split: str = "train"


@dataclass
class Trace:
    """Statistics of one run: of every measured layer and split at every measured time."""

    layers: tuple[str, ...]
    """Layer names from the first to the last, 'features'."""
    statistics: dict[Moment, LayerStatistics] = field(default_factory=dict, repr=False)
    heads: dict[int, tuple[Tensor, Tensor | None]] = field(default_factory=dict, repr=False)
    """Classifier weight (K, d) and bias (K,) by time; it reads the last layer."""
    weights: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)
    """By time and layer below the last, where one matrix (m, d) reads its features: that matrix."""
    scalars: dict[tuple[int, str], dict[str, float]] = field(default_factory=dict)
    """Values by time and split that take more than statistics: ``loss``, the mean loss without penalties; where the
    loss is squared, of the training split ``loss_penalised``, Han's split of it, ``loss_nc1``, ``loss_nc23`` and
    ``loss_perp``, and ``snr_min`` and ``snr_max``; and what a network adds, see docs/metrics.md."""
    reasons: dict[tuple[int, str], dict[str, str]] = field(default_factory=dict, repr=False)
    """By time and split: name of a scalar that is NaN -> why."""

    def depth(self, layer: str) -> int:
        """1 for the first layer."""
        return self.layers.index(layer) + 1

    @property
    def times(self) -> list[int]:
        return sorted(self.heads)
