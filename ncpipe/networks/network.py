"""A classifier as named stages in order, so that the features of every layer are at hand without hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn


@dataclass(frozen=True)
class Backbone:
    """What an architecture provides: its stages by layer name in order, and the width of their last output.

    The last stage is named 'features' and returns vectors (N, width). A stage never changes its input in
    place, since that input is the previous layer's features.
    """

    stages: Mapping[str, nn.Module]
    width: int


class Network(nn.Module):
    """Stages applied one after the other, then a linear ``head`` that reads the last output.

    Attributes:
        layer_names: names of the stages; the last is 'features'.
        head: the classifier, with ``weight`` (K, d) and ``bias`` (K,) or None.
    """

    def __init__(self, stages: Mapping[str, nn.Module], head: nn.Linear) -> None:
        super().__init__()
        self.layer_names = tuple(stages)
        # torch allows no dot in the name of a module.
        self.stages = nn.ModuleDict({name.replace(".", "_"): stage for name, stage in stages.items()})
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W)."""
        for stage in self.stages.values():
            images = stage(images)
        return self.head(images)

    def features(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Outputs of all stages by layer name, in order, and the logits (N, K), of images (N, C, H, W).

        Convolutional layers give unpooled maps (N, c, h, w); 'features' (N, d) is what the head reads.
        """
        outputs: dict[str, Tensor] = {}
        for name, stage in zip(self.layer_names, self.stages.values(), strict=True):
            images = stage(images)
            outputs[name] = images
        return outputs, self.head(images)


def as_vectors(features: Tensor, how: Literal["average", "flatten"]) -> Tensor:
    """One vector per sample of a layer's output.

    A map (N, c, h, w) is averaged over its positions to (N, c), or flattened to (N, c*h*w).
    Vectors (N, d) are returned as they are.
    """
    if features.ndim == 2:
        return features
    if how == "average":
        return features.mean(dim=(2, 3))
    if how == "flatten":
        return features.flatten(1)
    raise ValueError(f"how must be 'average' or 'flatten', got {how!r}")
