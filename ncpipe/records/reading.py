"""Tables opened for reading, each a file or a folder of parts, so that only the rows that are asked for are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ncpipe.records.casting import as_written
from ncpipe.records.checks import REMEDY, check_columns, check_values
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import is_unaltered, read_table
from ncpipe.system.errors import UserError
from ncpipe.system.files import ALTERED, unreadable

Frames = Mapping[str, pd.DataFrame]
"""Tables by name."""
LONG = ("history", "collapse", "grams", "timings")
"""Tables of many rows a run; of a large study they are folders of parts."""


class StoredTables(Frames):
    """The tables in a folder, each read when it is asked for; ``rows`` reads some rows of one.

    Args:
        folder: holds the Parquet tables.
        changed: tables that take the place of those on disk.

    Raises:
        UserError: a table is not there, as in a folder of an older version, or cannot be read.
    """

    def __init__(self, folder: Path, changed: Frames | None = None) -> None:
        self.folder, self._read = folder, dict(changed or {})
        missing = [name for name in TABLES if name not in self._read and not self.path(name).exists()]
        if len(missing) == len(TABLES):
            raise UserError(f"no tables in {folder}: name a folder such as results/tables, or {REMEDY}")
        if missing:
            raise UserError(f"no {missing[0]}.parquet in {folder}, which this version of ncpipe needs: {REMEDY}")

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.parquet"

    def __getitem__(self, name: str) -> pd.DataFrame:
        if name not in TABLES:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = self.rows(name)
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(TABLES)

    def __len__(self) -> int:
        return len(TABLES)

    def __or__(self, changed: Frames) -> StoredTables:
        """Tables with others in the place of some."""
        return StoredTables(self.folder, {**self._read, **changed})

    def check_whole(self) -> None:
        """``UserError`` where a table was altered anywhere since it was written: figures read only parts."""
        for name in self:
            for _ in batches(self.path(name), TABLES[name].names):
                pass

    def rows(self, name: str, columns: Sequence[str] | None = None, **wanted: Any) -> pd.DataFrame:
        """See ``rows_of``."""
        if name in self._read:
            return _chosen(self._read[name], columns, wanted)
        return frame(scan(self.path(name), columns, **wanted))


def read_tables(folder: Path) -> StoredTables:
    """The tables of a study by name, as data frames that are read when they are asked for.

    Raises:
        UserError: a table is not there, as in a folder of an older version, or cannot be read.
    """
    return StoredTables(folder)


def rows_of(tables: Frames, name: str, columns: Sequence[str] | None = None, **wanted: Any) -> pd.DataFrame:
    """Rows of a table in which every column named in ``wanted`` has the wanted value, or one of a collection of them.

    Of tables on disk only these rows and the chosen columns are read; text columns of long tables are categories.
    """
    if isinstance(tables, StoredTables):
        return tables.rows(name, columns, **wanted)
    return _chosen(tables[name], columns, wanted)


def _chosen(table: pd.DataFrame, columns: Sequence[str] | None, wanted: Mapping[str, Any]) -> pd.DataFrame:
    for column, value in wanted.items():
        table = table[table[column].isin(list(_listed(value)))]
    return table if columns is None else table.loc[:, [name for name in columns if name in table]]


def fits_of(tables: Frames, *more: str, **wanted: Any) -> pd.DataFrame:
    """Rows of the ``ufm`` table, chosen as in ``rows_of``, with the columns ``more`` and all but the Grams, which are
    K x K numbers each."""
    columns = [name for name in TABLES["ufm"].names if name in more or not name.endswith("_gram")]
    return rows_of(tables, "ufm", columns, **wanted)


def unconstrained(fits: pd.DataFrame) -> pd.DataFrame:
    """Rows of the ``ufm`` table without the problems of non-negative features, of which the papers say nothing."""
    return fits[fits["nonnegative"].ne(True)] if "nonnegative" in fits else fits


def critical_points(tables: Frames) -> pd.DataFrame:
    """Critical points that solver ``landscape`` found, a row each: ``run_id``, ``time``, its place from the highest
    objective, the quantities that ``history`` has of it, and ``above``: the objective over the optimum, or where no
    closed form tells it over the run's lowest, less 1; 0 where they agree to 1e-8."""
    runs = tables["runs"].query("kind == 'declared' and status == 'done' and optimizer == 'landscape'")["run_id"]
    rows = rows_of(tables, "history", ["run_id", "time", "quantity", "value"], run_id=set(runs))
    rows = rows.astype({"run_id": "str", "quantity": "str"})
    points = rows.pivot(index=["run_id", "time"], columns="quantity", values="value").reset_index()
    if points.empty:
        return pd.DataFrame(columns=["run_id", "time", "above"])
    objective = points["objective"]
    lowest = objective.groupby(points["run_id"]).transform("min")
    optimum = lowest if "gap" not in points else (objective - points["gap"]).fillna(lowest)
    above = objective / optimum - 1
    return points.assign(above=above.where(above > 1e-8, 0.0))


