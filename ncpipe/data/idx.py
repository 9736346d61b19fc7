"""MNIST's idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ncpipe.data.storage import check_memory
from ncpipe.system.errors import UserError

MOST_UNPACKED = 1100
"""Bytes that gzip can make of one."""


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
            check_memory(str(path), prod(shape), remedy)
            content = stream.read(prod(shape) + 1)  # and no more, whatever a packed file unfolds to
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}; {remedy}") from None
    if len(content) != prod(shape):
        held = f"{len(content)} bytes" if len(content) < prod(shape) else "more bytes"
        raise UserError(f"{path} holds {held} of data instead of {prod(shape)}; {remedy}")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())
