"""The command ``ncpipe query``: SQL on the tables of a study, which can read nothing else and write nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from pyarrow.dataset import InMemoryDataset
from rich.console import Console
from rich.table import Table

from ncpipe.records.checks import UNIQUE
from ncpipe.records.reading import StoredTables, files, open_table, scan
from ncpipe.records.schemas import TABLES
from ncpipe.study.layout import tables_in
from ncpipe.system.errors import UserError
from ncpipe.system.files import plain, replacing

MOST_ROWS = 50
"""Rows that are printed as a table."""
ENDINGS = (".parquet", ".csv", ".json")


def run_query(sql: str | None, tables: Path, output: Path | None, json_wanted: bool) -> None:
    """What the command does: without SQL it lists tables and columns, without an output it prints the rows."""
    folder, console = tables_in(tables), Console()
    if sql is None:
        print_tables(folder, console)
        return
    with query(folder, sql) as result:
        if output is not None:
            write_result(result, output)
            print(f"wrote {output}", flush=True)
        elif json_wanted:
            print(as_json(result))
        else:
            print_result(result, console)


@contextmanager
def query(folder: Path, sql: str) -> Iterator[duckdb.DuckDBPyRelation]:
    """Run a SELECT on the tables in a folder, a view each; its rows are fetched as they are asked for.

    Raises:
        UserError: tables are missing, the SQL is no SELECT, or DuckDB refuses it: in one line.
    """
    with duckdb.connect() as connection:
        try:
            # COPY could write to what the views may read.
            if [statement.type for statement in connection.extract_statements(sql)] != [duckdb.StatementType.SELECT]:
                raise UserError("query: expected one SELECT; other statements could write")
            _open_views(connection, StoredTables(folder))
            yield connection.sql(sql)
        except duckdb.Error as error:
            raise UserError(f"query: {_one_line(error)}") from None


def _open_views(connection: duckdb.DuckDBPyConnection, tables: StoredTables) -> None:
    """A view per table; from here on their files are all that can be read, and the settings are locked."""
    paths = {name: list(map(str, files(tables.path(name)))) for name in TABLES}
    opened = {name: open_table(tables.path(name)) for name in TABLES}
    for name, key in UNIQUE.items():
        scan(tables.path(name), key)  # a row that stands twice would count twice
    connection.execute("SET allowed_paths = $1", [[path for listed in paths.values() for path in listed]])
    # Parquet's least and largest values leave NaN out, by which DuckDB would take columns to have none.
    connection.execute("SET disabled_optimizers = 'statistics_propagation'")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
    for name, listed in paths.items():
        cast = isinstance(opened[name], InMemoryDataset)  # what another tool wrote, in our types
        rows = connection.from_arrow(opened[name].to_table()) if cast else connection.read_parquet(listed)
        rows.project(_without_nan(name)).create_view(name)


def _without_nan(name: str) -> str:
    """The columns of a table with null for NaN, which to DuckDB is the largest number."""
    reals = [field.name for field in TABLES[name] if field.type == pa.float64()]
    replaced = ", ".join(f"CASE WHEN isnan({name}) THEN NULL ELSE {name} END AS {name}" for name in reals)
    return f"* REPLACE ({replaced})" if replaced else "*"


def _one_line(error: Exception) -> str:
    """What DuckDB says, without the SQL that it repeats."""
    return " ".join(str(error).partition("\n\nLINE ")[0].split())


def write_result(result: duckdb.DuckDBPyRelation, target: Path) -> None:
    """Write the rows of a query as Parquet, CSV or JSON, by the ending."""
    if target.suffix not in ENDINGS:
        raise UserError(f"--output {target}: expected a name that ends in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    with replacing(target) as temporary:
        if target.suffix == ".json":
            temporary.write_text(as_json(result) + "\n", encoding="utf-8")
            return
        with duckdb.connect() as free:  # the connection of the query can write nothing
            rows = free.from_arrow(result.to_arrow_reader())
            if target.suffix == ".parquet":
                rows.write_parquet(str(temporary), compression="zstd")
            else:
                rows.write_csv(str(temporary))


def as_json(result: duckdb.DuckDBPyRelation) -> str:
    """A list of objects; numbers that JSON lacks are the texts inf, -inf and nan, which ``float`` reads."""
    return json.dumps([plain(row) for batch in result.to_arrow_reader() for row in batch.to_pylist()], indent=2)


def print_result(result: duckdb.DuckDBPyRelation, console: Console) -> None:
    """The first rows as a table, and whether there are more."""
    found = result.limit(MOST_ROWS + 1).fetchall()
    table = Table(*result.columns, header_style="bold")
    for row in found[:MOST_ROWS]:
        table.add_row(*map(_cell, row))
    console.print(table)
    more = f"the first {MOST_ROWS} rows; --output FILE has all of them"
    console.print(more if len(found) > MOST_ROWS else f"{len(found)} row{'' if len(found) == 1 else 's'}")


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def print_tables(folder: Path, console: Console) -> None:
    """The tables with their columns, types and meanings."""
    tables = StoredTables(folder)
    for name, schema in TABLES.items():
        title = f"{name}: {open_table(tables.path(name)).count_rows():,} rows"
        table = Table("column", "type", "meaning", title=title, title_justify="left")
        for field in schema:
            table.add_row(field.name, str(field.type), field.metadata[b"meaning"].decode())
        console.print(table)
