"""The linear classifier, trained or frozen at a simplex equiangular tight frame (ETF)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ncpipe.errors import UserError
from ncpipe.networks.layers import kaiming_init, linear
from ncpipe.networks.network import Backbone
from ncpipe.study.spec import HeadSpec


def simplex_etf(num_classes: int, dim: int) -> Tensor:
    """Simplex ETF in a random orientation, from torch's current generator.

    Returns (K, d) float64: unit-norm rows that sum to zero, with inner products -1/(K-1) between any two.
    Raises ``UserError`` if d < K-1, where there is none.
    """
    if num_classes < 2 or dim < num_classes - 1:
        raise UserError(
            f"a simplex ETF of {num_classes} classes needs 2 classes and {num_classes - 1} features or more, "
            f"got {dim} features: widen the model or set head.feature_dim"
        )
    ones, identity = torch.ones(num_classes, 1).double(), torch.eye(num_classes).double()
    # Orthonormal basis of the vectors orthogonal to ones; its rows have squared norm 1 - 1/K.
    centred = torch.linalg.qr(torch.cat([ones, identity[:, 1:]], dim=1)).Q[:, 1:]
    directions = torch.linalg.qr(torch.randn(dim, num_classes - 1, dtype=torch.float64)).Q
    return (num_classes / (num_classes - 1)) ** 0.5 * centred @ directions.T


def build_head(head: HeadSpec, dim: int, num_classes: int) -> nn.Linear:
    """Linear classifier (d to K) with torch's default initialisation; a fixed ETF takes no gradient."""
    layer = nn.Linear(dim, num_classes, bias=head.bias)
    if head.fixed_etf:
        layer.weight.requires_grad_(False).copy_(simplex_etf(num_classes, dim))
    return layer


def with_projection(backbone: Backbone, head: HeadSpec, num_classes: int) -> Backbone:
    """The backbone whose 'features' are projected to ``head.feature_dim``, where that is set."""
    if head.feature_dim is None:
        return backbone
    width = num_classes if head.feature_dim == "classes" else head.feature_dim
    projection = linear(backbone.width, width)
    kaiming_init(projection, "fan_in")
    last = nn.Sequential(backbone.stages["features"], projection)
    return Backbone({**backbone.stages, "features": last}, width)
