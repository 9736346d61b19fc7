"""Tables that other tools have written again, with the types that ncpipe writes: cast where nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ncpipe.records.checks import REMEDY, check_columns
from ncpipe.records.schemas import TABLES
from ncpipe.system.errors import UserError

TEXTS = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary())
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)


def as_written(name: str, table: pa.Table, path: Path, whole: bool = True) -> pa.Table:
    """The columns of the table ``name`` in their types and order; further columns are left out.

    Texts of any kind become texts, also categories; numbers become numbers of another kind where every value stays
    what it is, which NaN for null does; so do lists of them. A column of nulls is one of any type.

    Raises:
        UserError: a column stands twice, does not cast without loss or, of a ``whole`` table, is missing.
    """
    check_columns(name, table.schema, path, whole)
    fields = [field for field in TABLES[name] if field.name in table.column_names]
    columns = [_column(table.column(field.name), field, path) for field in fields]
    return pa.table(columns, schema=pa.schema(fields, table.schema.metadata))


def _column(column: pa.ChunkedArray, field: pa.Field, path: Path) -> pa.ChunkedArray:
    if column.type == field.type:
        return column
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column), field.type)])
    reason = f"is of type {column.type}, not {field.type}"
    try:
        if _family(column.type) == _family(field.type):
            return _cast(column, field.type)
    except pa.ArrowException as error:
        reason += f" ({str(error).splitlines()[0]})"
    raise UserError(f"{path}: column {field.name!r} {reason}: {REMEDY}")


def _family(kind: pa.DataType) -> str:
    """What values of a type are: casts within a family keep their meaning."""
    types = pa.types
    if types.is_dictionary(kind):
        return _family(kind.value_type)
    if isinstance(kind, LISTS):
        return f"list of {_family(kind.value_type)}"
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return "number"
    return "text" if kind in TEXTS else "time" if types.is_timestamp(kind) else str(kind)


def _cast(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Raises ``ArrowException`` where a value would change."""
    if pa.types.is_dictionary(column.type):
        chunks = [pc.take(chunk.dictionary.cast(kind), chunk.indices) for chunk in column.chunks]
        return pa.chunked_array(chunks, kind)
    if pa.types.is_floating(column.type) and pa.types.is_integer(kind):
        # Other tools have no null among whole numbers, and write them with a fraction.
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    return column.cast(kind)
