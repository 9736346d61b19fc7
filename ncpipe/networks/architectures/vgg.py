"""torchvision's VGG with BatchNorm at any width and depth."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ncpipe.networks.architecture import Backbone, Scaled, Shape, nn, pieces
from ncpipe.system.vision import import_torchvision


class Vgg(Scaled):
    """torchvision's VGG with BatchNorm and no hidden fully connected layers; a stage ends before its pooling."""

    published: ClassVar = {
        "vgg11_bn": (1, 1, 2, 2, 2),
        "vgg13_bn": (2, 2, 2, 2, 2),
        "vgg16_bn": (2, 2, 3, 3, 3),
        "vgg19_bn": (2, 2, 4, 4, 4),
    }
    """Convolutions of every stage."""
    last_norm = "positions"

    name: Literal["vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"]

    def layers(self) -> list[str]:
        return ["stage1", "stage2", "stage3", "stage4", "features"]

    def build(self, image_shape: Shape) -> Backbone:
        """Average pooling replaces the last pooling and the hidden linear layers.

        Stages 2 to 5 begin with the pooling, so that a stage's features are those before it. A map of side 1,
        which an 8x8 image has become by the fourth stage, is not pooled further.
        """

        make_layers: Any = import_torchvision().models.vgg.make_layers
        stages: dict[str, nn.Module] = {}
        channels, side = image_shape[0], min(image_shape[1:])
        for name, multiple, convolutions in zip(self.layers(), (1, 2, 4, 8, 8), self.blocks, strict=True):
            width = self.width * multiple
            pooling = ["M"] if stages and side > 1 else []
            stage = make_layers([*pooling, *[width] * convolutions], batch_norm=True)
            stage[len(pooling)] = nn.Conv2d(channels, width, 3, padding=1)  # make_layers presumes 3 channels
            pieces.kaiming_init(stage)
            stages[name] = stage
            channels, side = width, side // 2 if pooling else side
        stages["features"] = nn.Sequential(stages["features"], pieces.PositionMean())
        return Backbone(stages, channels)
