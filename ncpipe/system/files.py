"""Files written whole or not at all, and read unaltered or not at all.

Written: a temporary file of a name of its own beside the target, fsync, rename. Read: a CRC-32 of what was written
stands in the file, as in the pages of Parquet. Files of others, which have none, are read as they are.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from ncpipe.system.errors import UserError
from ncpipe.system.lazy import Tensor

LEFTOVER_AGE = 600.0
"""Seconds after which a temporary file that nobody has written to belongs to nobody."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path; on success it takes the place of ``path``, on failure it is removed.

    ``UserError`` where the disk is full or must not be written.
    """
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path)
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A new hidden name for what is to take the place of a file or folder, or was there."""
    return path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")


def remove_leftovers(path: Path) -> None:
    """Remove what processes have left that were killed while they wrote the file or folder."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with suppress(OSError):
            newest = max(part.stat().st_mtime for part in (leftover, *leftover.glob("*")))
            if time.time() - newest > LEFTOVER_AGE:
                remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, or a folder with what is in it, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def unwritable(path: object, error: Exception) -> UserError:
    """What a user is told of a file that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"cannot write {path}: {reason}; make room or give access, and run again")


def check_writable(folders: Iterable[Path]) -> None:
    """``UserError`` where a folder that is there cannot be written to: Snakemake ends in a traceback there."""
    for folder in folders:
        if folder.is_dir() and not os.access(folder, os.W_OK):
            code = errno.EROFS if os.statvfs(folder).f_flag & os.ST_RDONLY else errno.EACCES
            raise unwritable(folder, OSError(code, os.strerror(code)))


def write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


CHECKSUM = "checksum"
"""Key of the checksum in a JSON object."""


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object, with a checksum of the rest under ``checksum``."""
    write_text(path, _json({**value, CHECKSUM: f"{zlib.crc32(_json(value).encode()):08x}"}))


def read_json(path: Path) -> Any:
    """Read what ``write_json`` wrote, without the checksum; what was damaged is a ``UserError``."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    if isinstance(value, dict) and CHECKSUM in value:
        checksum = value.pop(CHECKSUM)
        if checksum != f"{zlib.crc32(_json(value).encode()):08x}":
            raise unreadable(path, ALTERED)
    return value


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, sort_keys=True) + "\n"


def plain(value: Any) -> Any:
    """A value in what JSON has: a number that it lacks is a text that ``float`` reads, of any other type the text."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def sealed(text: str) -> str:
    """XML or HTML with a comment at its end that holds a checksum of the rest."""
    return f"{text}{SEAL}{zlib.crc32(text.encode()):08x} -->\n"


def read_sealed(path: Path) -> str:
    """Read what ``sealed`` made; what was damaged is a ``UserError``."""
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None
    before, mark, _ = content.rpartition(SEAL)
    # Of earlier versions, which made no seals, the end is to be there.
    if content != sealed(before) if mark else not content.rstrip().endswith(("</svg>", "</html>")):
        raise unreadable(path, ALTERED)
    return content


SEAL = "<!-- checksum "
ALTERED = "it was altered since it was written"


def unreadable(path: Path, reason: object) -> UserError:
    """What a user is told of a result that is missing or damaged."""
    first_line = str(reason).partition("\n")[0]
    return UserError(f"cannot read {path}: {first_line}; delete it and run again")


CHECKSUMS = "checksums"
"""Key of the metadata of a safetensors file: one of the other metadata, then those of the tensors by name."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file; tensors are copied, since safetensors refuses shared storage."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    whole = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    sums = [_checksum_of(metadata or {}, whole), *(_checksum(whole[name]) for name in sorted(whole))]
    marked = {**(metadata or {}), CHECKSUMS: " ".join(sums)}
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, marked)
        except SafetensorError as error:
            raise unwritable(path, error) from error
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """Safetensors writes metadata in random order; equal content is to give equal bytes."""
    with path.open("r+b") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        stream.seek(8)
        stream.write(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length))


def read_tensors(path: Path, wanted: Callable[[str], bool] | None = None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors, all or those of the ``wanted`` names, and metadata of a safetensors file.

    A truncated, altered or foreign file is a ``UserError``.
    """
    before = _identity(path)
    names, tensors, metadata = _read_tensors(path, wanted)
    if CHECKSUMS in metadata:
        first, *rest = metadata.pop(CHECKSUMS).split(" ")
        known = dict(zip(names, rest))
        intact = first == _checksum_of(metadata, names) and len(rest) == len(names)
        if not intact or any(_checksum(tensor) != known[name] for name, tensor in tensors.items()):
            if _identity(path) != before:  # replaced meanwhile: safetensors opens the name twice
                return read_tensors(path, wanted)
            raise unreadable(path, ALTERED)
    return tensors, metadata


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors of a safetensors file, which are not read."""
    return _read_tensors(path, lambda name: False)[0]


def stored_checksum(path: Path, name: str) -> str | None:
    """That of a tensor in a safetensors file of ours, for those who read it a piece at a time; see ``_checksum``."""
    names, _, metadata = _read_tensors(path, lambda name: False)
    return dict(zip(names, metadata[CHECKSUMS].split(" ")[1:])).get(name) if CHECKSUMS in metadata else None


def _read_tensors(
    path: Path, wanted: Callable[[str], bool] | None
) -> tuple[list[str], dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = sorted(file.keys()), dict(file.metadata() or {})
            return names, {name: file.get_tensor(name) for name in names if wanted is None or wanted(name)}, metadata
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from None


def _identity(path: Path) -> tuple[int, int] | None:
    with suppress(OSError):
        known = path.stat()
        return known.st_ino, known.st_mtime_ns
    return None


def _checksum_of(metadata: Mapping[str, str], names: Iterable[str]) -> str:
    return f"{zlib.crc32(json.dumps([sorted(names), sorted(metadata.items())]).encode()):08x}"


def _checksum(tensor: Tensor) -> str:
    """CRC-32 of the bytes of a tensor, its type and its shape."""
    import torch

    kind = zlib.crc32(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    return f"{zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, kind):08x}"


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(path: Path) -> str:
    """SHA-256 of the content of a file, or of names and contents of a folder's files; hidden ones do not count.

    Of a safetensors file with checksums the header alone is read, which holds them.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("[!.]*") if file.is_file())
        listing = "".join(f"{content_digest(file)}  {file.relative_to(path)}\n" for file in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    known = path.stat()
    return _digest(path, known.st_ino, known.st_size, known.st_mtime_ns)


@lru_cache(100_000)
def _digest(path: Path, _inode: int, size: int, _moment: int) -> str:
    if path.suffix == ".safetensors":
        with path.open("rb") as stream, suppress(ValueError):
            header = stream.read(min(size, int.from_bytes(stream.read(8), "little")))
            if CHECKSUMS in json.loads(header).get("__metadata__", {}):
                return hashlib.sha256(header).hexdigest()
    return sha256(path)
