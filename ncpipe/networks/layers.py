"""Pieces that several architectures share."""

from __future__ import annotations

from typing import Literal

import torch
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


def stem(channels: int, width: int, *, published: bool) -> nn.Sequential:
    """3x3 convolution of stride 1, or the published 7x7 of stride 2 followed by pooling, which quarters the side."""
    if not published:
        return conv3x3(channels, width)
    convolution = nn.Conv2d(channels, width, 7, stride=2, padding=3, bias=False)
    after = nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
    return nn.Sequential(convolution, *after)


class PositionMean(nn.Module):
    """Mean over the positions of a map; ``vmap`` has a rule for it, unlike for torch's pooling."""

    def forward(self, maps: Tensor) -> Tensor:
        """(N, c, h, w) to (N, c)."""
        return maps.mean(dim=(2, 3))


class Residual(nn.Module):
    """x + f(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs + self.branch(inputs)


class Embedding(nn.Module):
    """A random linear map of vectors (N, inputs) to (N, width) that is not trained: its rows, or its columns if these
    are fewer, are orthonormal."""

    matrix: Tensor

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.register_buffer("matrix", nn.init.orthogonal_(torch.empty(width, inputs)))

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors @ self.matrix.T


class Tokens(nn.Module):
    """Images (N, C, H, W) to tokens (N, 1 + patches, width): the class token and the patches, with positions."""

    def __init__(self, convolution: nn.Module, class_token: nn.Parameter, positions: nn.Parameter) -> None:
        super().__init__()
        self.convolution, self.class_token, self.positions = convolution, class_token, positions

    def forward(self, images: Tensor) -> Tensor:
        patches = self.convolution(images).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1) + self.positions


class ClassToken(nn.Module):
    """Tokens (N, t, d) to the class token, the first: (N, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens[:, 0]


def kaiming_init(
    module: nn.Module,
    mode: Literal["fan_in", "fan_out"] = "fan_out",
    nonlinearity: Literal["relu", "linear"] = "relu",
) -> None:
    """He's normal initialisation of every convolution and linear map inside, with zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity=nonlinearity)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def first_and_only_matrix(module: nn.Module) -> Tensor | None:
    """A copy of the matrix with which a module begins, unless it has others."""
    first = next((part for part in module.modules() if not list(part.children())), None)
    if not isinstance(first, nn.Linear | nn.Conv2d) or sum(p.ndim > 1 for p in module.parameters()) > 1:
        return None
    weight = first.weight.detach().clone()
    if isinstance(first, nn.Linear):
        return weight
    return weight.sum(dim=(2, 3)) if first.groups == 1 else None


def require_side(name: str, image_shape: tuple[int, ...], least: int) -> None:
    """``UserError`` for images (C, H, W) of which a side is below ``least``, the smallest that the model reads."""
    _, height, width = image_shape
    if min(height, width) < least:
        raise UserError(
            f"{name} needs images of at least {least}x{least}, got {height}x{width}: "
            "take larger images or another model"
        )
