"""From the settings of a network to the network, its initial weights decided by the seed alone."""

from __future__ import annotations

import torch

from ncpipe.networks.convnet import convnet
from ncpipe.networks.head import build_head, with_projection
from ncpipe.networks.mlp import mlp
from ncpipe.networks.network import Backbone, Network
from ncpipe.study.spec import Convnet, HeadSpec, Mlp, ModelSpec, ResNet, Vgg


def build_network(
    model: ModelSpec, head: HeadSpec, image_shape: tuple[int, int, int], num_classes: int, seed: int
) -> Network:
    """Build the network on the CPU, in float32 and training mode.

    Args:
        model: the architecture; ``model.layers()`` become the network's ``layer_names``.
        head: the classifier and the optional projection before it.
        image_shape: channels, height and width (C, H, W) of the images.
        num_classes: number of classes, K.
        seed: decides all initial weights; torch's global generators are left as they were.

    Raises:
        UserError: the images are too small for the model, or the features too few for a fixed ETF.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        backbone = with_projection(_backbone(model, image_shape), head, num_classes)
        return Network(backbone.stages, build_head(head, backbone.width, num_classes))


def _backbone(model: ModelSpec, image_shape: tuple[int, int, int]) -> Backbone:
    if isinstance(model, Mlp):
        return mlp(model, image_shape)
    if isinstance(model, Convnet):
        return convnet(model, image_shape)
    from ncpipe.networks import vision_nets  # imports torchvision, which takes seconds

    if isinstance(model, ResNet):
        return vision_nets.resnet(model, image_shape)
    if isinstance(model, Vgg):
        return vision_nets.vgg(model, image_shape)
    return vision_nets.densenet(model, image_shape)
