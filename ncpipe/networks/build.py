"""From the settings of a network to the network, its initial weights decided by the seed alone."""

from __future__ import annotations

import torch
from torch import nn

from ncpipe.networks.conv_stack import conv_stack
from ncpipe.networks.convnet import convnet
from ncpipe.networks.head import classifier, hidden_layers, projection
from ncpipe.networks.mlp import mlp
from ncpipe.networks.network import Backbone, Network
from ncpipe.networks.settings import (
    Convnet,
    ConvNeXt,
    ConvStack,
    DenseNet,
    HeadSpec,
    Mlp,
    ModelSpec,
    ResNet,
    Timm,
    Vgg,
)


def build_network(
    model: ModelSpec, head: HeadSpec, image_shape: tuple[int, int, int], num_classes: int, seed: int
) -> Network:
    """Build the network on the CPU, in float32 and training mode.

    Args:
        model: the architecture; ``model.layers()`` become the network's ``layer_names``, with hidden layers in the
            head as ``NetworkSpec.layers()`` has them.
        head: the classifier, and the optional projection and hidden layers before it.
        image_shape: channels, height and width (C, H, W) of the images.
        num_classes: number of classes, K.
        seed: decides all initial weights; torch's global generators are left as they were.

    Raises:
        UserError: the images do not fit the model, the features are too few for a fixed ETF, or timm is asked for
            and missing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        backbone = _backbone(model, image_shape)
        stages, width = dict(backbone.stages), backbone.width
        if head.feature_dim is not None:
            inputs, width = width, num_classes if head.feature_dim == "classes" else head.feature_dim
            stages["features"] = nn.Sequential(stages["features"], projection(inputs, width))
        hidden = hidden_layers(head, width)
        if hidden:
            stages["head_input"] = stages.pop("features")
            width = head.hidden_width or width
        return Network(stages, hidden, classifier(head, width, num_classes))


def _backbone(model: ModelSpec, image_shape: tuple[int, int, int]) -> Backbone:
    if isinstance(model, Mlp):
        return mlp(model, image_shape)
    if isinstance(model, Convnet):
        return convnet(model, image_shape)
    if isinstance(model, ConvStack):
        return conv_stack(model, image_shape)
    if isinstance(model, Timm):
        from ncpipe.networks.timm_nets import timm_model

        return timm_model(model, image_shape)
    from ncpipe.networks import vision_nets  # imports torchvision, which takes seconds

    if isinstance(model, ResNet):
        return vision_nets.resnet(model, image_shape)
    if isinstance(model, Vgg):
        return vision_nets.vgg(model, image_shape)
    if isinstance(model, DenseNet):
        return vision_nets.densenet(model, image_shape)
    from ncpipe.networks import patch_nets

    if isinstance(model, ConvNeXt):
        return patch_nets.convnext(model, image_shape)
    return patch_nets.vit(model, image_shape)
