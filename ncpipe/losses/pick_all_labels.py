"""Cross entropy of samples with several labels."""

from __future__ import annotations

from ncpipe.losses._base import SampleLoss, Tensor, sigmoid, softplus, torch


class Loss(SampleLoss):
    """-sum_{k in S} log p_k over the tags S of a sample, or the same over |S|, if normalised (Li et al. 2024).

    With the m tags' t = logsumexp(tags) and u = logsumexp(others) - t, their mean is t - mean(tags) + softplus(u).
    """

    names = ("pick_all_labels", "pick_all_labels_normalized")
    multi_label = True
    closed_form = "pick_all_labels"

    @property
    def normalised(self) -> bool:
        """Whether it is the mean over the tags, not their sum."""
        return self.name == "pick_all_labels_normalized"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        tags, others = self._sides(logits, targets)
        size = targets.sum(dim=0)
        mean = (logits * targets).sum(dim=1) / size
        entropy = tags.logsumexp(dim=1) - mean + softplus(others.logsumexp(dim=1) - tags.logsumexp(dim=1))
        return entropy if self.normalised else entropy * size

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        tags, others = self._sides(logits, targets)
        size = targets.sum(dim=0)
        lost = sigmoid(others.logsumexp(dim=1) - tags.logsumexp(dim=1))[:, None]
        among_tags = torch.softmax(tags, dim=1)
        torch.softmax(others, dim=1, out=out)
        out.mul_(lost).add_(among_tags - targets / size).sub_(lost * among_tags)
        if not self.normalised:
            out.mul_(size)

    def sample_losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        losses = -(targets * logits.log_softmax(dim=-1)).sum(dim=-1)
        return losses / targets.sum(dim=-1) if self.normalised else losses

    @staticmethod
    def _sides(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the tags and of the others, the rest at -inf."""
        tagged = targets > 0
        return logits.masked_fill(~tagged, -torch.inf), logits.masked_fill(tagged, -torch.inf)
