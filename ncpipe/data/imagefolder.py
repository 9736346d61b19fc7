"""Images in ImageNet's layout, ``{train,test|val}/<class>/*.jpg``, in a folder or a zip."""

from __future__ import annotations

import hashlib
import os
import re
import stat
import unicodedata
import zipfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np

from ncpipe.data.places import find_path
from ncpipe.system.errors import UserError
from ncpipe.system.files import sha256
from ncpipe.system.lazy import lazily

if TYPE_CHECKING:
    from torch import Tensor

    from ncpipe.data import images as pictures
else:  # Pillow is not loaded to list images
    pictures = lazily("ncpipe.data.images")

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
OF_8_BITS = frozenset({".jpg", ".jpeg", ".bmp", ".webp"})
"""Kinds that never have more."""
TEST_NAMES = ("test", "val")
SPLITS = ("train", *TEST_NAMES)
OF_SYSTEMS = frozenset({"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""What operating systems leave in folders and zips, beside names with a dot in front."""
LARGEST_IMAGE = 256 * 2**20
"""Bytes that a member of a zip may unpack to: a small zip could fill the memory."""
BLOCK = 16
"""Images that a thread reads in one go."""
KINDS = 8
"""Kinds of files that are passed over, counted one by one."""
PLAIN = re.compile(r"\.[a-z0-9_+-]{1,12}")
"""Endings that are told."""


class Entry(NamedTuple):
    """A file or folder within a folder or zip."""

    place: str
    """Its path from the split on: ``train/cat/a.png``."""
    name: str
    """What it is read by: of a member of a zip as it is written there, perhaps ``./photos\\train\\cat\\a.png``."""
    size: int | None
    """Bytes; None: a folder."""
    stamp: int
    """Nanoseconds of its last change, in a zip the CRC-32 of its content."""


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder or zip, listed and not yet read."""

    path: Path
    packed: bool
    """Whether it is a zip."""
    images: dict[str, dict[str, list[Entry]]]
    """Images of each split ('train', 'test') and class, in order."""
    skipped: dict[str, int]
    """Files that are not read, by kind or place."""
    digests: dict[str, str] = field(default_factory=dict, compare=False)
    """Digests of the images that were read, by name."""

    @classmethod
    def find(cls, path: str, search_path: Sequence[Path] = ()) -> ImageFolder:
        """List the folder or zip ``path``; a relative one is also looked for in ``search_path``.

        'val' stands for the test split where no class of 'train' has images in 'test'. Raises ``UserError`` for a
        missing path, another layout, or a class without images in a split.
        """
        found = find_path(path, search_path, "image folder")
        skipped: Counter[str] = Counter()
        entries = _in_zip(found, skipped) if found.is_file() else _in_folder(os.fspath(found))
        tree = _by_split_and_class(entries, skipped)
        test = _test_split(tree)
        if not tree.get("train") or test is None:
            raise UserError(
                f"{found} needs folders 'train' and 'test' (or 'val'), each with a folder of images per class"
            )
        for cls_name in in_order({*tree["train"], *tree[test]}):
            for split in ("train", test):
                if reason := _lacks_images(tree[split].get(cls_name)):
                    raise UserError(
                        f"{found}: class {cls_name!r} has no images in {split!r} ({reason}): add or convert them,"
                        " or remove the class from both splits"
                    )
        for unused in {*tree} - {"train", test}:
            skipped[f"in {unused!r}"] += sum(len(c.images) + c.others.total() for c in tree[unused].values())
        for split in ("train", test):
            skipped.update(kind for cls_files in tree[split].values() for kind in cls_files.others.elements())
        images = {
            name: {cls_name: tree[split][cls_name].images for cls_name in in_order(tree["train"])}
            for name, split in (("train", "train"), ("test", test))
        }
        return cls(found, found.is_file(), images, _few_kinds(skipped))

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(self.images["train"])

    @property
    def entries(self) -> Iterator[Entry]:
        """All images."""
        return (entry for split in self.images.values() for entries in split.values() for entry in entries)

    def members(self, split: str) -> list[tuple[str, int]]:
        """Name and label of every image of a split, class by class."""
        return [
            (entry.name, label)
            for label, entries in enumerate(self.images[split].values())
            for entry in entries
        ]  # fmt: skip

    def checksums(self) -> dict[str, str]:
        """SHA-256 of the zip; of a folder, which may be huge, that of its list of image names and sizes."""
        if self.packed:
            return {self.path.name: sha256(self.path)}
        listing = "".join(f"{entry.name} {entry.size}\n" for entry in self.entries)
        return {"names and sizes of the images": hashlib.sha256(as_bytes(listing)).hexdigest()}

    def digest(self, entry: Entry) -> str:
        """Digest of the content of an image as it is now."""
        return f"{entry.stamp:08x}" if self.packed else self._digest((self.path / entry.name).read_bytes())

    def _digest(self, content: bytes) -> str:
        if self.packed:  # as it stands in the zip's directory
            return f"{zlib.crc32(content):08x}"
        return hashlib.blake2b(content, digest_size=16).hexdigest()

    def left_out(self) -> str:
        """The files that are not read, in words; empty where there is none."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.skipped.items())
        return f"{self.path}: {sum(self.skipped.values()):,} files are not read: {kinds}" if kinds else ""

    def read(self, names: Sequence[str], size: tuple[int, int], bits: int = 16) -> Tensor:
        """Images (N, 3, H, W) uint8 of that ``size``: RGB, cropped to the centre and resized where needed.

        Values of more than 8 bits are taken to have so many ``bits``. Raises ``UserError`` naming the first image
        that cannot be read.
        """
        import torch

        images = np.empty((len(names), *size, 3), dtype=np.uint8)

        def fill(row: int, stream: IO[bytes]) -> None:
            content = stream.read()
            self.digests[names[row]] = self._digest(content)
            images[row] = np.asarray(pictures.decode(content, size, bits))

        self._each(names, fill)
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def bits(self, names: Sequence[str]) -> int:
        """The fewest bits that hold the values of all images that are stored with more than 8; 8 where none is."""
        deep = [name for name in names if _suffix(name) not in OF_8_BITS]
        found = [8] * len(deep)

        def look(row: int, stream: IO[bytes]) -> None:
            found[row] = pictures.bits_of(stream)

        self._each(deep, look)
        return max(found, default=8)

    def _each(self, names: Sequence[str], use: Callable[[int, IO[bytes]], None]) -> None:
        """Call ``use`` with the row and the opened file of every name."""
        # Threads: Pillow decodes and resizes without Python's lock.
        with self._opener() as opened, ThreadPoolExecutor() as pool:

            def block(start: int) -> None:
                for row in range(start, min(start + BLOCK, len(names))):
                    try:
                        with opened(names[row]) as stream:
                            use(row, stream)
                    except (*pictures.NOT_READABLE, zlib.error, zipfile.BadZipFile) as error:
                        reason = next(iter(str(error).splitlines()), type(error).__name__)
                        where = f"{names[row]} in {self.path}"
                        raise UserError(f"cannot read {where}: {reason}; replace or remove it") from None

            deque(pool.map(block, range(0, len(names), BLOCK)), maxlen=0)

    @contextmanager
    def _opener(self) -> Iterator[Callable[[str], IO[bytes]]]:
        if not self.packed:
            yield lambda name: (self.path / name).open("rb")
        else:
            with zipfile.ZipFile(self.path) as archive:

                def opened(name: str) -> IO[bytes]:
                    if archive.getinfo(name).file_size > LARGEST_IMAGE:
                        raise ValueError(f"it unpacks to more than {LARGEST_IMAGE // 2**20} MiB")
                    return archive.open(name)  # of which no more than that size is read

                yield opened


def as_bytes(name: str) -> bytes:
    """A name in UTF-8, or where it is none as it stands on the disk."""
    return name.encode(errors="surrogateescape")


def in_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order of their labels: whole numbers by value, others by the alphabet."""
    found = list(names)
    if all(name.isascii() and name.isdigit() for name in found):
        return sorted(found, key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    return sorted(found)


# --- splits and classes -----------------------------------------------------------------------------


@dataclass
class _Class:
    """Files of a class in a split: images, and how many others by kind."""

    images: list[Entry] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)


def _by_split_and_class(entries: Iterable[Entry], skipped: Counter[str]) -> dict[str, dict[str, _Class]]:
    """Files sorted into splits and classes, empty ones too."""
    tree: dict[str, dict[str, _Class]] = {}
    for entry in entries:
        parent, _, name = entry.place.rpartition("/")
        split, _, folder = (parent or name).partition("/")
        if split not in SPLITS:
            skipped["outside the splits"] += entry.size is not None and _suffix(name) in SUFFIXES
        elif entry.size is None:
            classes = tree.setdefault(split, {})
            if parent:
                classes.setdefault(_class_name((folder or name).partition("/")[0]), _Class())
        elif not folder:
            skipped["outside the classes"] += 1
        else:
            files = tree.setdefault(split, {}).setdefault(_class_name(folder.partition("/")[0]), _Class())
            suffix = _suffix(name)
            if suffix in SUFFIXES:
                files.images.append(entry)
            else:
                files.others[suffix if PLAIN.fullmatch(suffix) else "other" if suffix else "without ending"] += 1
    for files in (files for classes in tree.values() for files in classes.values()):
        files.images.sort(key=lambda entry: entry.place.replace("/", "\0"))  # as paths are sorted, part by part
    return tree


def _suffix(name: str) -> str:
    _, dot, ending = name.rpartition(".")
    return dot and f".{ending.lower()}"


@cache
def _class_name(folder: str) -> str:
    """The name of a class: composed characters, as file systems differ in them, and escapes for what is no UTF-8."""
    return unicodedata.normalize("NFC", as_bytes(folder).decode(errors="backslashreplace"))


def _test_split(tree: dict[str, dict[str, _Class]]) -> str | None:
    """The name of the test split: the first with images of a class of 'train', else the first with classes."""
    named = [name for name in TEST_NAMES if tree.get(name)]
    known = tree.get("train", {})
    labelled = (name for name in named if any(files.images for cls, files in tree[name].items() if cls in known))
    return next(labelled, next(iter(named), None))


def _lacks_images(files: _Class | None) -> str:
    """Why a class has none; empty where it has some."""
    if files is None:
        return "no such folder"
    if files.images:
        return ""
    kinds = _few_kinds(files.others)
    return f"only {', '.join(f'{n} {kind}' for kind, n in kinds.items())}" if kinds else "an empty folder"


def _few_kinds(counts: Counter[str]) -> dict[str, int]:
    """The most frequent kinds with their counts, all others as one."""
    known = sorted((-count, kind) for kind, count in counts.items() if count and kind != "other")
    few = {kind: -count for count, kind in known[:KINDS]}
    rest = counts.total() - sum(few.values())
    return few | ({"other": rest} if rest else {})


# --- listings ---------------------------------------------------------------------------------------


def _in_folder(folder: str, place: str = "", above: tuple[tuple[int, int], ...] = ()) -> list[Entry]:
    """Files and folders below the splits of a folder, links followed; what cannot be read is a ``UserError``."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.name, entry.stat())
                for entry in entries
                if not _hidden(entry.name) and (place or entry.name in SPLITS)
            ]
    except OSError as error:
        nowhere = ", where its link leads" if os.path.islink(error.filename) else ""  # noqa: PTH114
        raise UserError(f"cannot read {error.filename}: {error.strerror}{nowhere}; replace or remove it") from None
    listed = []
    for name, status in found:
        inside = f"{place}{name}"
        if stat.S_ISREG(status.st_mode):
            listed.append(Entry(inside, inside, status.st_size, status.st_mtime_ns))
        elif not stat.S_ISDIR(status.st_mode):
            raise UserError(f"{folder}/{name} is neither a file nor a folder; remove it")
        elif (itself := (status.st_dev, status.st_ino)) in above:
            raise UserError(f"{folder}/{name} links to a folder that it is in; remove it")
        else:
            listed += [
                Entry(inside, inside, None, 0),
                *_in_folder(f"{folder}/{name}", f"{inside}/", (*above, itself)),
            ]
    return listed


def _in_zip(path: Path, skipped: Counter[str]) -> list[Entry]:
    """Files and folders in a zip by their normal names, without the folders around the splits."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"cannot read {path}: {error}; is it a whole zip file?") from None
    found: dict[str, Entry] = {}
    for member in members:
        name = _member_name(member)
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise UserError(f"{path}: {member.filename!r} has '..' in its name; pack the zip anew")
        seen = list(takewhile(lambda part: not _hidden(part), parts))
        if seen != parts:  # a hidden file, whose folder is none
            name, parts = "/", seen
        if not parts:
            continue
        mode = member.external_attr >> 16
        if stat.S_ISLNK(mode):
            raise UserError(f"{path}: {member.filename!r} is a link; pack what it leads to")
        place = "/".join(parts)
        is_folder = name.endswith(("/", "/.")) or member.external_attr & 0x10 or stat.S_ISDIR(mode)
        size = None if is_folder else member.file_size
        skipped["written twice"] += size is not None and place in found and found[place].size is not None
        found[place] = Entry(place, member.filename, size, member.CRC)  # the last, as when it is unpacked
    return _without_wrapping(list(found.values()))


def _member_name(member: zipfile.ZipInfo) -> str:
    """With slashes, which some programs for Windows write the other way, and in UTF-8, which some do not declare."""
    name = member.filename
    if not (name.isascii() or member.flag_bits & 0x800):
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def _without_wrapping(entries: list[Entry]) -> list[Entry]:
    """Without folders that all images are in."""
    while True:
        outermost = {entry.place.partition("/")[0] for entry in entries if _suffix(entry.place) in SUFFIXES}
        around = f"{next(iter(outermost), '')}/"
        inside = [entry for entry in entries if entry.place.startswith(around)]
        if len(outermost) != 1 or around[:-1] in SPLITS or not inside:
            return entries
        entries = [entry._replace(place=entry.place.removeprefix(around)) for entry in inside]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in OF_SYSTEMS
