"""Plain convolutional network: no residuals, no pooling before the end."""

from __future__ import annotations

from torch import nn

from ncpipe.networks.layers import PositionMean, conv3x3, kaiming_init
from ncpipe.networks.network import Backbone
from ncpipe.networks.settings import Convnet


def convnet(model: Convnet, image_shape: tuple[int, int, int]) -> Backbone:
    """Blocks of 3x3 convolution, BatchNorm, ReLU; from the second on with stride 2 and twice the channels."""
    stages: dict[str, nn.Module] = {}
    channels, width = image_shape[0], model.width
    for number, name in enumerate(model.layers()):
        width = model.width * 2**number
        stages[name] = conv3x3(channels, width, stride=2 if number else 1, batch_norm=model.batch_norm)
        kaiming_init(stages[name])
        channels = width
    stages["features"] = nn.Sequential(stages["features"], PositionMean())
    return Backbone(stages, width)
