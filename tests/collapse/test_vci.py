"""The variability collapse index: brute force where Sigma_W is singular too, digits near collapse, and invariance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from brute_force import Sample, sample, variability_collapse

import ncpipe
from ncpipe.collapse import collapse_metrics, layer_statistics
from ncpipe.stages.collapse import collapse_rows
from ncpipe.ufm import Problem, fit


def vci(data: Sample) -> float:
    return ncpipe.measure(data.features, data.labels, num_classes=data.num_classes, products=True)["vci"]


def changed(data: Sample, features: np.ndarray) -> Sample:
    return Sample(features, data.labels, data.weight, data.bias)


def dead_and_dependent(data: Sample) -> Sample:
    """A unit that is always zero, and one that is the sum of two others."""
    h = data.features
    return changed(data, np.hstack([h, 0 * h[:, :1], h[:, :1] + h[:, 1:2]]))


def dependent_means(data: Sample) -> Sample:
    """The mean of class 2 lies between those of 0 and 1: rank Sigma_B is K - 2."""
    h, of = data.features.copy(), [data.labels == c for c in range(3)]
    h[of[2]] += (h[of[0]].mean(axis=0) + h[of[1]].mean(axis=0)) / 2 - h[of[2]].mean(axis=0)
    return changed(data, h)


def silent_direction(data: Sample) -> Sample:
    """A unit that tells class 0 from the others without any noise."""
    return changed(data, np.hstack([data.features, (data.labels == 0)[:, None] / 3.0]))


CASES = {
    "balanced": sample([20] * 4, 6),
    "imbalanced": sample([3, 9, 50], 8, 0.3),
    "more classes than dimensions": sample([9, 4, 6, 7, 12, 5], 3),
    "one dimension": sample([5, 7], 1),
    "dead and dependent units": dead_and_dependent(sample([20, 30, 9], 4)),
    "dependent means": dependent_means(sample([8, 12, 9, 7], 5)),
    "a direction without noise": silent_direction(sample([8, 12, 9], 4)),
    "more dimensions than samples": sample([3, 2, 4], 20),
    "one sample a class": sample([1, 1, 1], 5),
}


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_it_agrees_with_its_definition(data):
    assert vci(data) == pytest.approx(variability_collapse(data), rel=1e-9, abs=1e-9)


def test_it_keeps_its_digits_near_collapse():
    data = sample([10] * 4, 6)
    means = np.stack([data.features[data.labels == c].mean(axis=0) for c in range(4)])[data.labels]
    near = [vci(changed(data, means + size * (data.features - means))) for size in (1e-5, 1e-6)]
    assert 0 < near[0] < 1e-8
    assert near[1] == pytest.approx(near[0] / 100, rel=1e-6)


def test_it_is_zero_at_collapse_and_where_nothing_lies_outside_the_means():
    data = sample([9, 4, 6], 5)
    assert vci(changed(data, data.weight[data.labels])) == 0
    close = data.weight[[0, 0, 2]] + np.array([[0], [1e-9], [0]])  # without noise, two classes 1e-9 apart
    assert vci(changed(data, close[data.labels])) == 0


def test_an_invertible_linear_map_changes_nothing():
    data, rng = sample([7, 9, 30], 6), np.random.default_rng(1)
    assert vci(changed(data, data.features @ rng.standard_normal((6, 6)))) == pytest.approx(vci(data), rel=1e-9)


def test_equal_means_have_no_index():
    row = ncpipe.measure(np.ones((6, 3)), np.arange(6) % 2, products=True)
    assert row.undefined["vci"] == "all class means agree"


def test_statistics_with_products_have_it_on_any_way():
    data = CASES["imbalanced"]
    features, labels = torch.as_tensor(data.features), torch.as_tensor(data.labels)
    with_products = collapse_metrics(layer_statistics(features, labels, 3, products=True))
    assert with_products["vci"] == vci(data)
    assert not {"vci", "snr_min"} & set(collapse_metrics(layer_statistics(features, labels, 3)))


def test_squared_error_models_have_it_in_their_tables():
    result = fit(Problem(3, 4, 5, weight_decay=5e-3, feature_decay=5e-3), starts=1)
    rows = {row["metric"]: row for row in collapse_rows("ufm", "run", result.trace()) if row["time"]}
    names = [*rows]
    assert names.index("snr_max") + 1 == names.index("vci")
    assert 0 <= rows["vci"]["value"] < 1e-6
