"""Residual fully connected network with LayerNorm on vectors or flattened images."""

from __future__ import annotations

from math import prod
from typing import Literal

from pydantic import Field

from ncpipe.networks.architecture import Architecture, Backbone, Depth, Shape, nn, numbered, pieces
from ncpipe.settings.base import Count


class ResidualMlp(Architecture):
    """Blocks LN(x + W_2 ReLU(W_1 x + b_1) + b_2) behind a fixed embedding; layers ``block1`` .. ``features`` are
    what they return."""

    last_norm = "none"
    reads_vectors = True

    name: Literal["residual_mlp"]
    depth: Depth = Field(4, description="Number of blocks, of two weight matrices each.")
    width: Count = Field(
        64, description="Width of the stream and within the blocks; below the size of the input it is projected."
    )
    layer_norm: bool = Field(True, description="LayerNorm without gain and shift after every block.")

    @property
    def slug(self) -> str:
        return f"resmlp{self.depth}x{self.width}" + ("" if self.layer_norm else "-noln")

    def layers(self) -> list[str]:
        return numbered("block", self.depth)

    def build(self, image_shape: Shape) -> Backbone:
        """``depth`` blocks of ``width`` units; all features are vectors (N, width).

        The embedding has orthonormal rows or columns and is not trained: LayerNorm takes its scale away, so that with
        a decay of it there would be no minimum. He's weights are divided by sqrt(depth): the penalty of all blocks
        together starts the same at any depth.
        """

        stages: dict[str, nn.Module] = {}
        for name in self.layers():
            block = nn.Sequential(
                pieces.linear(self.width, self.width, batch_norm=False), nn.Linear(self.width, self.width)
            )
            pieces.kaiming_init(block, "fan_in")
            for parameter in block.parameters():
                parameter.data /= self.depth**0.5
            norm = [nn.LayerNorm(self.width, elementwise_affine=False)] if self.layer_norm else []
            stages[name] = nn.Sequential(pieces.Residual(block), *norm)
        first = next(iter(stages))
        stages[first] = nn.Sequential(nn.Flatten(), pieces.Embedding(prod(image_shape), self.width), stages[first])
        return Backbone(stages, self.width)
