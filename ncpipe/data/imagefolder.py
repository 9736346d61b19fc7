"""Images in ImageNet's layout, ``{train,test|val}/<class>/*.jpg``, in a folder or a zip."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from ncpipe.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image as PilImage
    from torch import Tensor

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
TEST_NAMES = ("test", "val")
LARGEST_IMAGE = 256 * 2**20
"""Bytes that a member of a zip may unpack to: a small zip could fill the memory."""
BLOCK = 16
"""Images that a thread reads in one go."""


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder or zip, listed and not yet read."""

    path: Path
    images: dict[str, dict[str, list[str]]]
    """Names within ``path``, sorted, by split ('train', 'test') and class."""

    @classmethod
    def find(cls, path: str, search_path: Sequence[Path] = ()) -> ImageFolder:
        """List the folder or zip ``path``; a relative one is also looked for in ``search_path``.

        'val' stands for the test split where no 'test' holds classes. Raises ``UserError`` for a missing path,
        another layout, or classes that differ between the splits.
        """
        candidates = [Path(path).expanduser(), *(folder / path for folder in search_path)]
        found = next((candidate for candidate in candidates if candidate.exists()), None)
        if found is None:
            raise UserError(
                f"image folder {path!r} not found: correct dataset.path, or add its parent to study.data_path"
            )
        tree = _by_split_and_class(_names_in_zip(found) if found.is_file() else _names_in_folder(found))
        test = next((name for name in TEST_NAMES if name in tree), None)
        if "train" not in tree or test is None:
            raise UserError(
                f"{found} needs folders 'train' and 'test' (or 'val'), each with a folder of images per class"
            )
        if odd := sorted(tree["train"].keys() ^ tree[test].keys()):
            raise UserError(f"{found}: class {odd[0]!r} has images in only one of 'train' and {test!r}")
        return cls(found, {"train": tree["train"], "test": tree[test]})

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(self.images["train"]))

    def members(self, split: str) -> list[tuple[str, int]]:
        """Name and label of every image of a split, class by class."""
        return [(name, label) for label, cls in enumerate(self.class_names) for name in self.images[split][cls]]

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the zip; of a folder, which may be huge, that of its list of image names and sizes."""
        if self.path.is_file():
            with self.path.open("rb") as stream:
                return {self.path.name: hashlib.file_digest(stream, "sha256").hexdigest()}
        names = [name for split in self.images for name, _ in self.members(split)]
        try:
            listing = "".join(f"{name} {(self.path / name).stat().st_size}\n" for name in names)
        except OSError as error:
            raise UserError(f"cannot read {error.filename}: {error.strerror}; replace or remove it") from None
        return {"names and sizes of the images": hashlib.sha256(listing.encode()).hexdigest()}

    def read(self, names: Sequence[str], side: int) -> Tensor:
        """Images (N, 3, side, side) uint8: RGB, cropped to the central square and resized where needed.

        Raises ``UserError`` naming the first image that cannot be read.
        """
        import numpy as np
        import torch

        images = np.empty((len(names), side, side, 3), dtype=np.uint8)
        # Threads: Pillow decodes and resizes without Python's lock.
        with self._reader() as read, ThreadPoolExecutor() as pool:

            def fill(start: int) -> None:
                for row, name in enumerate(names[start : start + BLOCK], start):
                    images[row] = np.asarray(self._image(name, read, side))

            deque(pool.map(fill, range(0, len(names), BLOCK)), maxlen=0)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def _image(self, name: str, read: Callable[[str], bytes], side: int) -> PilImage:
        from PIL.Image import DecompressionBombError

        try:
            return _decode(read(name), side)
        except (
            OSError, SyntaxError, ValueError, RuntimeError, zlib.error, zipfile.BadZipFile, DecompressionBombError
        ) as error:  # fmt: skip
            reason = str(error).splitlines()[0]
            raise UserError(f"cannot read {name} in {self.path}: {reason}; replace or remove it") from None

    @contextmanager
    def _reader(self) -> Iterator[Callable[[str], bytes]]:
        if self.path.is_dir():
            yield lambda name: (self.path / name).read_bytes()
        else:
            with zipfile.ZipFile(self.path) as archive:

                def read(name: str) -> bytes:
                    if archive.getinfo(name).file_size > LARGEST_IMAGE:
                        raise ValueError(f"it unpacks to more than {LARGEST_IMAGE // 2**20} MiB")
                    return archive.read(name)  # no more than that size

                yield read


def _decode(content: bytes, side: int) -> PilImage:
    import numpy as np
    from PIL import Image, ImageOps

    opened: PilImage = Image.open(io.BytesIO(content))
    if opened.mode.startswith("I;16"):  # convert() would clip 16 bits, not scale them
        opened = Image.fromarray((np.asarray(opened) >> 8).astype(np.uint8))
    if opened.mode in ("I", "F"):
        raise ValueError(f"its values are of mode {opened.mode!r}, not of 8 or 16 bits")
    image = opened.convert("RGB")
    return image if image.size == (side, side) else ImageOps.fit(image, (side, side), Image.Resampling.BILINEAR)


def _names_in_folder(folder: Path) -> Iterator[str]:
    for split in ("train", *TEST_NAMES):
        for parent, folders, files in os.walk(folder / split, followlinks=True):
            for name in list(folders):
                if (linked := Path(parent) / name).is_symlink() and Path(parent).resolve().is_relative_to(
                    linked.resolve()
                ):
                    raise UserError(f"{linked} links to a folder that it is in; remove it")
            inside = Path(parent).relative_to(folder).as_posix()
            yield from (f"{inside}/{file}" for file in files)


def _names_in_zip(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; is it a whole zip file?") from None


def _by_split_and_class(names: Iterable[str]) -> dict[str, dict[str, list[str]]]:
    """Sort image names into splits and classes; a single folder around the splits is looked through."""
    paths = [path for path in map(PurePosixPath, names) if path.suffix.lower() in SUFFIXES and not _hidden(path)]
    outermost = {path.parts[0] for path in paths}
    depth = 1 if len(outermost) == 1 and outermost != {"train"} else 0
    tree: dict[str, dict[str, list[str]]] = {}
    for path in sorted(paths):
        if len(path.parts) >= depth + 3:
            split, cls = path.parts[depth : depth + 2]
            tree.setdefault(split, {}).setdefault(cls, []).append(str(path))
    return tree


def _hidden(path: PurePosixPath) -> bool:
    """Files that operating systems leave in folders and zips."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
