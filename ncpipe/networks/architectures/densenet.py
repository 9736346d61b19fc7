"""torchvision's DenseNet at any width and depth, with a stem for small images or its own."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ncpipe.networks.architecture import Backbone, Scaled, Shape, Stem, nn, pieces
from ncpipe.settings.base import Count
from ncpipe.system.vision import import_torchvision


class DenseNet(Scaled):
    """torchvision's DenseNet; a layer ends with each dense block."""

    published: ClassVar = {"densenet40": (6, 6, 6), "densenet121": (6, 12, 24, 16)}
    last_norm = "positions"

    name: Literal["densenet40", "densenet121"]
    width: Count = Field(64, description="Channels of the stem; the growth rate is half of it.")
    stem: Stem = "small"

    def layers(self) -> list[str]:
        return ["stem", *(f"block{i}" for i in range(1, len(self.blocks))), "features"]

    def build(self, image_shape: Shape) -> Backbone:
        """The stem with its pooling is a stage, and every dense block ends one.

        From the second block on a stage begins with the transition, which halves the side; ``UserError`` for
        images too small to be halved as often.
        """

        after_stem = 2 ** (len(self.blocks) - 1)
        # the published stem rounds up where it halves
        least = after_stem if self.stem == "small" else 4 * after_stem - 3
        pieces.require_side(f"{self.name} with the {self.stem} stem", image_shape, least)
        densenet: Any = import_torchvision().models.densenet.DenseNet
        network = densenet(max(1, self.width // 2), self.blocks, self.width, num_classes=1)
        layers = network.features
        stages: dict[str, nn.Module] = {}
        for number, name in enumerate(self.layers()):
            if number == 0:
                stages[name] = pieces.stem(image_shape[0], self.width, published=self.stem == "published")
            elif number == 1:
                stages[name] = nn.Sequential(layers.denseblock1)
            else:
                transition = layers.get_submodule(f"transition{number - 1}")
                stages[name] = nn.Sequential(transition, layers.get_submodule(f"denseblock{number}"))
            pieces.kaiming_init(stages[name], "fan_in")
        last = (layers.norm5, nn.ReLU(inplace=True), pieces.PositionMean())
        stages["features"] = nn.Sequential(stages["features"], *last)
        return Backbone(stages, network.classifier.in_features)
