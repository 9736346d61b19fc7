"""The head: perhaps hidden layers, and the linear classifier, free, frozen at a simplex ETF or on spheres."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncpipe.networks.head_settings import HeadSpec
from ncpipe.networks.layers import kaiming_init
from ncpipe.system.errors import UserError


class Classifier(nn.Linear):
    """Logits z = W h + b of features h (..., d); with a temperature tau, W = tau V / |V| by rows of the parameter V
    and h = u / |u| for what stands before the classifier, u (``reading``)."""

    def __init__(self, dim: int, num_classes: int, *, bias: bool, temperature: float | None) -> None:
        super().__init__(dim, num_classes, bias=bias)
        self.temperature = temperature

    def reading(self, inputs: Tensor) -> Tensor:
        """The features h that the classifier reads, of what stands before it: scaled to unit norm with a
        temperature, else as they are."""
        return inputs if self.temperature is None else F.normalize(inputs, dim=-1)

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """W (K, d) and b (K,) or None, such that the logits are W h + b of the features h."""
        if self.temperature is None:
            return self.weight, self.bias
        return self.temperature * F.normalize(self.weight, dim=-1), self.bias

    def forward(self, features: Tensor) -> Tensor:
        return F.linear(features, *self.effective())


def simplex_etf(num_classes: int, dim: int) -> Tensor:
    """Simplex ETF (K, d) float64: unit-norm rows that sum to zero, with inner products -1/(K-1) between any two.

    sqrt(K/(K-1)) (I - 11^T/K) beside zeros, as in the code of Zhu et al. 2021 and Li et al. 2024: class c stands on
    axis c, where features after a ReLU can follow, as they could not in a random orientation. In d = K-1 dimensions,
    in an orthonormal basis of what is orthogonal to 1. ``UserError`` if d < K-1, where there is none.
    """
    if num_classes < 2 or dim < num_classes - 1:
        raise UserError(
            f"a simplex ETF of {num_classes} classes needs 2 classes and {num_classes - 1} features or more, "
            f"got {dim} features: widen the model or set head.feature_dim"
        )
    frame = torch.eye(num_classes).double() - 1 / num_classes
    if dim < num_classes:
        frame = torch.linalg.qr(frame[:, 1:]).Q
    return (num_classes / (num_classes - 1)) ** 0.5 * F.pad(frame, (0, dim - frame.shape[1]))


def classifier(head: HeadSpec, dim: int, num_classes: int) -> Classifier:
    """Linear classifier (d to K) with torch's default initialisation; a fixed ETF takes no gradient."""
    layer = Classifier(dim, num_classes, bias=head.bias, temperature=head.temperature)
    if head.fixed_etf:
        layer.weight.requires_grad_(False).copy_(simplex_etf(num_classes, dim))
    return layer


def hidden_layers(head: HeadSpec, width: int) -> dict[str, nn.Module]:
    """Hidden layers of the head on ``width`` features, by layer name: linear map without bias, and perhaps ReLU."""
    names = [*(f"head{i}" for i in range(1, head.hidden)), "features"][: head.hidden]
    layers: dict[str, nn.Module] = {}
    for name in names:
        outputs = head.hidden_width or width
        after = [] if head.linear else [nn.ReLU(inplace=True)]
        layers[name] = nn.Sequential(nn.Linear(width, outputs, bias=False), *after)
        kaiming_init(layers[name], "fan_in", "linear" if head.linear else "relu")
        width = outputs
    return layers
