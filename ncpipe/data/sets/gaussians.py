"""A mixture of Gaussians, drawn: the usual data of theory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncpipe.data.places import check_memory
from ncpipe.data.settings import DatasetSpec, MixtureSpec
from ncpipe.data.source import DataSet, NominalShape, Source, SourceSplit, kept_classes, torch

MEANS, AXES, TRAIN, TEST = range(10, 14)
"""Streams of random numbers of a seed, beside those of ``ncpipe.data.preparation``."""


class Gaussians(DataSet):
    r"""Vectors :math:`x = \mu_y + \Sigma^{1/2} z`, z standard normal, of every class as many.

    The covariance has the trace d, eigenvalues log-spaced from the largest to the smallest, and a uniformly random
    basis; the means are a simplex of edge ``separation``, rotated at random, or random directions of the length that
    gives this distance in the root mean square. Nothing is normalised, unless the settings say so. More samples of a
    class hold the fewer.
    """

    published, normalized = None, False
    needs, takes = ("mixture", "samples_per_class", "test_samples_per_class"), ()

    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        assert spec.mixture is not None  # DatasetSpec sees to all
        assert spec.samples_per_class is not None
        assert spec.test_samples_per_class is not None
        means, root = mixture(spec.mixture, spec.seed)
        train = _drawn(means, root, spec.samples_per_class, spec.seed, TRAIN)
        test = _drawn(means, root, spec.test_samples_per_class, spec.seed, TEST)
        return Source(train, test, tuple(map(str, range(len(means)))), "drawn")

    def image(self, spec: DatasetSpec, search_path: Sequence[Path]) -> tuple[int, ...]:
        assert spec.mixture is not None
        return (spec.mixture.dimension,)

    def size(self, spec: DatasetSpec, search_path: Sequence[Path]) -> NominalShape:
        assert spec.mixture is not None
        classes = kept_classes(spec, spec.mixture.classes)
        train, test = (classes * (each or 0) for each in (spec.samples_per_class, spec.test_samples_per_class))
        return NominalShape(self.image(spec, search_path), classes, train, test, 4)


def mixture(spec: MixtureSpec, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Means (K, d), and a root (d, d) of the covariance: samples are means + z @ root for standard normal rows z."""
    random = np.random.default_rng([seed, MEANS])
    rows = random.standard_normal((spec.classes, spec.dimension))
    if spec.means == "simplex":
        # An orthonormal frame of K - 1 vectors, mapped onto the K vertices.
        frame = np.linalg.qr(rows[:-1].T)[0]
        vertices = np.linalg.svd(np.eye(spec.classes) - 1 / spec.classes)[0][:, : spec.classes - 1]
        directions = vertices @ frame.T
    else:
        directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    spectrum = spec.condition ** -np.linspace(0, 1, spec.dimension)
    spectrum *= spec.dimension / spectrum.sum()
    normal = np.random.default_rng([seed, AXES]).standard_normal((spec.dimension, spec.dimension))
    axes, upper = np.linalg.qr(normal)
    axes *= np.sign(np.diag(upper))  # uniform over the rotations and reflections
    return directions * spec.separation / np.sqrt(2), np.sqrt(spectrum)[:, None] * axes.T


def _drawn(means: np.ndarray, root: np.ndarray, count: int, seed: int, stream: int) -> SourceSplit:
    """``count`` samples of every class, the classes in turn."""
    classes, dimension = means.shape
    check_memory("gaussians", 8 * classes * count * dimension, "lower dataset.samples_per_class")
    values = np.empty((count, classes, dimension), np.float32)
    for label, mean in enumerate(means):
        noise = np.random.default_rng([seed, stream, label]).standard_normal((count, dimension))
        values[:, label] = mean + noise @ root
    labels = torch.arange(classes).repeat(count)
    return SourceSplit.of(torch.from_numpy(values.reshape(-1, dimension)), labels)


DATASET = Gaussians()
