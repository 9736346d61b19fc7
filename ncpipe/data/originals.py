"""The files that a data set is made of, and whether they have changed since.

Beside a prepared data set a record has the names of all, and sizes, dates and digests of those that were read. The
same names, sizes and dates are the same files; where only dates differ, content decides. Of files that were not
read, as of a subset, only the names matter. Of a zip, which may be huge, all of this stands in its directory.

Imports no torch: it is asked while a workflow is planned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ncpipe.data.imagefolder import Entry, ImageFolder, as_bytes
from ncpipe.data.registry import DATASETS
from ncpipe.settings.identity import digest
from ncpipe.system.errors import UserError
from ncpipe.system.files import replacing, sha256
from ncpipe.system.lazy import lazily
from ncpipe.system.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
else:  # a study is read without pyarrow
    pa, pq = lazily("pyarrow"), lazily("pyarrow.parquet")

RECORD = "originals.parquet"
"""No declared output: it outlives a job that fails, and tells the next one what has changed."""


@dataclass(frozen=True)
class Originals:
    """The files by name, which names no place."""

    files: dict[str, Entry]
    read: Callable[[str], str]
    """The digest of a file from its content."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digests of those that were read."""

    @classmethod
    def of_files(cls, paths: Iterable[Path], root: Path | None = None) -> Originals:
        """``paths`` by their names, or by those below a ``root``."""
        by_name = {path.relative_to(root).as_posix() if root else path.name: path for path in paths}
        status = {name: path.stat() for name, path in by_name.items()}
        files = {name: Entry(name, name, found.st_size, found.st_mtime_ns) for name, found in status.items()}
        return cls(files, lambda name: sha256(by_name[name]))

    @classmethod
    def of_images(cls, folder: ImageFolder) -> Originals:
        files = {entry.name: entry for entry in folder.entries}
        return cls(files, lambda name: folder.digest(files[name]), folder.digests)

    def digest(self, name: str) -> str:
        if name not in self.digests:
            self.digests[name] = self.read(name)
        return self.digests[name]

    def checksums(self) -> dict[str, str]:
        return {name: self.digest(name) for name in self.files}


def find_originals(name: str, path: str | None, search_path: Sequence[Path]) -> Originals | None:
    """The files that the data set ``name`` would be made of now; None where it comes with a package, or is nowhere.

    Raises ``UserError`` where they are there and cannot be used.
    """
    found: Originals | None = DATASETS[name].originals(path, search_path)
    return found


# --- the record -------------------------------------------------------------------------------------


def version(folder: Path, find: Callable[[], Originals | None]) -> str:
    """The version of what the data set in ``folder`` is to be made of, equal to that in its record while nothing has
    changed; empty where there is no record."""
    known = _read(folder)
    if known is None:
        return ""
    before: str = known.schema.metadata[VERSION].decode()
    change = _difference(folder, known, find)
    return before if change is None else digest([before, change])


def has_changed(folder: Path, find: Callable[[], Originals | None]) -> bool:
    """Whether the data set in ``folder`` was made of other files than there are now."""
    known = _read(folder)
    return known is not None and _difference(folder, known, find) is not None


def _difference(folder: Path, known: pa.Table, find: Callable[[], Originals | None]) -> object | None:
    """What tells the files of now from those of the record; None where nothing does, or where none are left.

    Dates that differ and mean nothing are put into the record, so that content is read once.
    """
    try:
        now = find()
        if now is None:
            return None
        found = _table(now)
        if all(found[column].equals(known[column]) for column in found.column_names):
            return None
        sizes = {name: file.size for name, file in now.files.items()}
        names = [name.decode(errors="surrogateescape") for name in known["name"].to_pylist()]
        if sizes.keys() != set(names):
            return sorted(sizes.items())
        used = {name: rest for name, *rest in zip(names, *(known[c].to_pylist() for c in COLUMNS)) if rest[-1]}
        if any(sizes[name] != size for name, (size, _, _) in used.items()):
            return sorted(sizes.items())
        dated = [name for name, (_, stamp, _) in used.items() if now.files[name].stamp != stamp]
        digests = _digests(now, dated)
    except (UserError, OSError) as error:
        return str(error)  # which the job that makes the data set tells
    if changed := {name: digests[name] for name in dated if digests[name] != used[name][-1]}:
        return changed
    with suppress(UserError):  # a folder that cannot be written to costs the next look some seconds
        _write(folder, now, {name: content for name, (_, _, content) in used.items()}, known.schema.metadata)
    return None


def _digests(files: Originals, names: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    if names:
        with progress("source files of other dates", len(names)) as report, ThreadPoolExecutor() as pool:
            for name, content in zip(names, pool.map(files.digest, names)):
                found[name] = content
                report(len(found), "")
    return found


def write_record(folder: Path, version: str, files: Originals) -> None:
    """Write what the data set in ``folder`` was made of, and the ``version`` of that."""
    _write(folder, files, files.digests, {VERSION: version.encode()})


VERSION = b"version"
COLUMNS = ("size", "stamp", "digest")


def _table(files: Originals) -> pa.Table:
    entries = files.files.values()
    columns = {
        "name": pa.array(map(as_bytes, files.files), pa.binary()),  # which need not be UTF-8
        "size": pa.array([entry.size for entry in entries], pa.int64()),
        "stamp": pa.array([entry.stamp for entry in entries], pa.int64()),
    }
    return pa.table(columns)


def _write(folder: Path, files: Originals, digests: Mapping[str, str], metadata: Mapping[bytes, bytes]) -> None:
    known = pa.array([digests.get(name) for name in files.files], pa.string())
    table = _table(files).append_column("digest", known).replace_schema_metadata(metadata)
    with replacing(folder / RECORD) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def _read(folder: Path) -> pa.Table | None:
    """The record; None where it is missing or damaged."""
    if not (folder / RECORD).exists():
        return None
    try:
        table = pq.read_table(folder / RECORD, partitioning=None, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException):
        return None
    whole = {"name", *COLUMNS} <= {*table.column_names} and VERSION in (table.schema.metadata or {})
    return table if whole else None
