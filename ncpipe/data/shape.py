"""What is known of a data set before its images are read. Imports no torch: costs are estimated from it."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DataSet, NominalShape
from ncpipe.system.errors import UserError


def image_shape(spec: DatasetSpec, search_path: Sequence[Path] = ()) -> tuple[int, ...]:
    """Channels, height and width of a prepared data set, with ``pairs`` of canvases of twice the sides; (d,) of
    vectors.

    Raises ``UserError`` where that stands in a file that is missing or damaged, and for ``pairs`` of vectors.
    """
    dataset: DataSet = DATASETS[spec.name]
    image = dataset.image(spec, search_path)
    if spec.pairs is None:
        return image
    if len(image) == 1:
        raise UserError(f"{spec.slug} has vectors, and 'pairs' composes images: take dataset.pairs out")
    return image[0], *(2 * side for side in image[1:])


def nominal_shape(spec: DatasetSpec, search_path: Sequence[Path] = ()) -> NominalShape:
    """The size that a prepared data set will have: published sizes, or what its files tell without their images. Of
    some of the classes it is their share of the published size.

    Raises ``UserError`` where files are missing or of another layout, or have fewer classes than are kept.
    """
    dataset: DataSet = DATASETS[spec.name]
    _, classes, train, test, value_bytes = dataset.size(spec, search_path)
    train = train if spec.samples_per_class is None else spec.samples_per_class * classes
    test = test if spec.test_samples_per_class is None else spec.test_samples_per_class * classes
    train, test = (n + (each or 0) * comb(classes, 2) for n, each in ((train, spec.pairs), (test, spec.test_pairs)))
    return NominalShape(image_shape(spec, search_path), classes, train, test, value_bytes)
