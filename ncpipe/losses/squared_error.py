"""Squared error on one-hot targets, with the true class weighted and its target moved if wished."""

from __future__ import annotations

from dataclasses import dataclass

from ncpipe.losses._base import SampleLoss, Tensor, one_hot, parameter, torch


@dataclass(frozen=True)
class Loss(SampleLoss):
    """1/2 [k (z_y - M)^2 + sum_{j != y} z_j^2] with ``rescale`` (k, M); k = M = 1 is 1/2 |z - e_y|^2, the convention
    of the UFM papers. With scaling ``mean`` a network has 2/K times that, as ``torch.nn.MSELoss``."""

    names = ("mse",)
    closed_form = "squared_error"

    rescale: tuple[float, float] = parameter((1.0, 1.0))
    scaling: str = parameter("half")

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        weight, target = self.rescale
        off = (logits - target * targets).square()
        if weight != 1:
            off.addcmul_(off, targets, value=weight - 1)
        return off.sum(dim=1) / 2

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        weight, target = self.rescale
        torch.sub(logits, targets, alpha=target, out=out)
        if weight != 1:
            out.addcmul_(out, targets, value=weight - 1)

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        is_true, (weight, target) = one_hot(targets, logits), self.rescale
        squared = (logits - target * is_true.to(logits.dtype)).square()
        if weight != 1:
            squared = torch.where(is_true, weight * squared, squared)
        return squared.sum(dim=-1) * (1 / logits.shape[-1] if self.scaling == "mean" else 1 / 2)
