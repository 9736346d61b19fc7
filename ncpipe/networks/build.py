"""From the settings of a network to the network, its initial weights decided by the seed alone."""

from __future__ import annotations

import torch
from torch import nn

from ncpipe.networks.architecture import Architecture, Shape
from ncpipe.networks.head import classifier, hidden_layers
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.networks.layers import kaiming_init, linear
from ncpipe.networks.network import Network
from ncpipe.system.errors import UserError


def build_network(model: Architecture, head: HeadSpec, image_shape: Shape, num_classes: int, seed: int) -> Network:
    """Build the network on the CPU, in float32 and training mode.

    Args:
        model: the architecture; ``model.layers()`` become the network's ``layer_names``, with hidden layers in the
            head as ``NetworkSpec.layers()`` has them.
        head: the classifier, and the optional projection and hidden layers before it.
        image_shape: channels, height and width (C, H, W) of the images, or the length (d,) of vectors.
        num_classes: number of classes, K.
        seed: decides all initial weights; torch's global generators are left as they were.

    Raises:
        UserError: the images do not fit the model, its stages are not those of ``model.layers()``, the features are
            too few for a fixed ETF, or timm is asked for and missing.
    """
    if len(image_shape) == 1 and not model.reads_vectors:
        raise UserError(f"model {model.name!r} reads images, not vectors of {image_shape[0]} features; take 'mlp'")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        backbone = model.build_for(image_shape, num_classes)
        stages, width = dict(backbone.stages), backbone.width
        if backbone.classifier is None and [*stages] != model.layers():
            raise UserError(
                f"model {model.name!r} builds the stages {[*stages]}, but names {model.layers()}: mend it"
            )
        if head.feature_dim is not None:
            inputs, width = width, num_classes if head.feature_dim == "classes" else head.feature_dim
            projection = linear(inputs, width)
            kaiming_init(projection, "fan_in")
            stages["features"] = nn.Sequential(stages["features"], projection)
        hidden = hidden_layers(head, width)
        if hidden:
            stages["head_input"] = stages.pop("features")
            width = head.hidden_width or width
        last = classifier(head, width, num_classes)
        is_plain = not hidden and head.feature_dim is None and head.temperature is None and not head.fixed_etf
        if backbone.classifier is not None and is_plain:
            _take_weights(model.label, last, backbone.classifier)
        return Network(stages, hidden, last)


def _take_weights(name: str, head: nn.Linear, own: nn.Module) -> None:
    """Give the head the initial weights of the classifier that the network came with."""
    if (getattr(own, "bias", None) is None) != (head.bias is None):
        has, remedy = ("no bias", "false") if head.bias is not None else ("a bias", "true")
        raise UserError(f"the classifier of {name} has {has}: set head.bias to {remedy}")
    with torch.no_grad():
        head.weight.copy_(own.weight)  # type: ignore[arg-type]
        if head.bias is not None:
            head.bias.copy_(own.bias)  # type: ignore[arg-type]
