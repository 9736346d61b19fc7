"""Fully connected ReLU network on flattened images."""

from __future__ import annotations

from math import prod

from torch import nn

from ncpipe.networks.layers import kaiming_init, linear
from ncpipe.networks.network import Backbone
from ncpipe.networks.settings import Mlp


def mlp(model: Mlp, image_shape: tuple[int, int, int]) -> Backbone:
    """``model.depth`` hidden layers of ``model.width`` units; all features are vectors (N, width)."""
    stages: dict[str, nn.Module] = {}
    inputs = prod(image_shape)
    for name in model.layers():
        if model.batch_norm == "all_but_last" and name == "features":
            stages[name] = nn.Sequential(nn.Linear(inputs, model.width, bias=False), nn.ReLU(inplace=True))
        else:
            stages[name] = linear(inputs, model.width, batch_norm=bool(model.batch_norm))
        kaiming_init(stages[name], "fan_in")
        inputs = model.width
    first = next(iter(stages))
    stages[first] = nn.Sequential(nn.Flatten(), stages[first])
    return Backbone(stages, model.width)
