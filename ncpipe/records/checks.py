"""What must hold of tables before anything is drawn or written from them: they may come from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ncpipe.records.schemas import TABLES
from ncpipe.system.errors import UserError

NEVER_NULL = {
    "runs": ("source", "run_id", "kind", "status", "label"),
    "history": ("source", "run_id", "time", "quantity"),
    "collapse": ("source", "run_id", "split", "layer", "time", "metric"),
    "grams": ("source", "run_id", "layer", "time", "gram", "row", "column"),
    "ufm": ("run_id", "kind", "model"),
    "claims": ("paper", "claim_id", "statement", "statistic", "count", "holds", "seeds", "verdict", "reason"),
    "timings": ("run_id", "stage"),
}
UNIQUE = {"runs": ["run_id"], "ufm": ["run_id"], "claims": ["paper", "claim_id"]}
"""Columns that no two rows have in common."""
RANGES = {
    "time": (0, 2**53),
    "depth": (0, 10_000),
    "classes": (1, 100_000),
    "row": (0, 999),
    "column": (0, 999),
    "seed": (0, 2**31),
}
"""Bounds of columns of whole numbers; others have none."""
LONGEST = {"label": 2000, "settings": 100_000}
"""Characters of a text; 10,000 of all others."""
CHOICES = {"verdict": {"supported", "contradicted", "undecided"}, "direction": {"below", "above"}}
"""All values of a text."""
REMEDY = "write the tables again, with `snakemake tables` or `ncpipe tables`"


def check_columns(name: str, schema: pa.Schema, path: Path, whole: bool = True) -> None:
    """``UserError`` where a column stands twice or, of a ``whole`` table, is missing."""
    for column in TABLES[name].names:
        count = schema.names.count(column)
        if count > 1:
            raise UserError(f"{path} has more than one column {column!r}: {REMEDY}")
        if whole and not count:
            raise UserError(f"{path} has no column {column!r}: {REMEDY}")


def check_values(name: str, table: pa.Table, path: Path) -> None:
    """``UserError`` where a column of the table holds what no table of ours holds."""
    for field in TABLES[name]:
        if field.name in table.column_names and (problem := _problem(name, field, table.column(field.name))):
            raise UserError(f"{path}: column {field.name!r} {problem}: {REMEDY}")
    key = UNIQUE.get(name, ())
    if key and set(key) <= set(table.column_names):
        counts = table.group_by(key).aggregate([([], "count_all")])
        if twice := counts.filter(pc.greater(counts["count_all"], 1)).select(key).slice(0, 1).to_pylist():
            raise UserError(f"{path}: {' '.join(map(str, twice[0].values()))} stands in more than one row: {REMEDY}")


def _problem(name: str, field: pa.Field, column: pa.ChunkedArray) -> str:
    if column.null_count and field.name in NEVER_NULL[name]:
        return "holds a null"
    if field.name in RANGES and pa.types.is_integer(field.type):
        low, high = (end.as_py() for end in pc.min_max(column).values())
        least, most = RANGES[field.name]
        if low is not None and not least <= low <= high <= most:
            return f"reaches from {low} to {high}, beyond {least} to {most}"
    if pa.types.is_string(field.type):
        longest = max((_longest(chunk) for chunk in column.chunks), default=0)
        if longest > (most := LONGEST.get(field.name, 10_000)):
            return f"holds a text of {longest:,} characters, at most {most:,}"
    if field.name in CHOICES and (others := set(column.unique().to_pylist()) - CHOICES[field.name] - {None}):
        return f"holds {min(others)!r}"
    return _no_settings(column) if field.name == "settings" else ""


def _longest(texts: pa.Array) -> int:
    values = texts.dictionary if pa.types.is_dictionary(texts.type) else texts
    return pc.max(pc.utf8_length(values)).as_py() or 0


def _no_settings(column: pa.ChunkedArray) -> str:
    for text in column.unique().to_pylist():
        try:
            settings = {} if text is None else json.loads(text)
        except (ValueError, RecursionError):
            settings = None
        if not isinstance(settings, dict):
            return "holds settings that are no JSON mapping"
    return ""


@contextmanager
def reading(folder: object) -> Iterator[None]:
    """Around the use of checked tables: what still does not fit is told in one line that says where it was found."""
    try:
        yield
    except (ArithmeticError, LookupError, ValueError, pa.ArrowException) as error:
        place = error.__traceback__
        while (
            place is not None and place.tb_next is not None and "ncpipe" in place.tb_next.tb_frame.f_code.co_filename
        ):
            place = place.tb_next
        where = "" if place is None else f" ({Path(place.tb_frame.f_code.co_filename).name}, line {place.tb_lineno})"
        raise UserError(
            f"the tables in {folder} do not fit together: {type(error).__name__}: {error}{where}; {REMEDY};"
            " NCPIPE_TRACEBACK=1 shows the place in the code"
        ) from error
