"""Where data sets come from: the search path, Debian's packages, scikit-learn, or a download by torchvision."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from ncpipe.data.idx import FILES, find_idx_files, read_idx_pair
from ncpipe.data.imagefolder import ImageFolder
from ncpipe.errors import UserError
from ncpipe.files import sha256
from ncpipe.study.spec import DatasetSpec
from ncpipe.vision import import_torchvision

SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)
"""Where Debian's data-set packages put their files."""

DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""

DIGIT_NAMES = tuple("0123456789")


@dataclass(frozen=True)
class SourceSplit:
    """Labels (N,) int64 and a way to read some of the images, so that a subset costs only its own images."""

    labels: Tensor
    read: Callable[[Tensor], Tensor]
    """Indices (n,) to images (n, C, H, W) uint8."""

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> SourceSplit:
        return cls(labels, images.__getitem__)


@dataclass(frozen=True)
class Source:
    """A data set as it was found. ``kind`` and ``checksums`` (SHA-256 by file name) name no place."""

    train: SourceSplit
    test: SourceSplit
    class_names: tuple[str, ...]
    kind: str
    checksums: dict[str, str] = field(default_factory=dict)


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
    folders = [*search_path, *SYSTEM_FOLDERS]
    if spec.name in _IDX_SETS:
        return _idx(spec.name, folders)
    return _torchvision(spec.name, folders)


def cache_folder(name: str) -> Path:
    """Folder of a downloaded data set, below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ncpipe" / name


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
        return SourceSplit(
            torch.tensor(labels), lambda rows: folder.read([names[row] for row in rows.tolist()], side)
        )

    kind = "zip of images" if folder.path.is_file() else "folder of images"
    return Source(split("train"), split("test"), folder.class_names, kind, folder.checksums())


# --- MNIST and Fashion-MNIST -----------------------------------------------------------------------


_CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip


@dataclass(frozen=True)
class _IdxSet:
    class_names: tuple[str, ...]
    torchvision: str
    """torchvision's class, which downloads to ``<root>/<class>/raw``."""
    folders: tuple[str, ...]
    """Folder names that say which data set is inside, for its files have the same names as others'."""

    def places(self, parent: Path) -> list[Path]:
        """Where the files may be in a folder; directly inside only if the folder has the right name."""
        itself = [parent] if any(parent.absolute().match(name) for name in self.folders) else []
        return [*itself, *(parent / name for name in self.folders)]


_IDX_SETS = {
    "mnist": _IdxSet(DIGIT_NAMES, "MNIST", ("mnist", "MNIST", "MNIST/raw")),
    "fashion_mnist": _IdxSet(
        _CLOTHES, "FashionMNIST", ("fashion_mnist", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw")
    ),
}


def _idx(name: str, folders: Sequence[Path]) -> Source:
    known = _IDX_SETS[name]
    places = [place for folder in folders for place in known.places(folder)]
    files = next((files for place in places if (files := find_idx_files(place))), None)
    if files is None:
        root = cache_folder(name)
        with _downloading(name, root, "train-images-idx3-ubyte.gz and its three siblings"):
            getattr(import_torchvision().datasets, known.torchvision)(root, download=True)
        files = find_idx_files(root / known.torchvision / "raw")
        assert files is not None  # torchvision has just read them
    train, test = (SourceSplit.of(*read_idx_pair(*(files[file] for file in pair))) for pair in FILES.values())
    return Source(train, test, known.class_names, "idx files", _checksums(files.values()))


# --- data sets that torchvision reads ---------------------------------------------------------------


@dataclass(frozen=True)
class _TorchvisionSet:
    torchvision: str
    files: tuple[str, ...]
    splits: tuple[dict[str, object], dict[str, object]]
    """Arguments that select the training and the test split."""

    @property
    def contents(self) -> str:
        """What to look for in a folder, for error messages."""
        return ", ".join(dict.fromkeys(file.split("/")[0] for file in self.files))


_FLAGS: tuple[dict[str, object], dict[str, object]] = ({"train": True}, {"train": False})
_NAMES: tuple[dict[str, object], dict[str, object]] = ({"split": "train"}, {"split": "test"})
_CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
_TORCHVISION_SETS = {
    "cifar10": _TorchvisionSet("CIFAR10", tuple(f"cifar-10-batches-py/{f}" for f in _CIFAR10_FILES), _FLAGS),
    "cifar100": _TorchvisionSet(
        "CIFAR100", tuple(f"cifar-100-python/{f}" for f in ("train", "test", "meta")), _FLAGS
    ),
    "svhn": _TorchvisionSet("SVHN", ("train_32x32.mat", "test_32x32.mat"), _NAMES),
    "stl10": _TorchvisionSet(
        "STL10", tuple(f"stl10_binary/{split}_{part}.bin" for split in ("train", "test") for part in "Xy"), _NAMES
    ),
}


def _torchvision(name: str, folders: Sequence[Path]) -> Source:
    known = _TORCHVISION_SETS[name]
    places = [place for folder in folders for place in (folder, folder / name)]
    root = next((place for place in places if any((place / file).is_file() for file in known.files)), None)
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


def _read_torchvision(known: _TorchvisionSet, root: Path, download: bool = False) -> Source:
    reader = getattr(import_torchvision().datasets, known.torchvision)
    opened = [reader(root, **arguments, download=download) for arguments in known.splits]
    train, test = (SourceSplit.of(_channels_first(split.data), _labels(split)) for split in opened)
    class_names = tuple(getattr(opened[0], "classes", DIGIT_NAMES))
    checksums = _checksums(root / file for file in known.files if (root / file).is_file())
    return Source(train, test, class_names, f"torchvision {known.torchvision}", checksums)


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


def _checksums(paths: Iterable[Path]) -> dict[str, str]:
    return {path.name: sha256(path) for path in paths}
