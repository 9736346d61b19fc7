"""Pieces that several architectures share."""

from __future__ import annotations

from typing import Literal

from torch import nn


def conv3x3(channels: int, width: int, *, stride: int = 1, batch_norm: bool = True) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU; the convolution has a bias only where no BatchNorm follows."""
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, stride, padding=1, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm2d(width))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def linear(inputs: int, width: int, *, batch_norm: bool = True) -> nn.Sequential:
    """Linear map, BatchNorm, ReLU; the linear map has a bias only where no BatchNorm follows."""
    layers: list[nn.Module] = [nn.Linear(inputs, width, bias=not batch_norm)]
    if batch_norm:
        layers.append(nn.BatchNorm1d(width))
    return nn.Sequential(*layers, nn.ReLU(inplace=True))


def average_pool() -> nn.Sequential:
    """Mean over the positions of a map: (N, c, h, w) to (N, c)."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


def kaiming_init(module: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """He's normal initialisation of every convolution and linear map inside, with zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
