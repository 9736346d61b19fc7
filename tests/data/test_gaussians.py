"""Mixtures of Gaussians: moments, geometry of the means, nested samples."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ncpipe.data import Dataset, load, prepare
from ncpipe.data.sets.gaussians import mixture
from ncpipe.data.settings import DatasetSpec, MixtureSpec

MIXTURE = {"classes": 4, "dimension": 6, "separation": 3.0, "condition": 50.0}


def drawn(folder: Path, samples: int, **settings: Any) -> Dataset:
    wanted = {"name": "gaussians", "samples_per_class": samples, "test_samples_per_class": 5, "mixture": MIXTURE}
    prepare(DatasetSpec.model_validate(wanted | settings), folder)
    return load(folder)


def test_means_of_a_simplex_and_the_spectrum() -> None:
    means, root = mixture(MixtureSpec(**MIXTURE), seed=3)
    distances = [np.linalg.norm(means[i] - means[j]) for i, j in combinations(range(4), 2)]
    assert distances == pytest.approx([3.0] * 6)
    assert np.abs(means.sum(axis=0)).max() < 1e-12
    eigenvalues = np.linalg.eigvalsh(root.T @ root)
    assert eigenvalues.sum() == pytest.approx(6)
    assert eigenvalues[-1] / eigenvalues[0] == pytest.approx(50)
    ratios = eigenvalues[1:] / eigenvalues[:-1]
    assert ratios == pytest.approx([ratios[0]] * 5)
    means, root = mixture(MixtureSpec(classes=2, dimension=1, separation=2.0), seed=0)
    assert (abs(means[0] - means[1]).item(), abs(root).item()) == pytest.approx((2, 1))


def test_random_means_have_that_distance_in_the_root_mean_square() -> None:
    means, _ = mixture(MixtureSpec(classes=300, dimension=40, separation=3.0, means="random"), seed=0)
    squares = [np.square(means[i] - means[j]).sum() for i, j in combinations(range(300), 2)]
    assert np.mean(squares) ** 0.5 == pytest.approx(3, rel=0.01)


def test_samples_have_the_moments_and_are_not_normalised(tmp_path: Path) -> None:
    dataset = drawn(tmp_path, 4000)
    assert (dataset.mean.tolist(), dataset.std.tolist()) == ([0] * 6, [1] * 6)
    vectors, labels = dataset.train.images.double().numpy(), dataset.train.labels.numpy()
    means, root = mixture(MixtureSpec(**MIXTURE), seed=0)
    found = np.stack([vectors[labels == label].mean(axis=0) for label in range(4)])
    assert np.abs(found - means).max() < 0.15
    within = vectors - found[labels]
    assert np.abs(within.T @ within / len(vectors) - root.T @ root).max() < 0.1


def test_more_samples_hold_the_fewer_and_seeds_differ(tmp_path: Path) -> None:
    few, more, other = (drawn(tmp_path / str(n), n, seed=seed) for n, seed in ((3, 0), (8, 0), (4, 1)))
    assert torch.equal(few.train.images, more.train.images[:12])
    assert few.train.labels.tolist() == [0, 1, 2, 3] * 3
    assert torch.equal(few.test.images, more.test.images)
    assert not torch.isin(other.train.images, more.train.images).any()
    assert not torch.isin(few.train.images, few.test.images).any()
    assert drawn(tmp_path / "two", 3, classes=2).train.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mixture": MIXTURE}, "'gaussians' needs 'samples_per_class'"),
        ({"samples_per_class": 3, "test_samples_per_class": 3}, "'gaussians' needs 'mixture'"),
        ({"mixture": MIXTURE | {"dimension": 2}}, "a simplex of K means needs a dimension of K - 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DatasetSpec.model_validate({"name": "gaussians"} | settings)
