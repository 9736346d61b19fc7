"""From a source to the files of a prepared data set: balanced subset, corrupted labels, statistics, record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from math import comb, prod
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ncpipe.data.dataset import RECORD
from ncpipe.data.originals import version, write_record
from ncpipe.data.pairs import tag_sets, with_pairs
from ncpipe.data.places import check_disk, check_memory
from ncpipe.data.registry import DATASETS
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import Source, SourceSplit, image_shape, kept_classes
from ncpipe.data.storage import PIECE, split_bytes, write_split
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_json
from ncpipe.system.progress import progress

# One stream of random numbers per decision, so that no setting changes what another one draws.
TRAIN_SUBSET, TEST_SUBSET, LABEL_NOISE, RANDOM_LABELS, TRAIN_PAIRS, TEST_PAIRS = range(6)


def prepare(spec: DatasetSpec, folder: Path, search_path: Sequence[Path] = ()) -> None:
    """Write ``train.safetensors``, ``test.safetensors`` and, last, ``dataset.json`` to ``folder``.

    The files hold 'images' (N, C, H, W) or vectors (N, d), uint8 or float32, and 'labels' (N,) int64. Equal settings
    and sources give equal files. Subsets are nested: a larger ``samples_per_class`` or more ``classes`` with the same
    seed contain the smaller.

    Args:
        spec: the data set, its subset, pairing and corruption.
        folder: where to write; created where needed.
        search_path: folders searched before the system's and before a download.

    Raises:
        UserError: the source is missing or damaged, has too few classes or samples of one, or memory or disk are too
            small. Nothing is written then; of a streamed set, read while it is written, no record.
    """
    source: Source = DATASETS[spec.name].open(spec, search_path)
    made_of = version(folder, lambda: source.originals)
    _check_labels(source)
    classes = source.class_names[: kept_classes(spec, len(source.class_names))]
    train, test = _chosen(source, classes, spec)
    labels = _corrupted(train.labels, len(classes), spec)
    bits = max(subset.source.bits(subset.rows) for subset in (train, test))
    subsets = {"train": train._replace(labels=labels, bits=bits), "test": test._replace(bits=bits)}
    shape = image_shape(spec, search_path)
    if not spec.stream:
        _check_memory(spec, subsets, len(classes), shape)
    contents = {name: _content(spec, name, subset, len(classes), shape) for name, subset in subsets.items()}
    check_disk(folder, sum(split_bytes(content.shape, content.dtype) for content in contents.values()))
    (folder / RECORD).unlink(missing_ok=True)
    written = {name: write_split(folder / f"{name}.safetensors", *content) for name, content in contents.items()}
    mean, std = written["train"][1].mean_and_deviation()
    sets = source.tag_sets if spec.pairs is None else tag_sets(len(classes))
    kinds = len(sets or classes)
    origin = {"kind": source.kind, "sha256": source.checksums, "skipped": source.skipped, "bits": bits}
    record = {
        "name": spec.slug,
        "classes": classes,
        "image_shape": contents["train"].shape[1:],
        "counts": {name: part.labels.bincount(minlength=kinds).tolist() for name, part in contents.items()},
        "mean": mean if spec.is_normalized else [0.0] * len(mean),
        "std": std if spec.is_normalized else [1.0] * len(std),
        "sha256": {name: checksum for name, (checksum, _) in written.items()},
        "source": origin,
        "settings": spec.model_dump(mode="json", exclude={"path"}),  # no place of this machine
        "changed_labels": int((labels != train.labels).sum()),
    }
    if source.originals is not None:
        write_record(folder, made_of, source.originals)
    write_json(folder / RECORD, record | ({} if sets is None else {"tag_sets": sets}))


# --- images to write --------------------------------------------------------------------------------


class Subset(NamedTuple):
    """The chosen ``rows`` (n,) of a source, and their labels (n,)."""

    source: SourceSplit
    rows: Tensor
    labels: Tensor
    bits: int = 8
    """Bits of grey images that have more than 8, in both splits."""

    def read(self, rows: Tensor) -> Tensor:
        """The images of some of the rows."""
        return self.source.read(rows, self.bits)


class Content(NamedTuple):
    """What the file of a split is to hold: images (N, C, H, W) of that ``shape`` in pieces, and labels (N,)."""

    shape: tuple[int, ...]
    pieces: Iterable[Tensor]
    labels: Tensor
    dtype: torch.dtype


def _check_memory(spec: DatasetSpec, subsets: dict[str, Subset], num_classes: int, shape: tuple[int, ...]) -> None:
    per_pair = {"train": spec.pairs or 0, "test": spec.test_pairs or 0}
    count = sum(len(subset.rows) + per_pair[name] * comb(num_classes, 2) for name, subset in subsets.items())
    remedy = (
        "set dataset.stream: true" if "stream" in DATASETS[spec.name].takes else "lower dataset.samples_per_class"
    )
    check_memory(spec.slug, count * prod(shape), remedy if spec.pairs is None else "lower dataset.pairs")


def _content(spec: DatasetSpec, name: str, subset: Subset, num_classes: int, shape: tuple[int, ...]) -> Content:
    """All images of a split, with ``pairs`` also those of the pairs; those of a streamed set are read piece by piece
    while they are written."""
    if spec.stream:
        return Content((len(subset.rows), *shape), _pieces(subset, shape, name), subset.labels, torch.uint8)
    images, labels = subset.read(subset.rows), subset.labels
    per_pair, stream = (spec.pairs, TRAIN_PAIRS) if name == "train" else (spec.test_pairs, TEST_PAIRS)
    if per_pair is not None:
        images, labels = with_pairs(images, labels, num_classes, per_pair, (spec.seed, stream))
    return Content(tuple(images.shape), images.split(max(1, PIECE // prod(shape))), labels, images.dtype)


def _pieces(subset: Subset, shape: tuple[int, ...], name: str) -> Iterator[Tensor]:
    done = 0
    with progress(f"{name} images", len(subset.rows)) as report:
        for rows in subset.rows.split(max(1, PIECE // prod(shape))):
            yield subset.read(rows)
            done += len(rows)
            report(done, "")


# --- subset and corruption --------------------------------------------------------------------------


def _check_labels(source: Source) -> None:
    count = len(source.tag_sets or source.class_names)
    for name, split in (("train", source.train), ("test", source.test)):
        if split.labels.min() < 0 or split.labels.max() >= count:
            raise UserError(
                f"{name} labels reach {split.labels.max()}, but there are {count} classes: damaged files?"
            )


def _generator(spec: DatasetSpec, stream: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, stream])


def _chosen(source: Source, classes: Sequence[str], spec: DatasetSpec) -> tuple[Subset, Subset]:
    """The balanced subsets of training and test; of several labels all samples."""
    if source.tag_sets is not None:
        return _whole(source.train, classes, "train"), _whole(source.test, classes, "test")
    return (
        _subset(source.train, classes, spec.samples_per_class, "train", _generator(spec, TRAIN_SUBSET)),
        _subset(source.test, classes, spec.test_samples_per_class, "test", _generator(spec, TEST_SUBSET)),
    )


def _whole(split: SourceSplit, classes: Sequence[str], name: str) -> Subset:
    for label, class_name in enumerate(classes):
        if not (split.labels == label).any():
            raise UserError(f"class {class_name!r} has no {name} samples of this label alone, which collapse is of")
    return Subset(split, torch.arange(len(split.labels)), split.labels)


def _subset(
    split: SourceSplit, classes: Sequence[str], per_class: int | None, name: str, random: np.random.Generator
) -> Subset:
    """``per_class`` random samples of each of the ``classes``, the first of the source, in the source's order."""
    labels = split.labels.numpy()
    chosen = []
    for label, class_name in enumerate(classes):
        members = np.flatnonzero(labels == label)
        if len(members) == 0:
            raise UserError(f"class {class_name!r} has no {name} samples: is the data set complete?")
        if per_class is not None and len(members) < per_class:
            key = "samples_per_class" if name == "train" else "test_samples_per_class"
            raise UserError(
                f"class {class_name!r} has {len(members)} {name} samples: lower dataset.{key} = {per_class}"
            )
        chosen.append(random.permutation(members)[:per_class])
    rows = torch.from_numpy(np.sort(np.concatenate(chosen)))
    return Subset(split, rows, split.labels[rows])


def _corrupted(labels: Tensor, num_classes: int, spec: DatasetSpec) -> Tensor:
    """Labels after label noise, then after the permutation of all labels."""
    noisy = _with_noise(labels.numpy(), num_classes, spec.label_noise, _generator(spec, LABEL_NOISE))
    if spec.random_labels:
        noisy = _generator(spec, RANDOM_LABELS).permutation(noisy)
    return torch.from_numpy(noisy)


def _with_noise(labels: np.ndarray, num_classes: int, fraction: float, random: np.random.Generator) -> np.ndarray:
    """Replace that fraction of every class, to the nearest sample, by another class drawn uniformly."""
    noisy = labels.copy()
    for label in range(num_classes):
        members = np.flatnonzero(labels == label)
        replaced = random.permutation(members)[: round(fraction * len(members))]
        noisy[replaced] = (label + random.integers(1, max(num_classes, 2), len(replaced))) % num_classes
    return noisy
