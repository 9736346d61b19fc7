"""Training losses, averaged over the samples of a batch."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ncpipe.study.spec import LossSpec


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
