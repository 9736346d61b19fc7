"""What is known of a data set before its images are read. Imports no torch: costs are estimated from it."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import NamedTuple

from ncpipe.data.imagefolder import ImageFolder
from ncpipe.data.settings import DatasetSpec
from ncpipe.system.errors import UserError


class NominalShape(NamedTuple):
    """Size of a data set; ``side`` is in pixels."""

    channels: int
    side: int
    classes: int
    train_samples: int
    test_samples: int


PUBLISHED = {
    "digits": NominalShape(1, 8, 10, 1_437, 360),
    "mnist": NominalShape(1, 28, 10, 60_000, 10_000),
    "fashion_mnist": NominalShape(1, 28, 10, 60_000, 10_000),
    "cifar10": NominalShape(3, 32, 10, 50_000, 10_000),
    "cifar100": NominalShape(3, 32, 100, 50_000, 10_000),
    "svhn": NominalShape(3, 32, 10, 73_257, 26_032),
    "stl10": NominalShape(3, 96, 10, 5_000, 8_000),
}


def image_shape(spec: DatasetSpec) -> tuple[int, int, int]:
    """Channels, height and width of a prepared data set: of canvases of twice the side, with ``pairs``."""
    if spec.image_size is not None:
        channels, side = 3, spec.image_size
    else:
        channels, side = PUBLISHED[spec.name][:2]
    side *= 1 if spec.pairs is None else 2
    return channels, side, side


def kept_classes(spec: DatasetSpec, available: int) -> int:
    """Number of classes that are kept of those ``available``. Raises ``UserError`` where more are asked for."""
    if spec.classes is not None and spec.classes > available:
        raise UserError(f"{spec.slug} has {available} classes: lower dataset.classes = {spec.classes}")
    return spec.classes or available


def nominal_shape(spec: DatasetSpec, search_path: Sequence[Path] = ()) -> NominalShape:
    """The size that a prepared data set will have: published sizes, or the listing of an image folder. Of some of the
    classes it is their share of the published size.

    Raises ``UserError`` where the image folder is missing or of another layout, or has fewer classes than are kept.
    """
    if spec.path is not None:
        folder = ImageFolder.find(spec.path, search_path)
        classes = kept_classes(spec, len(folder.class_names))
        train, test = (sum(label < classes for _, label in folder.members(name)) for name in ("train", "test"))
    else:
        _, _, available, train, test = PUBLISHED[spec.name]
        classes = kept_classes(spec, available)
        train, test = (round(count * classes / available) for count in (train, test))
    train = train if spec.samples_per_class is None else spec.samples_per_class * classes
    test = test if spec.test_samples_per_class is None else spec.test_samples_per_class * classes
    pairs = comb(classes, 2)
    channels, side, _ = image_shape(spec)
    return NominalShape(
        channels, side, classes, train + (spec.pairs or 0) * pairs, test + (spec.test_pairs or 0) * pairs
    )
