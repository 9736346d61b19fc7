"""The file of a split: written piece by piece in bounded memory, and mapped into memory in place of being read."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ncpipe.data.statistics import ChannelStatistics
from ncpipe.system.errors import UserError
from ncpipe.system.files import replacing

IMAGES, LABELS, CHECKSUMS = "images", "labels", "checksums"
PIECE = 64 * 1024**2
"""Bytes of images that are read or decoded at once."""


def split_bytes(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> int:
    """Bytes of the file of a split with images of that shape, (N, C, H, W) or (N, d)."""
    return len(_header(shape, dtype)) + 12 * shape[0] + dtype.itemsize * prod(shape)


def write_split(
    path: Path,
    shape: tuple[int, ...],
    pieces: Iterable[Tensor],
    labels: Tensor,
    dtype: torch.dtype = torch.uint8,
) -> tuple[str, ChannelStatistics]:
    """Write a safetensors file of 'images', (N, C, H, W) or (N, d) of uint8 or float32 in ``pieces``, and 'labels',
    (N,) int64.

    Its 'checksums', (N, 4) uint8, are the CRC-32 of every image after its label, for who reads single images.

    Returns:
        Its SHA-256, and the statistics of the images.
    """
    checksum = hashlib.sha256()
    statistics = ChannelStatistics(shape[1], dtype)
    checksums: list[np.ndarray] = []
    with replacing(path) as temporary, temporary.open("wb") as stream:

        def write(content: bytes | memoryview) -> None:
            stream.write(content)
            checksum.update(content)

        write(_header(shape, dtype))
        write(labels.numpy().tobytes())
        rows = 0
        for images in pieces:
            write(images.contiguous().numpy().data.cast("B"))
            checksums.append(_checksums(images.contiguous().numpy(), labels[rows : rows + len(images)].numpy()))
            statistics.add(images)
            rows += len(images)
        assert (rows, len(labels)) == (shape[0], shape[0])
        write(np.concatenate(checksums).tobytes())
    return checksum.hexdigest(), statistics


DTYPES = {torch.uint8: "U8", torch.float32: "F32"}
"""Types of images, with safetensors' names for them."""


def _header(shape: tuple[int, ...], dtype: torch.dtype = torch.uint8) -> bytes:
    """Header of a safetensors file: its length as 8 bytes, little-endian, and JSON, padded to a multiple of 8."""
    size = dtype.itemsize * prod(shape)
    ends = 8 * shape[0], 8 * shape[0] + size, 12 * shape[0] + size
    tensors: dict[str, dict[str, object]] = {
        LABELS: {"dtype": "I64", "shape": shape[:1], "data_offsets": (0, ends[0])},
        IMAGES: {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": ends[:2]},
        CHECKSUMS: {"dtype": "U8", "shape": (shape[0], 4), "data_offsets": ends[1:]},
    }
    content = json.dumps(tensors, separators=(",", ":")).encode()
    content += b" " * (-len(content) % 8)
    return len(content).to_bytes(8, "little") + content


def _checksums(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """CRC-32 (n,) of every image of (n, C, H, W), after its label."""
    starts = (zlib.crc32(label) for label in labels.astype("<i8"))
    return np.array([zlib.crc32(image, start) for image, start in zip(images, starts)], dtype="<u4")


class StoredImages:
    """The uint8 images (N, C, H, W) of a split's file, of which rows are read when they are asked for.

    Raises ``UserError`` where header or size are not those of a split's file. An image is checked when it is read:
    to read them all at every start would take longer than some runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as stream:
                length = stream.read(8)
                header = stream.read(int.from_bytes(length, "little"))
            self.shape: tuple[int, ...] = tuple(json.loads(header)[IMAGES]["shape"])
            size = split_bytes(self.shape)
            whole = length + header == _header(self.shape) and path.stat().st_size == size
        except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError):
            whole = False
        if not whole:
            raise altered(path)
        start, count = len(length + header), self.shape[0]
        self._mapped = np.memmap(path, np.uint8, "r", start + 8 * count, self.shape)
        self._labels = np.fromfile(path, "<i8", count, offset=start)
        self._checksums = np.fromfile(path, "<u4", count, offset=size - 4 * count)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: np.ndarray) -> Tensor:
        """Images (n, C, H, W) of the ``rows`` (n,); a ``UserError`` where one was altered."""
        images = np.asarray(self._mapped)[rows]
        if (_checksums(images, self._labels[rows]) != self._checksums[rows]).any():
            raise altered(self.path)
        return torch.from_numpy(images)

    def __reduce__(self) -> tuple[Callable[[Path], StoredImages], tuple[Path]]:
        return StoredImages, (self.path,)  # to another process goes the path, not what it maps


def altered(path: Path) -> UserError:
    return UserError(f"{path} is missing or was altered since it was prepared: delete its folder and run again")


def read_labels(path: Path) -> Tensor:
    """The labels (N,) of a split's file, without its images."""
    with safe_open(path, framework="pt") as file:
        return file.get_tensor(LABELS)
