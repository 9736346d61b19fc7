"""Focal loss, a cross entropy that weighs samples by what their label still lacks."""

from __future__ import annotations

from dataclasses import dataclass

from ncpipe.losses._base import SampleLoss, Tensor, excess, parameter, power, sigmoid, softplus, torch


@dataclass(frozen=True)
class Loss(SampleLoss):
    """-(1 - p_y)^gamma log p_y = s(u)^gamma softplus(u), u = log sum_{j != y} exp(z_j) - z_y, s the sigmoid."""

    names = ("focal",)
    closed_form = "focal"

    gamma: float = parameter(0.0, "> 0", lambda gamma: gamma > 0)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        u = excess(logits, targets)
        return power(sigmoid(u), self.gamma) * softplus(u)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        u = excess(logits, targets)
        others = sigmoid(u)
        focus = power(others, self.gamma)
        slope = self.gamma * focus * sigmoid(-u) * softplus(u) + focus * others
        torch.softmax(logits.masked_fill(targets > 0, -torch.inf), dim=1, out=out)
        out.sub_(targets).mul_(slope[:, None])

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        entropy = -logits.log_softmax(dim=-1).gather(-1, targets.unsqueeze(-1)).squeeze(-1)
        # 1 - p_y of a sample without loss is kept above zero, where a power below one has no derivative.
        return (-torch.expm1(-entropy)).clamp_min(torch.finfo(entropy.dtype).tiny) ** self.gamma * entropy