def _listed(value: Any) -> Collection[Any]:
    return [value] if isinstance(value, str | int | float) else value


def open_table(path: Path) -> ds.Dataset:
    """A table on disk, file or folder of parts, its text columns as dictionaries where it is a long one.

    Raises:
        UserError: it is missing or damaged.
    """
    texts = [field.name for field in TABLES.get(path.stem, ()) if field.type == pa.string()]
    options = ds.ParquetFileFormat(
        dictionary_columns=texts if path.stem in LONG else [],
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True),
    )
    try:
        found = ds.dataset(path, format=options)
        schemas = {Path(file): pq.read_schema(file) for file in found.files}
        altered = [file for file, schema in schemas.items() if not is_unaltered(schema, file)]
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    if altered:
        raise unreadable(altered[0], ALTERED)
    for file, schema in schemas.items():
        check_columns(path.stem, schema, file)
    if all(schema.field(field.name).type == field.type for field in TABLES[path.stem] for schema in schemas.values()):
        return found
    table = read_whole(path)  # of another tool, whose types no scan casts
    for name in texts if path.stem in LONG else ():
        table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    return ds.dataset(table)


def read_whole(path: Path, whole: bool = True) -> pa.Table:
    """All of a table on disk, file or folder of parts, whoever wrote it, as ncpipe would have.

    Raises:
        UserError: it is damaged or does not fit, or a column of a ``whole`` table is missing.
    """
    parts = [as_written(path.stem, read_table(file), file, whole) for file in files(path) or [path]]
    table = pa.concat_tables(parts, promote_options="default")
    check_values(path.stem, table, path)
    return table


def scan(path: Path, columns: Sequence[str] | None = None, **wanted: Any) -> pa.Table:
    """Rows of a table on disk in which columns have wanted values, as in ``rows_of``."""
    scanner = _scanner(path, columns, wanted)
    try:
        found = scanner.to_table()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    check_values(path.stem, found, path)
    return found


def batches(path: Path, columns: Sequence[str], **wanted: Any) -> Iterator[pa.RecordBatch]:
    """Rows of a table, a row group after the other."""
    try:
        yield from _scanner(path, columns, wanted).to_batches()
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None


def _scanner(path: Path, columns: Sequence[str] | None, wanted: Mapping[str, Any]) -> ds.Scanner:
    table = open_table(path)
    tests = [ds.field(column).isin(_values(table.schema, column, value)) for column, value in wanted.items()]
    chosen = reduce(and_, tests) if tests else None
    # Few row groups ahead: what is read and not yet filtered is the most of what is in memory.
    return table.scanner(
        list(columns or TABLES[path.stem].names), filter=chosen, batch_readahead=2, fragment_readahead=1
    )


def _values(schema: pa.Schema, column: str, value: Any) -> pa.Array:
    kind = schema.field(column).type
    return pa.array(list(_listed(value)), kind.value_type if pa.types.is_dictionary(kind) else kind)


def frame(table: pa.Table) -> pd.DataFrame:
    """As pandas has it; the categories of texts in alphabetical order, so that sorting is that of the texts."""
    found = table.to_pandas(split_blocks=True, ignore_metadata=True)  # nor with the index of who wrote it
    for name in found.columns[found.dtypes == "category"]:
        texts = found[name].cat
        found[name] = texts.set_categories(sorted(texts.categories))
    return found


def files(path: Path) -> list[Path]:
    """The Parquet files of a table, in the order of their rows."""
    return sorted(path.glob("*.parquet")) if path.is_dir() else [path]


def metadata(path: Path) -> dict[str, str]:
    """What the metadata of a table say about its making.

    Raises:
        UserError: the table is missing or damaged.
    """
    try:
        found = pq.read_schema(next(iter(files(path)), path)).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise _unreadable(path, error) from None
    return {
        key.decode(errors="replace"): value.decode(errors="replace")
        for key, value in found.items()
        if not key.startswith(b"ARROW")
    }


def _unreadable(path: Path, error: Exception) -> UserError:
    return unreadable(path, str(error).splitlines()[0])
