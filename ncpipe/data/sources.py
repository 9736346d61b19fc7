"""Where data sets come from: the search path, Debian's packages, scikit-learn, or a download by torchvision."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ncpipe.data.idx import read_idx_pair
from ncpipe.data.imagefolder import ImageFolder
from ncpipe.data.originals import Originals
from ncpipe.data.places import (
    IDX_FILES,
    IDX_SETS,
    TORCHVISION_SETS,
    TorchvisionSet,
    cache_folder,
    downloaded_idx_set,
    find_idx_set,
    find_torchvision_set,
)
from ncpipe.data.settings import DatasetSpec
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""

DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True)
class SourceSplit:
    """Labels (N,) int64 and a way to read some of the images, so that a subset costs only its own images."""

    labels: Tensor
    read: Callable[[Tensor, int], Tensor]
    """Indices (n,), and the bits of images of more than 8, to images (n, C, H, W) uint8."""
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


def open_source(spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
    """Find a data set in the search path, then the system's folders, then download it to the cache.

    Raises ``UserError`` where it is nowhere, or found and damaged.
    """
    if spec.name == "digits":
        return _digits()
    if spec.name == "imagefolder":
        assert spec.path is not None  # DatasetSpec sees to both
        assert spec.image_size is not None
        return _image_folder(ImageFolder.find(spec.path, search_path), spec.image_size)
    if spec.name in IDX_SETS:
        return _idx(spec.name, search_path)
    return _torchvision(spec.name, search_path)


# --- scikit-learn's digits, image folders ---------------------------------------------------------


def _digits() -> Source:
    """The 1,797 8x8 digits; a stratified fifth, drawn by scikit-learn with seed 0, is the test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = [SourceSplit.of(images[rows], labels[rows]) for rows in (np.sort(train), np.sort(test))]
    return Source(splits[0], splits[1], DIGIT_NAMES, "scikit-learn load_digits")


def _image_folder(folder: ImageFolder, side: int) -> Source:
    def split(name: str) -> SourceSplit:
        names, labels = zip(*folder.members(name), strict=True)

        def of(rows: Tensor) -> list[str]:
            return [names[row] for row in rows.tolist()]

        return SourceSplit(
            torch.tensor(labels),
            lambda rows, bits: folder.read(of(rows), side, bits),
            lambda rows: folder.bits(of(rows)),
        )

    if left_out := folder.left_out():
        print(left_out, flush=True)
    kind = "zip of images" if folder.packed else "folder of images"
    originals = Originals.of_images(folder)
    return Source(
        split("train"), split("test"), folder.class_names, kind, folder.checksums(), originals, folder.skipped
    )


# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------

CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip


def _idx(name: str, search_path: Sequence[Path]) -> Source:
    files = find_idx_set(name, search_path)
    if files is None:
        root = cache_folder(name)
        with _downloading(name, root, "train-images-idx3-ubyte.gz and its three siblings"):
            getattr(import_torchvision().datasets, IDX_SETS[name].torchvision)(root, download=True)
        files = downloaded_idx_set(name)
        assert files is not None  # torchvision has just read them
    originals = Originals.of_files(files.values())  # as they are before they are read
    train, test = (SourceSplit.of(*read_idx_pair(*(files[file] for file in pair))) for pair in IDX_FILES.values())
    names = DIGIT_NAMES if name == "mnist" else CLOTHES
    return Source(train, test, names, "idx files", originals.checksums(), originals)


# --- data sets that torchvision reads ---------------------------------------------------------------


def _torchvision(name: str, search_path: Sequence[Path]) -> Source:
    known = TORCHVISION_SETS[name]
    root = find_torchvision_set(name, search_path)
    if root is not None:
        try:
            return _read_torchvision(known, root)
        except (OSError, RuntimeError):
            raise UserError(
                f"{name} in {root} is incomplete, damaged or unreadable: replace {known.contents} by the published"
            ) from None
    root = cache_folder(name)
    with _downloading(name, root, known.contents):
        return _read_torchvision(known, root, download=True)


def _read_torchvision(known: TorchvisionSet, root: Path, download: bool = False) -> Source:
    reader = getattr(import_torchvision().datasets, known.torchvision)
    opened = [reader(root, **arguments, download=download) for arguments in known.splits]
    train, test = (SourceSplit.of(_channels_first(split.data), _labels(split)) for split in opened)
    class_names = tuple(getattr(opened[0], "classes", DIGIT_NAMES))
    originals = Originals.of_files(known.present(root))
    return Source(train, test, class_names, f"torchvision {known.torchvision}", originals.checksums(), originals)


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)).contiguous()


def _labels(split: Any) -> Tensor:
    return torch.as_tensor(np.asarray(split.targets if hasattr(split, "targets") else split.labels)).long()


# --- downloads -----------------------------------------------------------------------------------


@contextmanager
def _downloading(name: str, root: Path, files: str) -> Iterator[None]:
    """One process at a time downloads into ``root``; torchvision checks MD5 sums and keeps what is whole."""
    timeout = socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            yield
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        raise UserError(
            f"{name} is in no searched folder and cannot be downloaded to {root} ({_one_line(error)}): "
            f"put {files} into a folder of study.data_path, or try again with a network"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
