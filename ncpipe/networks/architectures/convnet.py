"""Plain convolutional network: no residuals, no pooling before the end."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ncpipe.networks.architecture import Architecture, Backbone, Shape, nn, numbered, pieces
from ncpipe.settings.base import Count


class Convnet(Architecture):
    """Plain conv3x3-BatchNorm-ReLU blocks; every block but the first halves the side, doubles the channels."""

    last_norm = "positions"

    name: Literal["convnet"]
    depth: Annotated[int, Field(ge=1, le=8)] = Field(3, description="Number of blocks.")
    width: Count = Field(32, description="Channels of the first block.")
    batch_norm: bool = True

    @property
    def slug(self) -> str:
        return f"convnet{self.depth}w{self.width}" + ("" if self.batch_norm else "-nobn")

    def layers(self) -> list[str]:
        return numbered("layer", self.depth)

    def build(self, image_shape: Shape) -> Backbone:
        """Blocks of 3x3 convolution, BatchNorm, ReLU; from the second on with stride 2 and twice the channels."""

        stages: dict[str, nn.Module] = {}
        channels, width = image_shape[0], self.width
        for number, name in enumerate(self.layers()):
            width = self.width * 2**number
            stages[name] = pieces.conv3x3(channels, width, stride=2 if number else 1, batch_norm=self.batch_norm)
            pieces.kaiming_init(stages[name])
            channels = width
        stages["features"] = nn.Sequential(stages["features"], pieces.PositionMean())
        return Backbone(stages, width)
