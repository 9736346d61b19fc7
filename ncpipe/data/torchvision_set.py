"""Data sets in the files that torchvision reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ncpipe.data import places
from ncpipe.data.originals import Originals
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import DIGIT_NAMES, DataSet, NominalShape, Source, SourceSplit, Tensor, torch
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

BY_FLAG = ({"train": True}, {"train": False})
BY_NAME = ({"split": "train"}, {"split": "test"})


@dataclass(frozen=True)
class TorchvisionSet(DataSet):
    """A data set that torchvision reads and downloads."""

    name: str
    published: NominalShape
    torchvision: str
    """torchvision's class."""
    files: tuple[str, ...]
    splits: tuple[Mapping[str, object], Mapping[str, object]]
    """Arguments that select the training and the test split."""

    @property
    def contents(self) -> str:
        """What to look for in a folder, for error messages."""
        return ", ".join(dict.fromkeys(file.split("/")[0] for file in self.files))

    def open(self, spec: DatasetSpec, search_path: Sequence[Path]) -> Source:
        root = self._find(search_path)
        if root is None:
            with places.downloading(self.name, self.contents) as root:
                return self._read(root, download=True)
        try:
            return self._read(root)
        except (OSError, RuntimeError):
            raise UserError(
                f"{self.name} in {root} is incomplete, damaged or unreadable: "
                f"replace {self.contents} by the published"
            ) from None

    def originals(self, path: str | None, search_path: Sequence[Path]) -> Originals | None:
        files = self._present(self._find(search_path) or places.cache_folder(self.name))
        return Originals.of_files(files) if files else None

    def _find(self, search_path: Iterable[Path]) -> Path | None:
        """The first folder that holds some of the files, below which torchvision looks for them."""
        folders = (*search_path, *places.SYSTEM_FOLDERS)
        candidates = (place for folder in folders for place in (folder, folder / self.name))
        return next((place for place in candidates if self._present(place)), None)

    def _present(self, root: Path) -> list[Path]:
        return [path for file in self.files if (path := root / file).is_file()]

    def _read(self, root: Path, download: bool = False) -> Source:
        reader = getattr(import_torchvision().datasets, self.torchvision)
        opened = [reader(root, **arguments, download=download) for arguments in self.splits]
        train, test = (SourceSplit.of(_channels_first(split.data), _labels(split)) for split in opened)
        class_names = tuple(getattr(opened[0], "classes", DIGIT_NAMES))
        originals = Originals.of_files(self._present(root))
        return Source(train, test, class_names, f"torchvision {self.torchvision}", originals.checksums(), originals)


def _channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images if images.shape[1] == 3 else images.transpose(0, 3, 1, 2)).contiguous()


def _labels(split: Any) -> Tensor:
    return torch.as_tensor(np.asarray(split.targets if hasattr(split, "targets") else split.labels)).long()
