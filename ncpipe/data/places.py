"""Where the files of published data sets are: the search path, Debian's packages, the cache of downloads.

Imports no torch: whether files have changed is asked while a workflow is planned.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ncpipe.system.errors import UserError

SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)
"""Where Debian's data-set packages put their files."""


def cache_folder(name: str) -> Path:
    """Folder of a downloaded data set, below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ncpipe" / name


# --- idx files --------------------------------------------------------------------------------------


IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of a split, by the names that they were published under."""


@dataclass(frozen=True)
class IdxSet:
    """A data set of four idx files."""

    torchvision: str
    """torchvision's class, which downloads to ``<root>/<class>/raw``."""
    folders: tuple[str, ...]
    """Folder names that say which data set is inside, for its files have the same names as others'."""

    def places(self, parent: Path) -> list[Path]:
        """Where the files may be in a folder; directly inside only if the folder has the right name."""
        itself = [parent] if any(parent.absolute().match(name) for name in self.folders) else []
        return [*itself, *(parent / name for name in self.folders)]


IDX_SETS = {
    "mnist": IdxSet("MNIST", ("mnist", "MNIST", "MNIST/raw")),
    "fashion_mnist": IdxSet("FashionMNIST", ("fashion_mnist", "fashion-mnist", "FashionMNIST", "FashionMNIST/raw")),
}


def find_idx_set(name: str, search_path: Sequence[Path]) -> dict[str, Path] | None:
    """The four files by their published names in the first place that has some; None where none has.

    Raises ``UserError`` where only some are there, as after an interrupted copy.
    """
    known = IDX_SETS[name]
    places = [place for folder in (*search_path, *SYSTEM_FOLDERS) for place in known.places(folder)]
    return next((files for place in places if (files := _idx_files(place))), None)


def downloaded_idx_set(name: str) -> dict[str, Path] | None:
    """The same in the cache."""
    return _idx_files(cache_folder(name) / IDX_SETS[name].torchvision / "raw")


def _idx_files(folder: Path) -> dict[str, Path] | None:
    names = [name for pair in IDX_FILES.values() for name in pair]
    found = {name: path for name in names for path in _spellings(folder, name) if path.is_file()}
    if found and len(found) < len(names):
        missing = ", ".join(name for name in names if name not in found)
        raise UserError(f"{folder} lacks {missing} (plain or .gz): complete the data set or remove the folder")
    return found or None


def _spellings(folder: Path, name: str) -> Iterator[Path]:
    """Paths of an idx file, the best last: that with .gz as published, then others, which an interruption may have
    cut while they were unpacked. Archives of today have a dot in the names, or a folder of its own for every file."""
    for spelling in (name.replace("-idx", ".idx"), name):
        yield from (folder / spelling / spelling, folder / spelling, folder / f"{spelling}.gz")


# --- data sets that torchvision reads ---------------------------------------------------------------


@dataclass(frozen=True)
class TorchvisionSet:
    """A data set in the files that torchvision reads."""

    torchvision: str
    """torchvision's class."""
    files: tuple[str, ...]
    splits: tuple[Mapping[str, object], Mapping[str, object]]
    """Arguments that select the training and the test split."""

    @property
    def contents(self) -> str:
        """What to look for in a folder, for error messages."""
        return ", ".join(dict.fromkeys(file.split("/")[0] for file in self.files))

    def present(self, root: Path) -> list[Path]:
        """Those of the files that are there."""
        return [path for file in self.files if (path := root / file).is_file()]


_FLAGS = ({"train": True}, {"train": False})
_NAMES = ({"split": "train"}, {"split": "test"})
_CIFAR10_FILES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
TORCHVISION_SETS = {
    "cifar10": TorchvisionSet("CIFAR10", tuple(f"cifar-10-batches-py/{f}" for f in _CIFAR10_FILES), _FLAGS),
    "cifar100": TorchvisionSet("CIFAR100", tuple(f"cifar-100-python/{f}" for f in ("train", "test", "meta")), _FLAGS),
    "svhn": TorchvisionSet("SVHN", ("train_32x32.mat", "test_32x32.mat"), _NAMES),
    "stl10": TorchvisionSet(
        "STL10", tuple(f"stl10_binary/{split}_{part}.bin" for split in ("train", "test") for part in "Xy"), _NAMES
    ),
}


def find_torchvision_set(name: str, search_path: Iterable[Path]) -> Path | None:
    """The first folder that holds some of the files of the data set, below which torchvision looks for them."""
    known = TORCHVISION_SETS[name]
    folders = (*search_path, *SYSTEM_FOLDERS)
    return next((place for folder in folders for place in (folder, folder / name) if known.present(place)), None)
