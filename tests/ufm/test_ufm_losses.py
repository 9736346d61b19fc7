"""Losses that are added: fitted like the others, without a closed form until one is derived."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor

from ncpipe.losses import LOSSES, SampleLoss, sigmoid, softplus
from ncpipe.losses.cross_entropy import Loss as CrossEntropy
from ncpipe.ufm import NoClosedForm, Problem, fit
from ncpipe.ufm.minimiser import centred_fit

DECAYS = {"weight_decay": 5e-3, "feature_decay": 5e-3}


def problem_of(loss: str, **options) -> Problem:
    return Problem(**{"classes": 4, "samples": 3, "dim": 5, "loss": loss} | DECAYS | options)


class SquaredHinge(SampleLoss):
    """sum_{j != y} max(0, 1 + z_j - z_y)^2."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._excess(logits, targets).square().sum(dim=1)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        out.copy_(2 * self._excess(logits, targets))
        out.sub_(targets * out.sum(dim=1, keepdim=True))

    def _excess(self, logits: Tensor, targets: Tensor) -> Tensor:
        own = (logits * targets).sum(dim=1, keepdim=True)
        return (1 + logits - own).clamp_min(0) * (1 - targets)


class Hinge(SquaredHinge):
    """sum_{j != y} max(0, 1 + z_j - z_y)."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return self._excess(logits, targets).sum(dim=1)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        out.copy_((self._excess(logits, targets) > 0).double())
        out.sub_(targets * out.sum(dim=1, keepdim=True))


class OneAgainstAll(SampleLoss):
    """sum_j log(1 + exp(-s_j z_j)), s_j = 1 of the label, else -1."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softplus((1 - 2 * targets) * logits).sum(dim=1)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        sign = 1 - 2 * targets
        out.copy_(sign * sigmoid(sign * logits))


class Poly1(CrossEntropy):
    """-log p_y + (1 - p_y), a relative of focal (Leng et al. 2022)."""

    closed_form = ""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        entropy = super().loss(logits, targets)
        return entropy - torch.expm1(-entropy)

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        super().residual(logits, targets, out)
        out.mul_(1 + torch.exp(-super().loss(logits, targets))[:, None])


NEW = {"squared_hinge": SquaredHinge, "hinge": Hinge, "one_against_all": OneAgainstAll, "poly1": Poly1}
new_losses = pytest.mark.parametrize("loss", NEW)
MODELS = {
    "plain": {},
    "free bias": {"bias": "free"},
    "penalised bias": {"bias": 0.1},
    "extended": {"weight_decay": (2e-3, 3e-3)},
    "relu": {"weight_decay": (2e-3, 3e-3), "activation": "relu"},
    "frozen": {"classifier": "etf", "weight_decay": None},
    "imbalanced": {"samples": [6, 3, 3, 2]},
    "non-negative": {"nonnegative": True},
    "narrow": {"dim": 2},
}


@pytest.fixture(autouse=True)
def added(monkeypatch):
    for name, loss in NEW.items():
        place = EntryPoint(name, f"{__name__}:{loss.__name__}", "ncpipe.losses")
        monkeypatch.setitem(LOSSES._places, name, place)


@new_losses
@pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)
def test_a_loss_that_is_added_has_no_closed_form(loss, options):
    problem = problem_of(loss, **options)
    for closed in (problem.optimum, problem.construct):
        with pytest.raises(NoClosedForm, match=f"loss '{loss}': no closed form derived"):
            closed()


@new_losses
def test_a_fit_of_it_has_nothing_to_compare_with(loss):
    result = fit(problem_of(loss), starts=2, max_iterations=500)
    assert result.optimum is None
    assert result.gap is None
    assert not result.missed
    assert result.message.startswith(f"objective {result.value:.10g}, no closed form to compare with; ")
    assert result.dead_directions == 0


@new_losses
def test_whether_it_reads_differences_alone_is_seen(loss):
    problem = problem_of(loss)
    shifts = loss != "one_against_all"
    assert problem.sample_loss.reads_differences(4) == shifts
    assert centred_fit(problem) == shifts
    assert centred_fit(problem_of(loss, bias="free"))
