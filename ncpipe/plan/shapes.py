"""The sizes of both splits of a data set, before its images are read."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path
from typing import NamedTuple

from ncpipe.data import nominal_shape
from ncpipe.data.imagefolder import ImageFolder
from ncpipe.study.spec import DatasetSpec

TEST_SAMPLES = {
    "digits": 360,
    "mnist": 10_000,
    "fashion_mnist": 10_000,
    "cifar10": 10_000,
    "cifar100": 10_000,
    "svhn": 26_032,
    "stl10": 8_000,
}


class Shape(NamedTuple):
    """Size of a prepared data set; ``side`` is in pixels."""

    channels: int
    side: int
    classes: int
    train_samples: int
    test_samples: int


def shape_of(spec: DatasetSpec, search_path: Sequence[Path] = ()) -> Shape:
    """Raises ``UserError`` where an image folder is missing or of another layout."""
    nominal = nominal_shape(spec, search_path)
    if spec.test_samples_per_class is not None:
        test = spec.test_samples_per_class * nominal.classes
    elif spec.path is not None:
        test = len(ImageFolder.find(spec.path, search_path).members("test"))
    else:
        test = TEST_SAMPLES[spec.name]
    return Shape(*nominal[:4], test + (spec.test_pairs or 0) * comb(nominal.classes, 2))
