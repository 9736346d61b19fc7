"""Cross entropy with smoothed labels."""

from __future__ import annotations

from dataclasses import dataclass

from ncpipe.losses._base import SampleLoss, Tensor, excess, parameter, softplus, torch


@dataclass(frozen=True)
class Loss(SampleLoss):
    """-(1 - alpha) log p_y - alpha/K sum_j log p_j: cross entropy of targets (1 - alpha) e_y + alpha/K."""

    names = ("label_smoothing",)
    closed_form = "cross_entropy"

    smoothing: float = parameter(0.0, "in (0, 1)", lambda smoothing: 0 < smoothing < 1)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        # beside the cross entropy, the mean over j of z_y - z_j
        labelled = (logits * targets).sum(dim=1)
        return softplus(excess(logits, targets)) + self.smoothing * (labelled - logits.mean(dim=1))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.softmax(logits, dim=1, out=out)
        out.sub_(targets, alpha=1 - self.smoothing).sub_(self.smoothing / logits.shape[1])

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        log_p = logits.log_softmax(dim=-1)
        entropy = -log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        return (1 - self.smoothing) * entropy - self.smoothing * log_p.mean(dim=-1)
