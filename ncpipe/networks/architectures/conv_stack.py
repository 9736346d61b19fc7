"""Convolutions of one width, our protocol after the small networks of Rangamani et al."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ncpipe.networks.architecture import Architecture, Backbone, Depth, Shape, nn, numbered, pieces
from ncpipe.settings.base import Count


class ConvStack(Architecture):
    """Convolutions of one width: two of 2x2 and stride 2, then ``depth`` - 1 blocks of 3x3 and stride 1."""

    last_norm = "positions"

    name: Literal["conv_stack"]
    depth: Depth = Field(8, description="Number of blocks, the halving one included.")
    width: Count = Field(128, description="Channels of every block.")
    batch_norm: bool = True

    @property
    def slug(self) -> str:
        return f"conv{self.depth}x{self.width}" + ("" if self.batch_norm else "-nobn")

    def layers(self) -> list[str]:
        return numbered("layer", self.depth)

    def build(self, image_shape: Shape) -> Backbone:
        """A block that quarters the side, then ``depth`` - 1 blocks of 3x3 convolution, BatchNorm, ReLU.

        The first block is two 2x2 convolutions of stride 2, each with BatchNorm, and a ReLU after the second. The
        last block is averaged over positions. ``UserError`` for images below 4x4.
        """

        pieces.require_side("conv_stack", image_shape, 4)
        stages: dict[str, nn.Module] = {}
        for name in self.layers():
            if stages:
                stages[name] = pieces.conv3x3(self.width, self.width, batch_norm=self.batch_norm)
            else:
                halvings = self._halving(image_shape[0]), self._halving(self.width)
                stages[name] = nn.Sequential(*halvings[0], *halvings[1], nn.ReLU(inplace=True))
            pieces.kaiming_init(stages[name])
        stages["features"] = nn.Sequential(stages["features"], pieces.PositionMean())
        return Backbone(stages, self.width)

    def _halving(self, channels: int) -> list[nn.Module]:

        convolution = nn.Conv2d(channels, self.width, 2, stride=2, bias=not self.batch_norm)
        return [convolution, nn.BatchNorm2d(self.width)] if self.batch_norm else [convolution]
