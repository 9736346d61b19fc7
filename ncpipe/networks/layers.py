"""Pieces that several architectures share."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ncpipe.system.errors import UserError


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


class PositionMean(nn.Module):
    """Mean over the positions of a map; ``vmap`` has a rule for it, unlike for torch's pooling."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N, c, h, w) to (N, c)."""
        return maps.mean(dim=(2, 3))


def kaiming_init(module: nn.Module, mode: Literal["fan_in", "fan_out"] = "fan_out") -> None:
    """He's normal initialisation of every convolution and linear map inside, with zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def require_side(name: str, image_shape: tuple[int, int, int], least: int) -> None:
    """``UserError`` for images (C, H, W) of which a side is below ``least``, the smallest that the model reads."""
    _, height, width = image_shape
    if min(height, width) < least:
        raise UserError(
            f"{name} needs images of at least {least}x{least}, got {height}x{width}: "
            "take larger images or another model"
        )
