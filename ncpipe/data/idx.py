"""Data sets in idx files, plain or gzipped, which MNIST came in."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.data import places
from ncpipe.data.originals import Originals
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DataSet, NominalShape, Source, SourceSplit, Tensor, torch
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
"""Images and labels of a split, by the names that they were published under."""
MOST_UNPACKED = 1100
"""Bytes that gzip can make of one."""


@dataclass(frozen=True)
class IdxSet(DataSet):
    """A data set of four idx files."""

    name: str
    published: NominalShape
    class_names: tuple[str, ...]
    torchvision: str
    """torchvision's class, which downloads to ``<root>/<class>/raw``."""
    folders: tuple[str, ...]
    """Folder names that say which data set is inside, for its files have the same names as others'."""

    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        files = self._find(search_path)
        if files is None:
            with places.downloading(self.name, "train-images-idx3-ubyte.gz and its three siblings") as root:
                getattr(import_torchvision().datasets, self.torchvision)(root, download=True)
            files = self._downloaded()
            assert files is not None  # torchvision has just read them
        originals = Originals.of_files(files.values())  # as they are before they are read
        pairs = ([files[file] for file in pair] for pair in IDX_FILES.values())
        train, test = (SourceSplit.of(*read_idx_pair(*pair)) for pair in pairs)
        return Source(train, test, self.class_names, "idx files", originals.checksums(), originals)

    def originals(self, path: str | None, search_path: Sequence[Path]) -> Originals | None:
        files = self._find(search_path) or self._downloaded()
        return Originals.of_files(files.values()) if files else None

    def _find(self, search_path: Sequence[Path]) -> dict[str, Path] | None:
        """The four files by their published names in the first place that has some; None where none has.

        Raises ``UserError`` where only some are there, as after an interrupted copy.
        """
        folders = [place for folder in (*search_path, *places.SYSTEM_FOLDERS) for place in self._places(folder)]
        return next((files for folder in folders if (files := _idx_files(folder))), None)

    def _downloaded(self) -> dict[str, Path] | None:
        return _idx_files(places.cache_folder(self.name) / self.torchvision / "raw")

    def _places(self, parent: Path) -> list[Path]:
        """Where the files may be in a folder; directly inside only if the folder has the right name."""
        itself = [parent] if any(parent.absolute().match(name) for name in self.folders) else []
        return [*itself, *(parent / name for name in self.folders)]


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


def read_idx_pair(images_path: Path, labels_path: Path) -> tuple[Tensor, Tensor]:
    """Images (N, 1, H, W) uint8 and labels (N,) int64 of one split; a damaged file is a ``UserError``."""
    images, labels = read_idx(images_path, ndim=3), read_idx(labels_path, ndim=1)
    if len(images) != len(labels):
        raise UserError(
            f"{images_path} holds {len(images)} images but {labels_path.name} {len(labels)} labels: get both anew"
        )
    return images.unsqueeze(1), labels.long()


def read_idx(path: Path, ndim: int) -> Tensor:
    """The uint8 array of an idx file, which must have ``ndim`` dimensions."""
    remedy = "replace the file by the published one"
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"  # whatever its name says
        opened: Any = gzip.open if packed else open
        with opened(path, "rb") as stream:
            # Two zeros, the type (8: unsigned byte) and the number of dimensions; then their lengths, big-endian.
            header = stream.read(4 * (1 + ndim))
            if header[:4] != bytes([0, 0, 8, ndim]) or len(header) < 4 * (1 + ndim):
                raise UserError(f"{path} is not an idx file of {ndim}-dimensional bytes; {remedy}")
            shape = struct.unpack(f">{ndim}I", header[4:])
            if prod(shape) > MOST_UNPACKED * path.stat().st_size:
                raise UserError(f"{path} holds less data than {prod(shape)} bytes; {remedy}")
            places.check_memory(str(path), prod(shape), remedy)
            content = stream.read(prod(shape) + 1)  # and no more, whatever a packed file unfolds to
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; {remedy}") from None
    if len(content) != prod(shape):
        held = f"{len(content)} bytes" if len(content) < prod(shape) else "more bytes"
        raise UserError(f"{path} holds {held} of data instead of {prod(shape)}; {remedy}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())
