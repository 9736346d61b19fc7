"""Cross entropy of the softmax."""

from __future__ import annotations

from ncpipe.losses._base import SampleLoss, Tensor, excess, sigmoid, softplus, torch


class Loss(SampleLoss):
    """-log p_y = log sum_j exp(z_j) - z_y, as log(1 + sum_{j != y} exp(z_j - z_y)), which keeps the digits of a small
    loss."""

    names = ("ce",)
    closed_form = "cross_entropy"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softplus(excess(logits, targets))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        # softmax of the others times their sum keeps the digits of a small derivative, which p_y - 1 loses
        torch.softmax(logits.masked_fill(targets > 0, -torch.inf), dim=1, out=out)
        out.sub_(targets).mul_(sigmoid(excess(logits, targets))[:, None])

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        return -logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
