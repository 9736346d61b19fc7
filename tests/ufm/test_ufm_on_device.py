"""Unconstrained-features models on a stand-in accelerator: as on the CPU, with nothing mixed."""

from __future__ import annotations

import pytest
import torch
from stand_in import NAME, OnDevice, stand_in

from ncpipe.collapse import layer_statistics
from ncpipe.ufm import Problem, fit, perturb, snr
from ncpipe.ufm.matched import match_statistics

DEVICE = torch.device(NAME, 0)
PENALTIES = {"weight_decay": 5e-3, "feature_decay": 1e-3}
PROBLEMS = {
    "mse": Problem(3, samples=2, dim=4, **PENALTIES),
    "ce with bias": Problem(3, samples=2, dim=4, loss="ce", bias="free", **PENALTIES),
    "focal": Problem(3, samples=2, dim=4, loss="focal", gamma=2.0, **PENALTIES),
    "label smoothing": Problem(3, samples=2, dim=4, loss="label_smoothing", smoothing=0.1, **PENALTIES),
    "extended relu": Problem(3, samples=2, dim=4, weight_decay=(5e-3, 5e-3), feature_decay=1e-3, activation="relu"),
    "spheres": Problem(3, samples=2, dim=4, loss="ce", temperature=2.0),
    "several labels": Problem(3, samples={1: 2, 2: 1}, dim=4, loss="pick_all_labels", **PENALTIES),
    "non-negative": Problem(3, samples=2, dim=4, nonnegative=True, **PENALTIES),
    "frozen": Problem(3, samples=2, dim=4, loss="ce", classifier="etf", feature_decay=1e-3),
}


@pytest.fixture(autouse=True)
def device():
    with stand_in() as waits:
        yield waits


@pytest.mark.every(3)
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_lbfgs(problem):
    options = {"starts": 1, "max_iterations": 30}
    there, here = fit(problem, **options), fit(problem, **options, device=DEVICE)
    assert here.value == pytest.approx(there.value, rel=1e-6)
    assert not isinstance(here.features, OnDevice)  # results are the host's


@pytest.mark.parametrize("name", ["mse", "extended relu"])
def test_newton(name):
    there, here = (fit(PROBLEMS[name], "newton", starts=1, device=device) for device in ("cpu", DEVICE))
    assert here.value == pytest.approx(there.value, rel=1e-9)
    assert not isinstance(here.features, OnDevice)


@pytest.mark.every(8)
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}], ids=str)
@pytest.mark.parametrize("name", ["mse", "extended relu", "spheres", "non-negative"])
def test_gradient_descent(name, options):
    there, here = (fit(PROBLEMS[name], "gradient_descent", steps=100, device=d, **options) for d in ("cpu", DEVICE))
    assert here.value == pytest.approx(there.value, rel=1e-9)


def test_gradient_descent_waits_once_a_recorded_point(device):
    fit(PROBLEMS["mse"], "gradient_descent", steps=10, points=5, device=DEVICE)
    few, device.count = device.count, 0
    fit(PROBLEMS["mse"], "gradient_descent", steps=200, points=5, device=DEVICE)
    assert device.count <= few + 10


def test_perturbation_and_central_path():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(6)
    near = torch.eye(3, 5)[labels] + 0.1 * torch.randn(18, 5, generator=draw)
    options = {"proximity": 1e-2, "weight_decay": 1e-3, "feature_decay": 1e-4}
    there, here = (perturb(near.to(d), labels.to(d), **options) for d in ("cpu", DEVICE))
    assert here.value == pytest.approx(there.value, rel=1e-9)
    there, here = (snr(near.double().to(d), labels.to(d)) for d in ("cpu", DEVICE))
    torch.testing.assert_close(here.to("cpu"), there)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_a_model_matched_to_features_of_the_device(loss):
    draw = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat_interleave(6)
    features = 3 * torch.eye(3, 5)[labels] + 0.1 * torch.randn(18, 5, generator=draw)
    weight = torch.randn(3, 5, generator=draw)
    there, here = (
        match_statistics(
            "plain", layer_statistics(features.to(d), labels.to(d), 3), weight.to(d), loss=loss, weight_decay=1e-3
        )
        for d in ("cpu", DEVICE)
    )
    assert here.optimum_value == pytest.approx(there.optimum_value, rel=1e-12)
    assert here.metrics() == pytest.approx(there.metrics(), rel=1e-9, abs=1e-12, nan_ok=True)
