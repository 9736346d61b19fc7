"""torchvision's ResNet at any width and depth, with a stem for small images or its own."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from ncpipe.networks.architecture import Backbone, Scaled, Shape, Stem, nn, pieces
from ncpipe.system.vision import import_torchvision

PUBLISHED_WIDTH = 64
"""Channels of the first stage in the published networks."""


class ResNet(Scaled):
    """torchvision's ResNet; every residual block is a layer."""

    published: ClassVar = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3)}
    last_norm = "positions"

    name: Literal["resnet18", "resnet34", "resnet50"]
    stem: Stem = "small"

    def layers(self) -> list[str]:
        names = [f"layer{s}.{b}" for s, n in enumerate(self.blocks, start=1) for b in range(n)]
        return ["stem", *names[:-1], "features"]

    def build(self, image_shape: Shape) -> Backbone:
        """The stem with its pooling and every residual block are a stage each."""

        network = self._scaled()
        groups = (network.layer1, network.layer2, network.layer3, network.layer4)
        blocks = [residual for group in groups for residual in group]
        first = pieces.stem(image_shape[0], self.width, published=self.stem == "published")
        stages: dict[str, nn.Module] = dict(zip(self.layers(), [first, *blocks], strict=True))
        for stage in stages.values():
            pieces.kaiming_init(stage)
        stages["features"] = nn.Sequential(stages["features"], pieces.PositionMean())
        return Backbone(stages, network.inplanes)

    def _scaled(self) -> Any:
        """torchvision's network whose stages have ``width`` / 64 times the published channels."""
        resnet: Any = import_torchvision().models.resnet
        width = self.width

        class Network(resnet.ResNet):
            def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> Any:
                if planes == PUBLISHED_WIDTH:  # the first stage reads the stem, which has our width
                    self.inplanes = width
                return super()._make_layer(block, planes // PUBLISHED_WIDTH * width, blocks, stride, dilate)

        block = resnet.Bottleneck if self.name == "resnet50" else resnet.BasicBlock
        return Network(block, list(self.blocks), num_classes=1)
