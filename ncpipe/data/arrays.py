"""A user's own arrays: images or vectors with labels, of training and test, checked.

``read_arrays`` needs nothing of a study.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ncpipe.data.containers import CLASS_NAMES, Member, open_members
from ncpipe.data.hugging_face import is_saved, saved_members
from ncpipe.data.imagefolder import in_order
from ncpipe.data.places import check_memory, find_path
from ncpipe.system.errors import UserError

FEW_CHANNELS = (1, 3, 4)
SPLIT_STREAM = 6
"""Stream of the random numbers of a data set's seed, see ``ncpipe.data.preparation``."""


class ArraySplit(NamedTuple):
    """Images (N, C, H, W) or vectors (N, d), uint8 or float32, and their classes (N,) int64, or (N, K) 0/1 uint8 for
    several labels a sample."""

    images: np.ndarray
    labels: np.ndarray


class Arrays(NamedTuple):
    """Both splits; ``test`` is None where the file has one split and none was drawn from it."""

    train: ArraySplit
    test: ArraySplit | None
    class_names: tuple[str, ...]


def read_arrays(
    path: str | Path,
    *,
    label: str | None = None,
    test_fraction: float | None = None,
    seed: int = 0,
    search_path: Sequence[Path] = (),
) -> Arrays:
    """Read images or vectors with labels from a .npz, .safetensors, .pt, .csv, .parquet, .arrow or .feather file.

    Args:
        path: a file with 'train_images' (or 'train_vectors'), 'train_labels' and the same of 'test', or with 'images'
            (or 'vectors') and 'labels'; a table of numeric columns; a folder with a file 'train.*' and one 'test.*',
            or one of Hugging Face's ``save_to_disk``. Keras' names 'x_train', 'y_train' are read too.
        label: column of the labels of a table.
        test_fraction: share of every class that becomes the test split, where the file has none.
        seed: draws that split.
        search_path: folders in which a relative path is also looked for.

    Images are (N, C, H, W), (N, H, W) or, where only the last axis is 1, 3 or 4, (N, H, W, C). uint8 stays uint8, all
    other numbers become float32. Labels are integers or text (N,), or 0/1 (N, K); 'class_names' (K,) may name them,
    and integers are then 0 to K - 1. Else classes are the labels of the training split, in order.

    Raises:
        UserError: the file is missing, damaged or of another layout; values that are not finite; labels that fit no
            class.
    """
    if test_fraction is not None and not 0 < test_fraction < 1:
        raise UserError(f"test_fraction: got {test_fraction}; needs a share above 0 and below 1")
    return ArrayFile(find_path(str(path), search_path, "file of arrays"), label, test_fraction, seed).read()


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays, or a folder with one for each split, of which as little is read as is asked for."""

    path: Path
    label: str | None = None
    test_fraction: float | None = None
    seed: int = 0

    @property
    def files(self) -> list[Path]:
        """The file, or those of a folder: first that of training."""
        if not self.path.is_dir():
            return [self.path]
        if is_saved(self.path):
            return sorted(self.path.rglob("*.arrow"))
        found = [sorted(self.path.glob(f"{split}.*")) for split in ("train", "test")]
        if [len(files) for files in found] != [1, 1]:
            raise UserError(f"{self.path} needs one file train.* and one test.* (.npz, .csv, ..)")
        return [file for files in found for file in files]

    @cached_property
    def image_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images, (d,) of vectors."""
        return self._layout(self._image_keys[0])[0]

    @property
    def value_bytes(self) -> int:
        """1 of uint8, 4 of what becomes float32."""
        return 1 if all(self._members[key].is_uint8 for key in self._image_keys) else 4

    @cached_property
    def labels(self) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...]]:
        """Labels of training and test, as ``ArraySplit`` has them, and the names of the classes."""
        raw = [*self._raw_labels.values()]
        if len({labels.ndim for labels in raw}) > 1:
            raise UserError(f"{self.path}: training and test labels are of different form")
        named = self._members.get(CLASS_NAMES)
        names = None if named is None else tuple(map(str, named.read().ravel()))
        if names and len({*names}) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{self.path}: {CLASS_NAMES!r} has {twice!r} twice; give every class a name of its own")
        if raw[0].ndim == 2:
            names = names or tuple(map(str, range(raw[0].shape[1])))
            found = [self._tags(labels, split, len(names)) for labels, split in zip(raw, self._splits)]
        else:
            names, found = self._classes(raw, names)
        if self.test_fraction is not None:
            return found[0][self._drawn[0]], found[0][self._drawn[1]], names
        return found[0], found[1] if len(found) > 1 else None, names

    def read(self) -> Arrays:
        """All of it, checked."""
        train, test, names = self.labels
        images = [self._images(key) for key in self._image_keys]
        if len({part.dtype for part in images}) > 1:  # one of the two is uint8
            if images[0].ndim > 2:  # of which 255 is white, where 1 may be in the other
                raise UserError(f"{self.path}: one split has uint8 images and the other float ones; store both alike")
            images = [part.astype(np.float32) for part in images]
        for part, split in zip(images, self._splits):
            count = len(self._raw_labels[split])
            if len(part) != count:
                raise UserError(f"{self.path} holds {len(part)} {_of(split)}samples but {count} labels of them")
        if self.test_fraction is not None:
            images = [images[0][rows] for rows in self._drawn]
        test_split = None if test is None else ArraySplit(images[1], test)
        return Arrays(ArraySplit(images[0], train), test_split, names)

    # --- keys -----------------------------------------------------------------------------------------

    @cached_property
    def _members(self) -> dict[str, Member]:
        if not self.path.is_dir():
            return open_members(self.path, self.label)
        if is_saved(self.path):
            return saved_members(self.path, self.label)
        both = {split: open_members(file, self.label) for split, file in zip(("train", "test"), self.files)}
        named = [found[CLASS_NAMES] for found in both.values() if CLASS_NAMES in found]
        members = {f"{split}_{name}": member for split, found in both.items() for name, member in found.items()}
        return members | ({CLASS_NAMES: named[0]} if named else {})

    @cached_property
    def _splits(self) -> tuple[str, ...]:
        """'train' and 'test', or '' for the only split."""
        if self._key("train", IMAGES) is None:
            return ("",)
        has_test = self._key("test", IMAGES) is not None
        if has_test and self.test_fraction is not None:
            raise UserError(f"{self.path} has a test split of its own: leave dataset.test_fraction out")
        return ("train", "test") if has_test else ("train",)

    @cached_property
    def _image_keys(self) -> list[str]:
        return [self._needed(split, IMAGES) for split in self._splits]

    def _key(self, split: str, names: Sequence[str]) -> str | None:
        spelled = [f"{split}_{name}" for name in names] + [f"{name}_{split}" for name in names] if split else names
        return next((name for name in spelled if name in self._members), None)

    def _needed(self, split: str, names: Sequence[str]) -> str:
        key = self._key(split, names)
        if key is None:
            wanted = " or ".join(repr(f"{split}_{name}" if split else name) for name in names[:-2] or names[:1])
            there = ", ".join(self._members) or "nothing"
            also = "" if split else ", or 'train_images' and so on"
            raise UserError(f"{self.path} holds {there}: it needs {wanted}{also}")
        return key

    # --- images ---------------------------------------------------------------------------------------

    def _layout(self, key: str) -> tuple[tuple[int, ...], bool]:
        """The shape of a sample, and whether channels come last in the file."""
        shape = self._members[key].shape
        if len(shape) not in (2, 3, 4) or 0 in shape or (len(shape) == 2 and "images" in key):
            kinds = "images (N, C, H, W) or (N, H, W) and vectors (N, d) as 'vectors'"
            raise UserError(f"{self.path}: {key!r} has the shape {shape}; arrays are {kinds}")
        if len(shape) == 3:
            return (1, *shape[1:]), False
        last = len(shape) == 4 and shape[3] in FEW_CHANNELS and shape[1] not in FEW_CHANNELS
        return ((shape[3], *shape[1:3]), True) if last else (shape[1:], False)

    def _images(self, key: str) -> np.ndarray:
        """(N, C, H, W) or (N, d), uint8 or finite float32."""
        shape, channels_last = self._layout(key)
        if shape != self.image_shape:
            raise UserError(f"{self.path}: {key!r} has samples {shape}, those of training are {self.image_shape}")
        check_memory(str(self.path), 4 * int(np.prod(self._members[key].shape)), "give a smaller file")
        values = self._members[key].read()
        if values.dtype.kind not in "biuf":
            raise UserError(f"{self.path}: {key!r} is of type {values.dtype}, not of real numbers")
        if values.dtype != np.uint8:
            with np.errstate(over="ignore"):
                values = values.astype(np.float32)
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1)
            if bad.any():
                first = int(bad.argmax())
                raise UserError(
                    f"{self.path}: {key!r} has values that are not finite in {int(bad.sum())} samples, first in"
                    f" sample {first}: mend or leave them out"
                )
        values = values.transpose(0, 3, 1, 2) if channels_last else values.reshape(len(values), *shape)
        return np.ascontiguousarray(values)

    # --- labels ---------------------------------------------------------------------------------------

    @cached_property
    def _raw_labels(self) -> dict[str, np.ndarray]:
        return {split: self._labels(split) for split in self._splits}

    def _labels(self, split: str) -> np.ndarray:
        key = self._needed(split, LABELS)
        labels = self._members[key].read()
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.dtype.kind == "f" and np.isfinite(labels).all() and (labels == np.rint(labels)).all():
            labels = labels.astype(np.int64)
        if labels.dtype.kind not in "biuUSO" or labels.ndim not in (1, 2) or len(labels) == 0:
            form = f"{labels.dtype} of shape {labels.shape}"
            raise UserError(f"{self.path}: {key!r} is {form}; labels are integers or text (N,), or 0/1 (N, K)")
        return labels

    def _tags(self, labels: np.ndarray, split: str, count: int) -> np.ndarray:
        if labels.shape[1] != count or not np.isin(labels, (0, 1)).all():
            raise UserError(
                f"{self.path}: {_of(split)}labels of several classes are a matrix (N, {count}) of 0 and 1"
            )
        if (empty := ~labels.astype(bool).any(axis=1)).any():
            raise UserError(
                f"{self.path}: {_of(split)}sample {int(empty.argmax())} has no label: leave such samples out"
            )
        return labels.astype(np.uint8)

    def _classes(
        self, raw: list[np.ndarray], names: tuple[str, ...] | None
    ) -> tuple[tuple[str, ...], list[np.ndarray]]:
        """Names of the classes, and numbers of classes (N,) in place of labels."""
        text = [labels.dtype.kind in "USO" for labels in raw]
        if names is not None and not any(text):
            for labels, split in zip(raw, self._splits):
                if labels.min() < 0 or labels.max() >= len(names):
                    outside = labels.min() if labels.min() < 0 else labels.max()
                    raise UserError(
                        f"{self.path}: {_of(split)}label {outside} is out of range: 'class_names' has {len(names)}"
                        f" names, labels are 0 to {len(names) - 1}"
                    )
            return names, [labels.astype(np.int64) for labels in raw]
        values = [[_as_text(label) for label in labels.tolist()] for labels in raw]
        known = names or tuple(in_order({*values[0]}) if any(text) else map(str, np.unique(raw[0]).tolist()))
        number = {name: place for place, name in enumerate(known)}
        for found, split in zip(values, self._splits):
            strange = next((label for label in found if label not in number), None)
            if strange is not None:
                whose = "'class_names'" if names else "the training labels"
                raise UserError(f"{self.path}: {_of(split)}label {strange!r} is not among {whose}")
        return known, [np.array([number[label] for label in found], np.int64) for found in values]

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of training and test: of every class the fraction, to the nearest sample, is test."""
        assert self.test_fraction is not None
        labels = self._raw_labels[self._splits[0]]
        _, classes = np.unique(labels, axis=0, return_inverse=True)
        random, is_test = np.random.default_rng([self.seed, SPLIT_STREAM]), np.zeros(len(labels), bool)
        for label in range(int(classes.max()) + 1):
            members = random.permutation(np.flatnonzero(classes == label))
            is_test[members[: round(self.test_fraction * len(members))]] = True
        return np.flatnonzero(~is_test), np.flatnonzero(is_test)


IMAGES = ("images", "vectors", "x", "X")
LABELS = ("labels", "y", "Y")


def _of(split: str) -> str:
    return f"{split} " if split else ""


def _as_text(label: object) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)
