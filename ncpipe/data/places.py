"""Where the files of data sets are (the search path, Debian's packages, the cache of downloads), and room for them.

Imports no torch: whether files have changed is asked while a workflow is planned.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ncpipe.system.errors import UserError

SYSTEM_FOLDERS = (Path("/usr/share/datasets"),)
"""Where Debian's data-set packages put their files."""
DOWNLOAD_TIMEOUT = 60.0
"""Seconds without an answer after which a download is given up."""
MEMORY_SHARE = 0.6
"""Share of the free memory that images may take: training needs some too."""


def cache_folder(name: str) -> Path:
    """Folder of a downloaded data set, below ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "ncpipe" / name


def find_path(path: str, search_path: Sequence[Path], what: str) -> Path:
    """A user's file or folder; a relative one is also looked for in ``search_path``. ``UserError`` without it."""
    candidates = [Path(path).expanduser(), *(folder / path for folder in search_path)]
    found = next((candidate for candidate in candidates if candidate.exists()), None)
    if found is None:
        raise UserError(f"{what} {path!r} not found: correct dataset.path, or add its parent to study.data_path")
    return found


@contextmanager
def downloading(name: str, files: str) -> Iterator[Path]:
    """The cache folder of a data set, into which one process at a time downloads.

    torchvision checks MD5 sums and keeps what is whole. Raises ``UserError`` where ``files`` do not come.
    """
    from http.client import HTTPException

    from filelock import FileLock

    root, timeout = cache_folder(name), socket.getdefaulttimeout()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
            yield root
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{name} is in no searched folder and cannot be downloaded to {root} ({reason}): "
            f"put {files} into a folder of study.data_path, or try again with a network"
        ) from None
    finally:
        socket.setdefaulttimeout(timeout)


def check_disk(folder: Path, needed: int) -> None:
    """``UserError`` where the disk of ``folder``, which need not exist yet, has fewer than ``needed`` bytes free."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise UserError(
            f"the images take {needed / 2**30:.1f} GiB in {folder}, but {free / 2**30:.1f} GiB are free:"
            " make room or choose another study.results"
        )


def check_memory(name: str, needed: int, remedy: str) -> None:
    """``UserError`` where ``needed`` bytes of images would take more than ``MEMORY_SHARE`` of the free memory."""
    import psutil

    free = psutil.virtual_memory().available
    if needed > MEMORY_SHARE * free:
        raise UserError(
            f"the images of {name} take {needed / 2**30:.1f} GiB, too much for {free / 2**30:.1f} GiB of free memory:"
            f" {remedy}"
        )
