"""Training losses, averaged over the samples of a batch."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from ncpipe.study.spec import LossSpec, NetworkSpec


def mean_loss(spec: LossSpec, logits: Tensor, labels: Tensor) -> Tensor:
    """Loss of logits z (N, K) and labels (N,) without penalties, a scalar.

    ``mse`` with scaling ``half``: 1/(2N) sum |z - y|^2 over one-hot y, the convention of the UFM papers;
    with scaling ``mean``: 1/(NK) sum |z - y|^2, ``torch.nn.MSELoss``. ``ce``: cross-entropy, 1/N sum.
    """
    if spec.name == "ce":
        return F.cross_entropy(logits, labels)
    one_hot = F.one_hot(labels, logits.shape[1]).to(logits)
    squared = (logits - one_hot).square().sum() / len(logits)
    return squared / 2 if spec.scaling == "half" else squared / logits.shape[1]


def loss_slopes(spec: LossSpec, logits: Tensor, labels: Tensor) -> Tensor:
    """dl/dz of each sample's loss, (N, K), of logits (N, K) and labels (N,): N times the gradient of the mean."""
    with torch.enable_grad():
        at = logits.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(mean_loss(spec, at, labels) * len(labels), at)
    return slopes


def classifier_decay(spec: NetworkSpec) -> float | None:
    """lambda where training minimises its mean loss + lambda/2 |W|^2 in the classifier's weight, in the loss's own
    scaling; None where it does not: no decay, decoupled decay, a frozen head. Every group of ``decay`` has it."""
    optimizer = spec.optimizer
    if optimizer.weight_decay == 0 or optimizer.name == "adamw" or spec.head.fixed_etf:
        return None
    return optimizer.weight_decay


def classifier_stationarity(gradient: Tensor, weight: Tensor, decay: float) -> float | None:
    """|G + lambda W|_F / (lambda |W|_F) of the gradient G = (1/N) sum_i dl/dz_i h_i^T (K, d) of the mean loss in the
    weight W (K, d): 0 where W is stationary under its decay lambda. None where W is zero or not all is finite."""
    residual = float((gradient + decay * weight).norm() / (decay * weight.norm()))
    return residual if math.isfinite(residual) else None


def squared_error_penalties(spec: NetworkSpec, num_classes: int) -> tuple[float, float] | None:
    """Penalties of the classifier and of its bias beside the half squared error, for ``least_squares_split``.

    ``torch.nn.MSELoss`` is 2/K times the half squared error, so that its weight decay wd counts as K wd/2. None where
    training minimises no penalised squared error in the classifier: another loss, decoupled decay, a frozen head.
    """
    optimizer = spec.optimizer
    if spec.loss.name != "mse" or optimizer.name == "adamw" or spec.head.fixed_etf:
        return None
    factor = 1.0 if spec.loss.scaling == "half" else num_classes / 2
    return optimizer.weight_decay * factor, optimizer.bias_decay * factor
