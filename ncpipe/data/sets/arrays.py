"""A user's own arrays, in a file or a folder with a file for each split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ncpipe.data.arrays import ArrayFile, Arrays
from ncpipe.data.originals import Originals
from ncpipe.data.places import find_path
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DataSet, NominalShape, Source, SourceSplit, kept_classes, torch
from ncpipe.system.errors import UserError


class OwnArrays(DataSet):
    """Images or vectors as ``ncpipe.data.arrays`` reads them from ``path``."""

    published, needs, takes = None, ("path",), ("label", "test_fraction", "several_labels")

    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        file = _found(spec, search_path)
        originals = _originals(file)  # as they are before they are read
        found, (train, test, _) = file.read(), _labels(spec, file)
        assert found.test is not None
        tag_sets = _tag_sets(found) if spec.several_labels else None
        number = {tags: label for label, tags in enumerate(tag_sets or ())}
        splits = [
            SourceSplit.of(
                torch.from_numpy(images),
                torch.tensor([number[tags] for tags in _tags(labels)]) if number else torch.from_numpy(labels),
            )
            for images, labels in ((found.train.images, train), (found.test.images, test))
        ]
        names, checksums = found.class_names, originals.checksums()
        return Source(splits[0], splits[1], names, "arrays", checksums, originals, tag_sets=tag_sets)

    def originals(self, path: str | None, search_path: Sequence[Path]) -> Originals:
        assert path is not None
        return _originals(ArrayFile(find_path(path, search_path, WHAT)))

    def image(self, spec: DatasetSpec, search_path: Sequence[Path]) -> tuple[int, ...]:
        return _found(spec, search_path).image_shape

    def size(self, spec: DatasetSpec, search_path: Sequence[Path]) -> NominalShape:
        file = _found(spec, search_path)
        *splits, names = _labels(spec, file)
        classes = len(names) if spec.several_labels else kept_classes(spec, len(names))
        train, test = (len(part) if spec.several_labels else int((part < classes).sum()) for part in splits)
        return NominalShape(file.image_shape, classes, train, test, file.value_bytes)


WHAT = "file of arrays"


def _found(spec: DatasetSpec, search_path: Sequence[Path]) -> ArrayFile:
    assert spec.path is not None  # DatasetSpec sees to it
    path = find_path(spec.path, search_path, WHAT)
    return ArrayFile(path, spec.label, spec.test_fraction, spec.seed)


def _originals(file: ArrayFile) -> Originals:
    return Originals.of_files(file.files, file.path if file.path.is_dir() else None)


def _labels(spec: DatasetSpec, file: ArrayFile) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Labels of training and test, and the names of the classes, of the form that the settings say."""
    train, test, names = file.labels
    if test is None:
        raise UserError(f"{file.path} has no test split: add one, or set dataset.test_fraction")
    if (train.ndim == 2) != spec.several_labels:
        matrix = "labels are a matrix of several classes a sample: set dataset.several_labels: true"
        single = "labels are of one class a sample: leave dataset.several_labels out"
        raise UserError(f"{file.path}: {matrix if train.ndim == 2 else single}")
    if len(names) < 2:
        raise UserError(f"{file.path} has a single class, {names[0]!r}: there is nothing to tell apart")
    return train, test, names


def _tag_sets(found: Arrays) -> list[tuple[int, ...]]:
    """The single classes, and the other sets of classes that there are, the smaller ones first."""
    singles = [(label,) for label in range(len(found.class_names))]
    seen = {tags for split in (found.train, found.test) if split for tags in _tags(split.labels)}
    return singles + sorted(seen.difference(singles), key=lambda tags: (len(tags), tags))


def _tags(labels: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(np.flatnonzero(row).tolist()) for row in labels]


DATASET = OwnArrays()
