"""torchvision's ConvNeXt at any width and depth, which cuts the image into patches."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ncpipe.networks.architecture import Backbone, Scaled, Shape, nn, pieces
from ncpipe.settings.base import Count
from ncpipe.system.vision import import_torchvision


class ConvNeXt(Scaled):
    """torchvision's ConvNeXt, without stochastic depth; a layer ends with each stage."""

    published: ClassVar = {"convnext_tiny": (3, 3, 9, 3), "convnext_small": (3, 3, 27, 3)}
    vmap = "torch has no batching rule for aten::as_strided_, and takes the networks one by one there"
    last_norm = "none"

    name: Literal["convnext_tiny", "convnext_small"]
    width: Count = Field(96, description="Channels of the first stage; 96 is the published network.")
    stem: Literal["small", "published"] = Field("small", description="Patches of 2 (small) or 4 pixels (published).")

    @property
    def slug(self) -> str:
        return f"{self.name.replace('_', '-')}-w{self.width}{self.depth_slug}"

    def layers(self) -> list[str]:
        return ["stem", "stage1", "stage2", "stage3", "features"]

    def build(self, image_shape: Shape) -> Backbone:
        """The stem and the four groups of blocks are a stage each.

        From the second group on a stage begins with the convolution that halves the side; ``UserError`` for images
        too small to be halved as often. The last stage ends in average pooling and LayerNorm.
        """

        patch = 2 if self.stem == "small" else 4
        pieces.require_side(f"{self.name} with the {self.stem} stem", image_shape, 8 * patch)
        convnext: Any = import_torchvision().models.convnext
        widths = [self.width * 2**i for i in range(4)]
        sizes = zip(widths, [*widths[1:], None], self.blocks, strict=True)
        network = convnext.ConvNeXt([convnext.CNBlockConfig(*size) for size in sizes], num_classes=1)
        stem, first, *rest = network.features
        stem[0] = nn.Conv2d(image_shape[0], self.width, patch, stride=patch)
        nn.init.trunc_normal_(stem[0].weight, std=0.02)
        nn.init.zeros_(stem[0].bias)
        groups = [first, *(nn.Sequential(*pair) for pair in zip(rest[::2], rest[1::2], strict=True))]
        stages: dict[str, nn.Module] = dict(zip(self.layers(), [stem, *groups], strict=True))
        norm, flatten, _ = network.classifier
        stages["features"] = nn.Sequential(stages["features"], network.avgpool, norm, flatten)
        return Backbone(stages, widths[-1])
