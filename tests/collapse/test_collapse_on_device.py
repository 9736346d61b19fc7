"""Metrics on a stand-in accelerator: as on the CPU, with nothing mixed."""

from __future__ import annotations

import pytest
import torch
from stand_in import NAME, stand_in

import ncpipe

DEVICE = torch.device(NAME, 0)
LABELS = torch.arange(5).repeat_interleave(8)


@pytest.fixture(autouse=True)
def device():
    with stand_in() as waits:
        yield waits


@pytest.fixture
def layer():
    draw = torch.Generator().manual_seed(0)
    features = torch.eye(5, 7)[LABELS] + 0.1 * torch.randn(40, 7, generator=draw)
    return features, torch.randn(5, 7, generator=draw), torch.randn(5, generator=draw)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-9, abs=1e-12, nan_ok=True), name


def test_measure(layer):
    features, weight, bias = layer
    expected = ncpipe.measure(features, LABELS, weight=weight, bias=bias)
    found = ncpipe.measure(features.to(DEVICE), LABELS.to(DEVICE), weight=weight.to(DEVICE), bias=bias.to(DEVICE))
    assert_same(found, expected)


def test_the_metric_in_two_passes(layer, device):
    features, weight, bias = layer
    metrics = [ncpipe.CollapseMetrics(5, weight=w, bias=b).to(d) for w, b, d in (
        (weight, bias, "cpu"), (weight.to(DEVICE), bias.to(DEVICE), DEVICE))]  # fmt: skip
    for metric in metrics:
        h, y = features.to(metric.device), LABELS.to(metric.device)
        for step in range(2):
            for rows in torch.arange(40).split(16):
                metric.update(h[rows[0] : rows[-1] + 1], y[rows[0] : rows[-1] + 1])
            if step == 0:
                metric.start_second_pass()
    assert_same(metrics[1].compute(), metrics[0].compute())


def test_features_and_labels_of_two_devices_are_told(layer):
    features, _, _ = layer
    with pytest.raises((ValueError, RuntimeError), match=r"device|on stand_in"):
        ncpipe.measure(features.to(DEVICE), LABELS)
