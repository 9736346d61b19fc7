"""Fully connected ReLU network on vectors or flattened images."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import Field

from ncpipe.networks.architecture import Architecture, Backbone, Depth, Shape, nn, numbered, pieces
from ncpipe.settings.base import Count


class Mlp(Architecture):
    """Fully connected ReLU network; layers ``layer1`` .. ``features`` are the hidden activations."""

    last_norm = "units"
    reads_vectors = True

    name: Literal["mlp"]
    depth: Depth = Field(3, description="Number of hidden layers.")
    width: Count = Field(256, description="Width of every hidden layer.")
    batch_norm: bool | Literal["all_but_last"] = Field(
        True, description="all_but_last: the last hidden layer has neither BatchNorm nor bias (an extended UFM)."
    )

    @property
    def slug(self) -> str:
        return f"mlp{self.depth}x{self.width}" + (
            "-lastnobn" if self.batch_norm == "all_but_last" else "" if self.batch_norm else "-nobn"
        )

    def layers(self) -> list[str]:
        return numbered("layer", self.depth)

    def build(self, image_shape: Shape) -> Backbone:
        """``depth`` hidden layers of ``width`` units; all features are vectors (N, width)."""

        stages: dict[str, nn.Module] = {}
        inputs = prod(image_shape)
        for name in self.layers():
            if self.batch_norm == "all_but_last" and name == "features":
                stages[name] = nn.Sequential(nn.Linear(inputs, self.width, bias=False), nn.ReLU(inplace=True))
            else:
                stages[name] = pieces.linear(inputs, self.width, batch_norm=bool(self.batch_norm))
            pieces.kaiming_init(stages[name], "fan_in")
            inputs = self.width
        first = next(iter(stages))
        stages[first] = nn.Sequential(nn.Flatten(), stages[first])
        return Backbone(stages, self.width)
