"""Training losses, averaged over the samples of a batch."""

from __future__ import annotations

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
