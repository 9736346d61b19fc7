"""torchvision's vision transformer at any width and depth, which cuts the image into patches."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ncpipe.networks.architecture import Architecture, Backbone, Shape, nn, numbered, pieces, scaled
from ncpipe.settings.base import Count
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

BLOCKS = 12
HEAD_WIDTH = 64
"""Width of an attention head in the published networks."""


class Vit(Architecture):
    """torchvision's vision transformer, without dropout; every encoder block is a layer, whose features are those of
    the class token."""

    vmap = "torch has no batching rule for attention, and takes the networks one by one there"
    last_norm = "none"

    name: Literal["vit_b"]
    width: Annotated[int, Field(ge=64, multiple_of=64)] = Field(
        768, description="Width of the tokens; one attention head per 64. 768 is ViT-B, 192 ViT-Ti."
    )
    depth_factor: Annotated[float, Field(gt=0, le=64)] = Field(
        1.0, description="Times the 12 blocks of ViT-B, rounded, at least one."
    )
    patch: Count = Field(4, description="Side of a patch (pixels); 16 is published, for images of 224.")

    @property
    def blocks(self) -> int:
        return scaled((BLOCKS,), self.depth_factor)[0]

    @property
    def slug(self) -> str:
        return f"vit{self.blocks}x{self.width}p{self.patch}"

    def layers(self) -> list[str]:
        return ["patches", *numbered("block", self.blocks)]

    def build(self, image_shape: Shape) -> Backbone:
        """The tokens of the image and every block are a stage each.

        The last stage ends in LayerNorm and gives the class token alone. ``UserError`` for images that are not
        square or that patches do not fill.
        """

        channels, height, width = image_shape
        if height != width or height % self.patch:
            raise UserError(
                f"{self.name} needs square images of at least {self.patch}x{self.patch} that patches of {self.patch} "
                f"pixels fill, got {height}x{width}: set model.patch to a divisor of the side"
            )
        network = import_torchvision().models.VisionTransformer(
            height, self.patch, self.blocks, self.width // HEAD_WIDTH, self.width, 4 * self.width, num_classes=1
        )
        convolution = nn.Conv2d(channels, self.width, self.patch, stride=self.patch)
        nn.init.trunc_normal_(convolution.weight, std=(channels * self.patch**2) ** -0.5)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        tokens = pieces.Tokens(convolution, network.class_token, network.encoder.pos_embedding)
        stages: dict[str, nn.Module] = dict(zip(self.layers(), [tokens, *network.encoder.layers], strict=True))
        stages["features"] = nn.Sequential(stages["features"], network.encoder.ln, pieces.ClassToken())
        return Backbone(stages, self.width)
