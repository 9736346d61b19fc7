"""Signal to noise of the class means: its definition, what leaves it as it is, and where it is not defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from brute_force import orthonormal, sample

from ncpipe.collapse import layer_statistics, signal_to_noise


def measured(features, labels, classes):
    statistics = layer_statistics(torch.as_tensor(features), torch.as_tensor(labels), classes, products=True)
    return signal_to_noise(statistics)


def defined(features, labels, classes):
    """Singular values of Sigma_W^(-1/2) M by way of the inverse root, largest first."""
    means = np.stack([features[labels == c].mean(axis=0) for c in range(classes)])
    rest = features - means[labels]
    sizes, vectors = np.linalg.eigh(rest.T @ rest / len(rest))
    root = vectors @ np.diag(sizes**-0.5) @ vectors.T
    return np.linalg.svd(root @ (means - means.mean(axis=0)).T, compute_uv=False)


@pytest.mark.parametrize(
    ("counts", "dim"), [([9, 9, 9, 9], 5), ([4, 30, 11], 7), ([8, 9, 7, 6, 9], 2), ([20, 20], 1)]
)
def test_it_is_as_it_is_written(counts, dim):
    data, classes = sample(counts, dim), len(counts)
    ratios = defined(data.features, data.labels, classes)[: classes - 1]
    row = measured(data.features, data.labels, classes)
    assert row == pytest.approx({"snr_min": ratios[-1], "snr_max": ratios[0]}, rel=1e-10)
    assert not row.undefined


def test_invertible_maps_of_the_features_change_nothing():
    data = sample([12, 8, 15], 6)
    row = measured(data.features, data.labels, 3)
    mix = orthonormal(6, 6) @ np.diag([1, 2, 5, 10, 30, 100]) @ orthonormal(6, 6, 1)
    assert measured(data.features @ mix + 3, data.labels, 3) == pytest.approx(row, rel=1e-9)
    assert measured(1e-6 * data.features, data.labels, 3) == pytest.approx(row, rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_units_without_signal_and_noise_change_nothing(dtype):
    data = sample([12, 8, 15], 6)
    row = measured(data.features, data.labels, 3)
    embedded = torch.as_tensor(data.features @ orthonormal(6, 9)).to(dtype)
    dead = torch.cat([embedded, torch.zeros(len(embedded), 4, dtype=dtype)], dim=1)
    constant = torch.cat([dead, torch.ones(len(embedded), 1, dtype=dtype)], dim=1)
    for features in (embedded, dead, constant):
        assert measured(features, data.labels, 3) == pytest.approx(row, rel=1e-10 if dtype == torch.float64 else 1e-4)


def test_the_scatter_of_a_scaled_noise_divides_it():
    data = sample([10] * 4, 5)
    means = np.stack([data.features[data.labels == c].mean(axis=0) for c in range(4)])[data.labels]
    row = measured(data.features, data.labels, 4)
    nearer = measured(means + 1e-7 * (data.features - means), data.labels, 4)
    assert nearer == pytest.approx({name: 1e7 * value for name, value in row.items()}, rel=1e-5)


def test_affinely_dependent_means_have_a_smallest_of_zero():
    data = sample([10] * 3, 5)
    features, labels = data.features.copy(), data.labels
    features[labels == 1] += features[labels == 0].mean(axis=0) - features[labels == 1].mean(axis=0)
    row = measured(features, labels, 3)
    assert row["snr_min"] < 1e-12
    assert row["snr_max"] > 0.1


LEAVES = "no scatter within the classes in a direction of the class means"
FEW = sample([3, 3, 3], 20)
WIDE = sample([9, 9, 9], 4)
UNDEFINED = {
    "more dimensions than the scatter can have": (FEW.features, FEW.labels, 3, LEAVES),
    "no scatter": (np.eye(3)[WIDE.labels] / 3, WIDE.labels, 3, LEAVES),
    "scatter that is rounding": (np.eye(3)[WIDE.labels] + 1e-15 * WIDE.features[:, :3], WIDE.labels, 3, LEAVES),
    "a direction without scatter": (
        np.hstack([WIDE.features, np.eye(3)[WIDE.labels][:, :1]]),
        WIDE.labels,
        3,
        LEAVES,
    ),
    "zero solution": (0 * WIDE.features, WIDE.labels, 3, "all class means are zero"),
    "class without samples": (WIDE.features, WIDE.labels, 4, "no sample of class 3"),
    "one class": (WIDE.features, 0 * WIDE.labels, 1, "there is one class only"),
}


@pytest.mark.parametrize(("features", "labels", "classes", "reason"), UNDEFINED.values(), ids=UNDEFINED)
def test_what_is_undefined_is_nan_with_a_reason(features, labels, classes, reason):
    row = measured(features, labels, classes)
    assert all(math.isnan(value) for value in row.values())
    assert row.undefined == {"snr_min": reason, "snr_max": reason}


def test_statistics_without_products_are_named():
    with pytest.raises(ValueError, match="take statistics with products=True"):
        signal_to_noise(layer_statistics(torch.ones(4, 2), torch.tensor([0, 0, 1, 1]), 2))
