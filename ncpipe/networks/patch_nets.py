"""torchvision's ConvNeXt and vision transformer at any width and depth, which cut the image into patches.

Importing this module imports torchvision, which takes seconds: ``build`` does it only when asked for one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ncpipe.networks.layers import require_side
from ncpipe.networks.network import Backbone
from ncpipe.networks.settings import ConvNeXt, Vit
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

_models: Any = import_torchvision().models

HEAD_WIDTH = 64
"""Width of an attention head in the published vision transformers."""


def convnext(model: ConvNeXt, image_shape: tuple[int, int, int]) -> Backbone:
    """torchvision's ConvNeXt without stochastic depth; the stem and the four groups of blocks are a stage each.

    From the second group on a stage begins with the convolution that halves the side; ``UserError`` for images too
    small to be halved as often. The last stage ends in average pooling and LayerNorm.
    """
    patch = 2 if model.stem == "small" else 4
    require_side(f"{model.name} with the {model.stem} stem", image_shape, 8 * patch)
    widths = [model.width * 2**i for i in range(4)]
    config = _models.convnext.CNBlockConfig
    settings = [config(*sizes) for sizes in zip(widths, [*widths[1:], None], model.blocks, strict=True)]
    network = _models.convnext.ConvNeXt(settings, num_classes=1)
    stem, first, *rest = network.features
    stem[0] = nn.Conv2d(image_shape[0], model.width, patch, stride=patch)
    nn.init.trunc_normal_(stem[0].weight, std=0.02)
    nn.init.zeros_(stem[0].bias)
    groups = [first, *(nn.Sequential(*pair) for pair in zip(rest[::2], rest[1::2], strict=True))]
    stages: dict[str, nn.Module] = dict(zip(model.layers(), [stem, *groups], strict=True))
    norm, flatten, _ = network.classifier
    stages["features"] = nn.Sequential(stages["features"], network.avgpool, norm, flatten)
    return Backbone(stages, widths[-1])


class _Tokens(nn.Module):
    """Images (N, C, H, W) to tokens (N, 1 + patches, width): the class token and the patches, with positions."""

    def __init__(self, convolution: nn.Module, class_token: nn.Parameter, positions: nn.Parameter) -> None:
        super().__init__()
        self.convolution, self.class_token, self.positions = convolution, class_token, positions

    def forward(self, images: Tensor) -> Tensor:
        patches = self.convolution(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1) + self.positions


class _ClassToken(nn.Module):
    """Tokens (N, t, d) to the class token, the first: (N, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def vit(model: Vit, image_shape: tuple[int, int, int]) -> Backbone:
    """torchvision's vision transformer without dropout; the tokens of the image and every block are a stage each.

    The last stage ends in LayerNorm and gives the class token alone. ``UserError`` for images that are not square
    or that patches do not fill.
    """
    channels, height, width = image_shape
    if height != width or height % model.patch:
        raise UserError(
            f"{model.name} needs square images of at least {model.patch}x{model.patch} that patches of {model.patch} "
            f"pixels fill, got {height}x{width}: set model.patch to a divisor of the side"
        )
    network = _models.VisionTransformer(
        height, model.patch, model.blocks, model.width // HEAD_WIDTH, model.width, 4 * model.width, num_classes=1
    )
    convolution = nn.Conv2d(channels, model.width, model.patch, stride=model.patch)
    nn.init.trunc_normal_(convolution.weight, std=(channels * model.patch**2) ** -0.5)
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    tokens = _Tokens(convolution, network.class_token, network.encoder.pos_embedding)
    stages: dict[str, nn.Module] = dict(zip(model.layers(), [tokens, *network.encoder.layers], strict=True))
    stages["features"] = nn.Sequential(stages["features"], network.encoder.ln, _ClassToken())
    return Backbone(stages, model.width)
