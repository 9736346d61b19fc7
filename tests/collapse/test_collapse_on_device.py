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


@pytest.mark.parametrize(("options", "waits"), [({}, 0), ({"one_pass": True}, 1)])
def test_a_batch_of_the_metric_does_not_wait_for_the_device(layer, device, options, waits):
    features, weight, bias = (array.to(DEVICE) for array in layer)
    labels = LABELS.to(DEVICE)
    metric = ncpipe.CollapseMetrics(5, weight=weight, bias=bias, **options).to(DEVICE)

    def waited(rows):
        before = device.count
        metric.update(features[rows], labels[rows])
        return device.count - before

    assert [waited(slice(start, start + 8)) for start in range(0, 40, 8)] == 5 * [waits]
    assert waited(slice(0, 3)) == 1  # fewer samples than classes
    metric.start_second_pass()
    waited(slice(0, 8))  # sets the pass up
    assert [waited(slice(start, start + 8)) for start in range(8, 40, 8)] == 4 * [0]


@pytest.mark.parametrize(
    ("label", "feature", "told"),
    [
        (-100, 0.0, r"labels must lie in \[0, 5\), got -100 to 4 in update 2: drop the samples"),
        (
            5,
            0.0,
            r"labels must lie in \[0, 5\), got 0 to 5 in update 2: number the classes, torch.unique",
        ),
        (0, torch.nan, r"features of update 2 have non-finite values: drop these samples"),
    ],
)
@pytest.mark.parametrize("options", [{}, {"one_pass": True}])
def test_a_wrong_batch_is_told_later(layer, label, feature, told, options):
    features, labels = layer[0].clone(), LABELS.clone()
    features[3, 1], labels[3] = feature, label
    metric = ncpipe.CollapseMetrics(5, **options).to(DEVICE)
    whole = (layer[0].to(DEVICE), LABELS.to(DEVICE))
    metric.update(*whole)
    metric.update(features.to(DEVICE), labels.to(DEVICE))
    metric.update(*whole)
    for ask in (metric.compute, metric.start_second_pass, metric.cpu().compute):
        with pytest.raises(ValueError, match=told + r".*; reset\(\) starts anew$"):
            ask()
    metric = metric.to(DEVICE)
    metric.reset()
    metric.update(*whole)
    metric.start_second_pass()
    metric.update(features.to(DEVICE), labels.to(DEVICE))
    with pytest.raises(ValueError, match=told):
        metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match=told.replace("update 2", "update 1")):
        metric(features.to(DEVICE), labels.to(DEVICE))
    metric(*whole)  # that batch was not added


@pytest.mark.parametrize(("shifts", "told"), [((0, 1), "1 to 5"), ((1, 0), "1 to 5"), ((1, -1), "(1 to 5|-1 to 3)")])
def test_wrong_batches_of_ranks_are_told(layer, shifts, told):
    metrics = [ncpipe.CollapseMetrics(5).to(DEVICE) for _ in shifts]
    for metric, shift in zip(metrics, shifts):
        metric.update(layer[0].to(DEVICE), LABELS.to(DEVICE) + shift)
    metrics[0].merge_state(metrics[1])
    with pytest.raises(ValueError, match=rf"got {told} in update 1:"):
        metrics[0].compute()
