"""What is known of a data set before its images are read. Imports no torch: costs are estimated from it."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DataSet, NominalShape


def image_shape(spec: DatasetSpec) -> tuple[int, int, int]:
    """Channels, height and width of a prepared data set: of canvases of twice the side, with ``pairs``."""
    dataset: DataSet = DATASETS[spec.name]
    channels, side = dataset.image(spec)
    side *= 1 if spec.pairs is None else 2
    return channels, side, side


def nominal_shape(spec: DatasetSpec, search_path: Sequence[Path] = ()) -> NominalShape:
    """The size that a prepared data set will have: published sizes, or the listing of an image folder. Of some of the
    classes it is their share of the published size.

    Raises ``UserError`` where the image folder is missing or of another layout, or has fewer classes than are kept.
    """
    dataset: DataSet = DATASETS[spec.name]
    classes, train, test = dataset.samples(spec, search_path)
    train = train if spec.samples_per_class is None else spec.samples_per_class * classes
    test = test if spec.test_samples_per_class is None else spec.test_samples_per_class * classes
    pairs = comb(classes, 2)
    channels, side, _ = image_shape(spec)
    return NominalShape(
        channels, side, classes, train + (spec.pairs or 0) * pairs, test + (spec.test_pairs or 0) * pairs
    )
