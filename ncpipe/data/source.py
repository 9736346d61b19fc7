"""A data set by its name: its published size, the files that it is made of, and how they are read.

Modules that read data sets have torch from here, where it is imported when it is used: a study is planned without it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import comb
from pathlib import Path
from typing import NamedTuple

from ncpipe.data.originals import Originals
from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec
from ncpipe.system.errors import UserError
from ncpipe.system.lazy import Tensor, torch  # noqa: F401 - data sets take it from here

DIGIT_NAMES = tuple("0123456789")


class NominalShape(NamedTuple):
    """Size of a data set."""

    image: tuple[int, ...]
    """Channels, height and width of an image, or the length of a vector alone."""
    classes: int
    train_samples: int
    test_samples: int
    value_bytes: int = 1
    """1 of uint8, 4 of float32."""


@dataclass(frozen=True)
class SourceSplit:
    """Labels (N,) int64 and a way to read some of the images, so that a subset costs only its own images."""

    labels: Tensor
    read: Callable[[Tensor, int], Tensor]
    """Indices (n,), and the bits of images of more than 8, to images (n, C, H, W) or vectors (n, d), of uint8 or
    float32."""
    bits: Callable[[Tensor], int] = lambda rows: 8
    """Bits of the images of these indices."""

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> SourceSplit:
        return cls(labels, lambda rows, bits: images[rows])


@dataclass(frozen=True)
class Source:
    """A data set as it was found. ``kind`` and ``checksums`` (SHA-256 by file name) name no place."""

    train: SourceSplit
    test: SourceSplit
    class_names: tuple[str, ...]
    kind: str
    checksums: dict[str, str] = field(default_factory=dict)
    originals: Originals | None = None
    """The files it is made of; None of what comes with a package."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Files that are not read, by kind or place."""
    tag_sets: list[tuple[int, ...]] | None = None
    """Sets of several labels: the classes that every label means, first the single ones in their order."""


class DataSet(ABC):
    """Base of data sets: what a module of ``ncpipe.data.sets`` has under the name ``DATASET``.

    Attributes:
        published: its size, with all classes; None where that depends on files or settings.
        needs: settings of its own that must be given.
        takes: settings of its own that may be given besides.
        normalized: whether its values are normalised where ``normalize`` is null.
    """

    published: NominalShape | None
    needs: tuple[str, ...] = ()
    takes: tuple[str, ...] = ()
    normalized: bool = True

    @abstractmethod
    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        """Find the data set in the search path, then the system's folders, then download it to the cache.

        Raises ``UserError`` where it is nowhere, or found and damaged.
        """

    def originals(self, path: str | None, search_path: Sequence[Path]) -> Originals | None:
        """The files that it would be made of now; None where it comes with a package, or is nowhere.

        Raises ``UserError`` where they are there and cannot be used.
        """
        return None

    def image(self, spec: DatasetSpec, search_path: Sequence[Path]) -> tuple[int, ...]:
        """Channels, height and width of an image, or the length of a vector alone."""
        assert self.published is not None
        return self.published.image

    def size(self, spec: DatasetSpec, search_path: Sequence[Path]) -> NominalShape:
        """Its size with the classes that are kept, and all of their images."""
        assert self.published is not None
        image, available, train, test, value_bytes = self.published
        classes = kept_classes(spec, available)
        return NominalShape(
            image, classes, round(train * classes / available), round(test * classes / available), value_bytes
        )

    def left_out(self, path: str, search_path: Sequence[Path]) -> str:
        """The files at the path that are not read, in words; empty where there is none."""
        return ""


def kept_classes(spec: DatasetSpec, available: int) -> int:
    """Number of classes that are kept of those ``available``. Raises ``UserError`` where more are asked for."""
    if spec.classes is not None and spec.classes > available:
        raise UserError(f"{spec.slug} has {available} classes: lower dataset.classes = {spec.classes}")
    return spec.classes or available


def image_shape(spec: DatasetSpec, search_path: Sequence[Path] = ()) -> tuple[int, ...]:
    """Channels, height and width of a prepared data set, with ``pairs`` of canvases of twice the sides; (d,) of
    vectors.

    Raises ``UserError`` where that stands in a file that is missing or damaged, and for ``pairs`` of vectors.
    """
    image: tuple[int, ...] = DATASETS[spec.name].image(spec, search_path)
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
    _, classes, train, test, value_bytes = DATASETS[spec.name].size(spec, search_path)
    train = train if spec.samples_per_class is None else spec.samples_per_class * classes
    test = test if spec.test_samples_per_class is None else spec.test_samples_per_class * classes
    train, test = (n + (each or 0) * comb(classes, 2) for n, each in ((train, spec.pairs), (test, spec.test_pairs)))
    return NominalShape(image_shape(spec, search_path), classes, train, test, value_bytes)
