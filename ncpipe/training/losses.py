"""Training losses and right decisions, the penalty of the features, and what training minimises in the classifier."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ncpipe.networks.head_settings import HeadSpec
from ncpipe.training.settings import LossSpec, NetworkSpec


def mean_loss(spec: LossSpec, logits: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of all samples without penalties, a scalar; arguments as those of ``SampleLoss.sample_losses``."""
    return spec.sample_loss.sample_losses(logits, targets).mean()


def correct(logits: Tensor, targets: Tensor) -> Tensor:
    """Whether each sample is decided right, (...) bool, of logits (..., K) and labels (...) or tags (..., K).

    A label must have the largest logit (the first of equals); m tags must have the m largest, above all others.
    """
    if targets.ndim < logits.ndim:
        return logits.argmax(dim=-1) == targets
    is_tag = targets > 0
    lowest_tag = logits.masked_fill(~is_tag, math.inf).amin(dim=-1)
    return lowest_tag > logits.masked_fill(is_tag, -math.inf).amax(dim=-1)


def feature_penalty(head: HeadSpec, head_input: Tensor) -> Tensor:
    """feature_decay/2 times the mean of |h|^2 over the samples, (...), of the inputs h of the head (..., N, d)."""
    if head.feature_decay == 0:
        return head_input.new_zeros(head_input.shape[:-2])
    return head.feature_decay / 2 * head_input.square().sum(dim=-1).mean(dim=-1)


def loss_slopes(spec: LossSpec, logits: Tensor, targets: Tensor) -> Tensor:
    """dl/dz of each sample's loss, (..., K), of logits and targets as in ``mean_loss``."""
    with torch.enable_grad():
        at = logits.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(spec.sample_loss.sample_losses(at, targets).sum(), at)
    return slopes


def classifier_decay(spec: NetworkSpec) -> float | None:
    """lambda where training minimises its mean loss + lambda/2 |W|^2 in the classifier's weight, in the loss's own
    scaling; None where it does not: no decay, decoupled decay, a frozen or a normalised classifier. Every group of
    ``decay`` has it."""
    decay = spec.optimizer.classifier_decay
    return decay if decay > 0 and _penalises_classifier(spec) else None


def classifier_stationarity(gradient: Tensor, weight: Tensor, decay: float) -> float | None:
    """|G + lambda W|_F / (lambda |W|_F) of the gradient G = (1/N) sum_i dl/dz_i h_i^T (K, d) of the mean loss in the
    weight W (K, d): 0 where W is stationary under its decay lambda. None where W is zero or not all is finite."""
    residual = float((gradient + decay * weight).norm() / (decay * weight.norm()))
    return residual if math.isfinite(residual) else None


def squared_error_penalties(spec: NetworkSpec, num_classes: int) -> tuple[float, float] | None:
    """Penalties of the classifier and of its bias beside the half squared error, for ``least_squares_split``.

    ``torch.nn.MSELoss`` is 2/K times the half squared error, so that its weight decay wd counts as K wd/2. None where
    training minimises no penalised squared error in the classifier: another or a rescaled loss, decoupled decay, a
    frozen or a normalised classifier.
    """
    if (spec.loss.name, spec.loss.rescale) != ("mse", (1, 1)) or not _penalises_classifier(spec):
        return None
    factor = 1.0 if spec.loss.scaling == "half" else num_classes / 2
    return spec.optimizer.classifier_decay * factor, spec.optimizer.bias_decay * factor


def _penalises_classifier(spec: NetworkSpec) -> bool:
    """Whether weight decay is a penalty of the W that gives the logits."""
    return spec.optimizer.name != "adamw" and not spec.head.fixed_etf and spec.head.temperature is None
