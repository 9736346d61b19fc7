"""Losses of a user's own, given as an object or made of a function: derivatives, fits and mistakes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from plugins import install
from torch import Tensor
from torch.nn import functional as F

from ncpipe.losses import LOSSES, SampleLoss, from_function, loss_of, sigmoid, softplus
from ncpipe.losses.cross_entropy import Loss as CrossEntropy
from ncpipe.training.losses import loss_slopes
from ncpipe.training.settings import LossSpec
from ncpipe.ufm import NoClosedForm, Problem, fit
from ncpipe.ufm.objective import Objective

DECAYS = {"weight_decay": 5e-3, "feature_decay": 5e-3}


@dataclass(frozen=True)
class Margin(SampleLoss):
    """log(1 + exp(u + m)), u the log odds against the label: the derivative by hand."""

    margin: float = 0.5

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softplus(self._odds(logits, targets))

    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        torch.softmax(logits.masked_fill(targets > 0, -torch.inf), dim=1, out=out)
        out.sub_(targets).mul_(sigmoid(self._odds(logits, targets))[:, None])

    def _odds(self, logits: Tensor, targets: Tensor) -> Tensor:
        own = (logits * targets).sum(dim=1)
        return logits.masked_fill(targets > 0, -torch.inf).logsumexp(dim=1) - own + self.margin


class MarginByAutograd(Margin):
    residual = SampleLoss.residual


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits - 0.5 * F.one_hot(labels, logits.shape[1]), labels, reduction="none")


OWN = {"class": MarginByAutograd(), "function": from_function(margin)()}
both = pytest.mark.parametrize("own", OWN.values(), ids=OWN)


@both
def test_the_derivative_of_autograd_is_that_by_hand_in_batches_of_problems(own: SampleLoss) -> None:
    problems = [
        Problem(4, 3, 5, loss, bias="free", **DECAYS | {"weight_decay": decay})
        for loss in (own, Margin())
        for decay in (1e-3, 2e-3, 4e-3)
    ]
    found = []
    for three in (problems[:3], problems[3:]):
        objective = Objective.of(three)
        draw = torch.randn(objective.parameters.shape, generator=torch.Generator().manual_seed(0)).double()
        with torch.inference_mode():  # as gradient descent calls it
            found.append([part.clone() for part in objective.evaluate(draw)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)


@both
@pytest.mark.parametrize(
    ("solver", "options"),
    [("lbfgs", {"starts": 2}), ("gradient_descent", {"steps": 1000, "init_scale": 0.3})],
)
def test_every_solver_fits_it_as_the_one_by_hand(own: SampleLoss, solver: str, options: dict[str, Any]) -> None:
    problem = Problem(4, 3, 5, own, **DECAYS)
    result, by_hand = (fit(p, solver=solver, **options) for p in (problem, replace(problem, loss=Margin())))
    assert result.value == pytest.approx(by_hand.value, rel=1e-10)
    assert result.optimum is None
    assert "no closed form to compare with" in result.message
    assert result.trace().scalars[result.trace().times[-1], "train"]["loss"] > 0
    with pytest.raises(NoClosedForm, match=f"loss '{own.name}': no closed form derived"):
        problem.optimum()


def test_an_object_is_told_by_its_name_and_keeps_its_parameters() -> None:
    assert Margin().name == "Margin"
    assert Problem(3, 4, 5, Margin(margin=1.0)) == Problem(3, 4, 5, Margin(margin=1.0)) != Problem(3, 4, 5, Margin())
    assert Problem(3, 4, 5, Margin).sample_loss == Margin()
    with pytest.raises(ValueError, match=r"temperature: got 1.0 with loss 'Margin'; it goes with 'ce'"):
        Problem(3, 4, 5, Margin(), temperature=1.0)


class Tags(SampleLoss):
    multi_label = True

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return softplus((1 - 2 * targets) * logits).sum(dim=1)


def test_it_may_have_several_labels() -> None:
    result = fit(Problem(4, {1: 3, 2: 1}, 5, Tags(), **DECAYS), starts=1)
    assert result.converged
    with pytest.raises(ValueError, match="samples: got 3 with loss 'Tags'; needs a mapping"):
        Problem(4, 3, 5, Tags(), **DECAYS)


# --- mistakes --------------------------------------------------------------------------------------


class WrongSlope(Margin):
    def residual(self, logits: Tensor, targets: Tensor, out: Tensor) -> None:
        super().residual(logits, targets, out)
        out.mul_(1.01)


class Inherited(CrossEntropy):
    names = ()


WRONG = [
    (WrongSlope(), "'WrongSlope' has a residual that differs from the derivative of its loss, by 0.0"),
    (
        from_function(lambda z, y: F.cross_entropy(z, y), "mean"),
        "'mean' gave shape .* one loss a sample, .8,., as",
    ),
    (from_function(lambda z, y: margin(z.float(), y), "half"), "'half' gave float32 of shape"),
    (from_function(lambda z, y: margin(z - z.mean(), y) * z.std(), "mixed"), "'mixed' gives a sample another loss"),
    (from_function(lambda z, y: margin(z, y) / 0, "infinite"), "'infinite' is not finite"),
    (Inherited(), "'Inherited' has the closed form 'cross_entropy'"),
    (margin, "got <function margin .*; wrap a function as ncpipe.losses.from_function"),
    (
        from_function(lambda z, y: (z.argmax(1) != y).double(), "decided"),
        "'decided' fails for random logits .RuntimeError",
    ),
    (from_function(lambda z: z.sum(1), "blind"), "'blind' fails for random logits .TypeError"),
]


@pytest.mark.parametrize(("loss", "message"), WRONG)
def test_a_mistake_is_told_in_a_line(loss: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^loss: .*{message}") as told:
        Problem(4, 3, 5, loss, **DECAYS)
    assert "\n" not in str(told.value)


# --- by name ---------------------------------------------------------------------------------------

PLUGIN = """
from torch.nn import functional as F
from ncpipe.losses import from_function
Loss = from_function(lambda z, y: F.multi_margin_loss(z, y, p=2, reduction="none"), name="own_margin")
"""


def test_a_function_is_a_plugin(tmp_path, monkeypatch) -> None:
    install(LOSSES, "own_margin", PLUGIN, tmp_path / "package", monkeypatch, ":Loss")
    assert isinstance(loss_of("own_margin", object()), SampleLoss)
    assert fit(Problem(3, 4, 5, "own_margin", **DECAYS), starts=1).converged
    logits, labels = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(12).view(2, 6) % 3
    spec = LossSpec(name="own_margin")
    expected = F.multi_margin_loss(logits.view(12, 3), labels.view(12), p=2, reduction="none").view(2, 6)
    torch.testing.assert_close(spec.sample_loss.sample_losses(logits, labels), expected)
    assert loss_slopes(spec, logits[0], labels[0]).shape == (6, 3)
