"""torchvision's ResNet, VGG and DenseNet at any width and depth, with stems for small images or their own.

Importing this module imports torchvision, which takes seconds: ``build`` does it only when asked for one.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from ncpipe.networks.layers import PositionMean, conv3x3, kaiming_init, require_side
from ncpipe.networks.network import Backbone
from ncpipe.networks.settings import DenseNet, ResNet, Vgg
from ncpipe.system.vision import import_torchvision

_models: Any = import_torchvision().models

PUBLISHED_WIDTH = 64
"""Channels of the first stage in the published ResNets."""


class _ScaledResNet(_models.resnet.ResNet):
    """torchvision's ResNet whose stages have ``width`` / 64 times the published channels."""

    def __init__(self, block: type[nn.Module], blocks: tuple[int, ...], width: int) -> None:
        self.width = width
        super().__init__(block, list(blocks), num_classes=1)

    def _make_layer(self, block: Any, planes: int, blocks: int, stride: int = 1, dilate: bool = False) -> Any:
        if planes == PUBLISHED_WIDTH:  # the first stage reads the stem, which has our width
            self.inplanes = self.width
        return super()._make_layer(block, planes // PUBLISHED_WIDTH * self.width, blocks, stride, dilate)


def _stem(model: ResNet | DenseNet, channels: int) -> nn.Sequential:
    """3x3 convolution of stride 1, or the published 7x7 of stride 2 followed by pooling, which quarters the side."""
    if model.stem == "small":
        return conv3x3(channels, model.width)
    convolution = nn.Conv2d(channels, model.width, 7, stride=2, padding=3, bias=False)
    after = nn.BatchNorm2d(model.width), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(convolution, *after)


def resnet(model: ResNet, image_shape: tuple[int, int, int]) -> Backbone:
    """torchvision's ResNet; the stem with its pooling and every residual block are a stage each."""
    block = _models.resnet.Bottleneck if model.name == "resnet50" else _models.resnet.BasicBlock
    network = _ScaledResNet(block, model.blocks, model.width)
    groups = (network.layer1, network.layer2, network.layer3, network.layer4)
    blocks = [residual for group in groups for residual in group]
    stages = dict(zip(model.layers(), [_stem(model, image_shape[0]), *blocks], strict=True))
    for stage in stages.values():
        kaiming_init(stage)
    stages["features"] = nn.Sequential(stages["features"], PositionMean())
    return Backbone(stages, network.inplanes)


def vgg(model: Vgg, image_shape: tuple[int, int, int]) -> Backbone:
    """torchvision's VGG with BatchNorm; average pooling replaces its last pooling and hidden linear layers.

    Stages 2 to 5 begin with the pooling, so that a stage's features are those before it. A map of side 1,
    which an 8x8 image has become by the fourth stage, is not pooled further.
    """
    stages: dict[str, nn.Module] = {}
    channels, side = image_shape[0], min(image_shape[1:])
    counts = model.blocks
    for name, multiple, convolutions in zip(model.layers(), (1, 2, 4, 8, 8), counts, strict=True):
        width = model.width * multiple
        pooling = ["M"] if stages and side > 1 else []
        stage = _models.vgg.make_layers([*pooling, *[width] * convolutions], batch_norm=True)
        stage[len(pooling)] = nn.Conv2d(channels, width, 3, padding=1)  # make_layers presumes 3 channels
        kaiming_init(stage)
        stages[name] = stage
        channels, side = width, side // 2 if pooling else side
    stages["features"] = nn.Sequential(stages["features"], PositionMean())
    return Backbone(stages, channels)


def densenet(model: DenseNet, image_shape: tuple[int, int, int]) -> Backbone:
    """torchvision's DenseNet; the stem with its pooling is a stage, and every dense block ends one.

    From the second block on a stage begins with the transition, which halves the side; ``UserError`` for
    images too small to be halved as often.
    """
    block_sizes = model.blocks
    after_stem = 2 ** (len(block_sizes) - 1)
    # the published stem rounds up where it halves
    least = after_stem if model.stem == "small" else 4 * after_stem - 3
    require_side(f"{model.name} with the {model.stem} stem", image_shape, least)
    network = _models.densenet.DenseNet(max(1, model.width // 2), block_sizes, model.width, num_classes=1)
    layers = network.features
    stages: dict[str, nn.Module] = {}
    for number, name in enumerate(model.layers()):
        if number == 0:
            stages[name] = _stem(model, image_shape[0])
        elif number == 1:
            stages[name] = nn.Sequential(layers.denseblock1)
        else:
            transition = layers.get_submodule(f"transition{number - 1}")
            stages[name] = nn.Sequential(transition, layers.get_submodule(f"denseblock{number}"))
        kaiming_init(stages[name], "fan_in")
    last = (layers.norm5, nn.ReLU(inplace=True), PositionMean())
    stages["features"] = nn.Sequential(stages["features"], *last)
    return Backbone(stages, network.classifier.in_features)
