"""Convolutions of one width, our protocol after the small networks of Rangamani et al."""

from __future__ import annotations

from torch import nn

from ncpipe.networks.layers import PositionMean, conv3x3, kaiming_init, require_side
from ncpipe.networks.network import Backbone
from ncpipe.networks.settings import ConvStack


def conv_stack(model: ConvStack, image_shape: tuple[int, int, int]) -> Backbone:
    """A block that quarters the side, then ``model.depth`` - 1 blocks of 3x3 convolution, BatchNorm, ReLU.

    The first block is two 2x2 convolutions of stride 2, each with BatchNorm, and a ReLU after the second. The last
    block is averaged over positions. ``UserError`` for images below 4x4.
    """
    require_side("conv_stack", image_shape, 4)
    stages: dict[str, nn.Module] = {}
    for name in model.layers():
        if stages:
            stages[name] = conv3x3(model.width, model.width, batch_norm=model.batch_norm)
        else:
            halvings = _halving(image_shape[0], model), _halving(model.width, model)
            stages[name] = nn.Sequential(*halvings[0], *halvings[1], nn.ReLU(inplace=True))
        kaiming_init(stages[name])
    stages["features"] = nn.Sequential(stages["features"], PositionMean())
    return Backbone(stages, model.width)


def _halving(channels: int, model: ConvStack) -> list[nn.Module]:
    convolution = nn.Conv2d(channels, model.width, 2, stride=2, bias=not model.batch_norm)
    return [convolution, nn.BatchNorm2d(model.width)] if model.batch_norm else [convolution]
