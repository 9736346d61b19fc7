"""Contract of every registered loss, and a loss that is added as a file."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from logits import K, logits_and_targets
from plugins import install
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.losses import LOSSES, SampleLoss, loss_mistakes, loss_of, multi_label
from ncpipe.training.losses import classifier_stationarity, loss_slopes, mean_loss
from ncpipe.training.settings import LossSpec
from ncpipe.ufm import NoClosedForm, Problem, fit
from ncpipe.ufm.minimiser import centred_fit
from ncpipe.ufm.settings import UfmSpec

NEEDED: dict[str, dict[str, Any]] = {"label_smoothing": {"smoothing": 0.2}, "focal": {"gamma": 3.0}}
VARIANTS: list[dict[str, Any]] = [
    {"name": "mse", "scaling": "mean"},
    {"name": "mse", "rescale": (3, 0.3)},
    {"name": "mse", "rescale": (1, 0.3), "scaling": "mean"},
    {"name": "focal", "gamma": 0.5},
]
SPECS = [LossSpec(**given) for given in [*({"name": name} | NEEDED.get(name, {}) for name in LOSSES), *VARIANTS]]
every_loss = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: str(spec.model_dump(exclude_defaults=True)))


def in_columns(spec: LossSpec) -> tuple[Tensor, Tensor]:
    """The same as a model of features has them: logits (1, K, 12) and zero-one targets (K, 12)."""
    logits, targets = logits_and_targets(spec)
    tags = F.one_hot(targets, K).double() if targets.ndim == 1 else targets.double()
    return logits.T[None], tags.T


@every_loss
def test_the_derivative_is_that_of_autograd(spec: LossSpec) -> None:
    logits, targets = in_columns(spec)
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(spec.sample_loss.loss(logits, targets).sum(), logits)
    slopes = torch.empty_like(logits)
    spec.sample_loss.residual(logits.detach(), targets, slopes)
    torch.testing.assert_close(slopes, expected, rtol=1e-12, atol=1e-14)


@every_loss
def test_networks_have_the_loss_of_the_models(spec: LossSpec) -> None:
    logits, targets = logits_and_targets(spec)
    columns, tags = in_columns(spec)
    factor = 2 / K if spec.scaling == "mean" else 1.0
    expected = factor * spec.sample_loss.loss(columns, tags)[0]
    torch.testing.assert_close(spec.sample_loss.sample_losses(logits, targets), expected, rtol=1e-12, atol=0)
    usual = SampleLoss.sample_losses(spec.sample_loss, logits, targets)
    torch.testing.assert_close(factor * usual, expected, rtol=1e-12, atol=0)
    slopes = torch.empty_like(columns)
    spec.sample_loss.residual(columns, tags, slopes)
    torch.testing.assert_close(loss_slopes(spec, logits, targets), factor * slopes[0].T, rtol=1e-12, atol=1e-14)


@every_loss
def test_losses_have_any_leading_dimensions(spec: LossSpec) -> None:
    logits, targets = logits_and_targets(spec)
    whole = spec.sample_loss.sample_losses(logits, targets)
    assert whole.shape == (12,)
    folded = spec.sample_loss.sample_losses(logits.unflatten(0, (3, 4)), targets.unflatten(0, (3, 4)))
    torch.testing.assert_close(folded, whole.unflatten(0, (3, 4)))
    torch.testing.assert_close(torch.vmap(lambda z, y: spec.sample_loss.sample_losses(z, y))(logits, targets), whole)
    torch.testing.assert_close(mean_loss(spec, logits, targets), whole.mean())


@every_loss
def test_slopes_of_a_sample_without_loss_are_finite(spec: LossSpec) -> None:
    logits, targets = torch.tensor([[200.0, 0, 0, 0], [0, 0, 0, 200.0]]), torch.tensor([0, 0])
    targets = F.one_hot(targets, K).float() if spec.sample_loss.multi_label else targets
    assert loss_slopes(spec, logits, targets).isfinite().all()


@every_loss
def test_stationarity_of_the_classifier_is_the_gradient_of_the_penalised_loss(spec: LossSpec) -> None:
    torch.manual_seed(0)
    _, targets = logits_and_targets(spec)
    features = torch.randn(12, 3, dtype=torch.float64)
    weight = torch.randn(K, 3, dtype=torch.float64, requires_grad=True)
    bias, decay = torch.randn(K, dtype=torch.float64), 0.1

    def penalised() -> torch.Tensor:
        return mean_loss(spec, features @ weight.T + bias, targets) + decay / 2 * weight.square().sum()

    def residual() -> float:
        slopes = loss_slopes(spec, features @ weight.detach().T + bias, targets)
        found = classifier_stationarity(slopes.T @ features / 12, weight.detach(), decay)
        assert found is not None
        return found

    (gradient,) = torch.autograd.grad(penalised(), weight)
    assert residual() == pytest.approx(float(gradient.norm() / (decay * weight.detach().norm())), rel=1e-12)
    assert residual() > 0.1
    solver = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure() -> torch.Tensor:
        solver.zero_grad()
        value = penalised()
        value.backward()
        return value

    solver.step(closure)
    assert residual() < 1e-6


@pytest.mark.parametrize("name", LOSSES)
def test_a_fit_reaches_the_closed_form_or_there_is_none(name: str) -> None:
    samples = {1: 3, 2: 1} if name in multi_label() else 3
    problem = Problem(4, samples, 5, name, weight_decay=5e-3, feature_decay=5e-3, **NEEDED.get(name, {}))
    result = fit(problem, starts=2)
    assert result.dead_directions == 0
    assert centred_fit(problem) == problem.sample_loss.reads_differences(4)
    if problem.sample_loss.closed_form:
        assert result.value == pytest.approx(problem.optimum().value, rel=1e-8)
    else:
        with pytest.raises(NoClosedForm, match=f"loss '{name}': no closed form derived"):
            problem.optimum()


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_says_what_its_parameters_need(name: str) -> None:
    usual = {"smoothing": 0.0, "gamma": 0.0, "rescale": (1.0, 1.0), "scaling": "half"}
    assert not [*loss_mistakes(name, usual | NEEDED.get(name, {}))]
    changed = {"smoothing": 0.3, "gamma": 1.5, "rescale": (2.0, 1.0), "scaling": "mean"}
    allowed = {field for field in changed if hasattr(loss_of(name, object()), field)}
    mistakes = [*loss_mistakes(name, changed)]
    assert {mistake.partition(":")[0] for mistake in mistakes} == set(changed) - allowed
    for needed in NEEDED.get(name, {}):
        (mistake,) = loss_mistakes(name, usual)
        assert mistake.startswith(f"{needed}: got 0.0 with loss '{name}'; it is ")


def test_every_parameter_of_a_loss_is_a_setting_with_its_default() -> None:
    parameters = {field.name: field.default for loss in LOSSES.values() for field in fields(loss)}
    parameters.pop("name")
    for settings in (LossSpec, UfmSpec):
        defaults = {name: field.default for name, field in settings.model_fields.items()}
        expected = parameters if settings is LossSpec else {n: v for n, v in parameters.items() if n != "scaling"}
        assert expected.items() <= defaults.items()
    assert LossSpec.model_fields.keys() == {"name", *parameters}


NEW = '''
"""One logistic loss a class."""
import torch
from ncpipe.losses import SampleLoss, sigmoid, softplus

class Loss(SampleLoss):
    """sum_j log(1 + exp(-s_j z_j)), s_j = 1 of the label, else -1."""

    names = ("one_against_all",)

    def loss(self, logits, targets):
        return softplus((1 - 2 * targets) * logits).sum(dim=1)

    def residual(self, logits, targets, out):
        sign = 1 - 2 * targets
        out.copy_(sign * sigmoid(sign * logits))
'''


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(LOSSES, "one_against_all", NEW, tmp_path / "package", monkeypatch, ":Loss")


def test_a_loss_of_another_package_works_everywhere(added: None) -> None:
    problem = Problem(3, 4, 5, "one_against_all", weight_decay=5e-3, feature_decay=5e-3)
    result = fit(problem, starts=2)
    assert result.optimum is None
    assert result.message.startswith(f"objective {result.value:.10g}, no closed form to compare with; ")
    arguments = ["--classes", "3", "--samples", "4", "--dim", "5", "--starts", "2", "--loss", "one_against_all"]
    arguments += ["--weight-decay", "5e-3", "--feature-decay", "5e-3", "--json"]
    printed = json.loads(CliRunner().invoke(app, ["ufm", *arguments], catch_exceptions=False).stdout)
    assert printed["fit"]["value"] == result.value
    spec = UfmSpec(classes=3, samples=4, dim=5, loss="one_against_all", solver={"name": "lbfgs"})
    assert spec.slug == "plain-one-against-all-nobias-lbfgs-s0"
    network = LossSpec(name="one_against_all")
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6) % 3
    signs = 2 * F.one_hot(labels, 3) - 1
    torch.testing.assert_close(
        network.sample_loss.sample_losses(logits, labels), F.softplus(-signs * logits).sum(dim=1)
    )
    assert loss_slopes(network, logits, labels).shape == (6, 3)


@pytest.mark.parametrize("name", ["one_against_all", "Mse", 3, None])
def test_an_unknown_loss_is_refused_by_its_name(name: Any) -> None:
    with pytest.raises(ValidationError, match=r"Input should be .*'mse'"):
        LossSpec(name=name)
    with pytest.raises(ValueError, match=r"loss: got .*; needs one of"):
        Problem(3, 4, 5, name)
