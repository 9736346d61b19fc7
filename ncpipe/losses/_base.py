"""What a loss is, and functions of logits that keep the digits of small numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ncpipe.system.lazy import Tensor, torch


def parameter(default: Any, needs: str = "", fits: Callable[[Any], bool] = lambda value: True) -> Any:
    """A parameter of a loss: its value with other losses, and what it needs with this one, in words and checked."""
    return field(default=default, metadata={"needs": needs, "fits": fits})


@dataclass(frozen=True)
class SampleLoss:
    """A loss of one sample in its logits, without penalties."""

    names: ClassVar[tuple[str, ...]] = ()
    """Names of the loss and of its variants."""
    multi_label: ClassVar[bool] = False
    """Whether samples have several labels, tags."""
    closed_form: ClassVar[str] = ""
    """Which of the optima in ``ncpipe.ufm.closed_form`` the model with this loss has; empty: none is derived."""

    name: str = ""
    """Which of ``names`` it is; by default the first, or without any the name of the class."""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", (*self.names, type(self).__name__)[0])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss (B, M) of logits (B, K, M) and zero-one targets (K, M), to all digits where it is small."""
        raise NotImplementedError

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        """Write the derivative of ``loss`` in the logits, (B, K, M), to all digits where it is small.

        By default that of automatic differentiation, which is as exact as ``loss`` is written.
        """
        # Solvers may be in inference mode, whose tensors autograd does not take.
        with torch.inference_mode(False), torch.enable_grad():
            at = logits.clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.loss(at, targets.clone()).sum(), at)
        out.copy_(slope)

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Loss (...) of a network's logits (..., K) and labels (...) int64, or tags (..., K) of zeros and ones.

        A loss overrides this where another form than ``loss`` serves autograd and float32 better.
        """
        tags = targets if self.multi_label else one_hot(targets, logits)
        rows = (part.reshape(-1, logits.shape[-1]).T for part in (logits, tags.to(logits.dtype)))
        columns, wanted = rows
        return self.loss(columns[None], wanted)[0].reshape(logits.shape[:-1])

    def reads_differences(self, classes: int) -> bool:
        """Whether only differences of logits matter, as with softmax: the derivative sums to 0."""
        logits = torch.from_numpy(np.random.default_rng(0).standard_normal((1, classes, classes)))
        slope = torch.empty_like(logits)
        self.residual(logits, torch.eye(classes, dtype=torch.float64), out=slope)
        return bool(slope.sum(dim=1).abs().max() <= 1e-12 * classes)


def one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Which entry of logits (..., K) is that of the label (...), bool."""
    # torch's one_hot asks for the labels' range, which vmap cannot answer
    return labels.unsqueeze(-1) == torch.arange(logits.shape[-1], device=labels.device)


def excess(logits: Tensor, targets: Tensor) -> Tensor:
    """u = log sum_{j != y} exp(z_j) - z_y, (B, K, M) -> (B, M): the log odds against the label."""
    others = logits.masked_fill(targets > 0, -torch.inf).logsumexp(dim=1)
    return others - (logits * targets).sum(dim=1)


# The next three exist in torch, whose own differ in the last bit between places in a buffer.


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(u)), also of small exp(u) to all digits."""
    return values.clamp_min(0) + torch.log1p(torch.exp(-values.abs()))


def sigmoid(values: Tensor) -> Tensor:
    """1 / (1 + exp(-u)), also where it is small to all digits."""
    small = torch.exp(-values.abs())
    return torch.where(values > 0, 1, small) / (1 + small)


def power(values: Tensor, exponent: float) -> Tensor:
    """values^exponent of values >= 0."""
    return torch.exp(exponent * torch.log(values))
