"""Tables: damaged files, other schemas, and values that ncpipe never writes, for everything that reads tables."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from extent import cases
from hypothesis import strategies as st
from synthetic_tables import MadeUp, Penalties

from fuzz.runner import Surface, fuzz
from fuzz.strategies import damaged, texts
from ncpipe.claims.evidence.wording import markdown
from ncpipe.cli.figure import figure_options, save_from_tables
from ncpipe.compare import compare
from ncpipe.compare.terminal import print_comparison
from ncpipe.compare.wording import as_json
from ncpipe.records.reading import read_tables
from ncpipe.records.schemas import TABLES
from ncpipe.report import write_report
from ncpipe.report.claims_page import read_claims, write_claims_page
from ncpipe.study.config import FIGURES, StudyInfo

Files = dict[str, bytes]


@cache
def _tables() -> tuple[dict[str, pa.Table], ...]:
    """The tables of two small studies."""
    found = []
    for study in (MadeUp(epochs=(0, 3), seeds=1), Penalties()):
        with TemporaryDirectory() as name:
            folder = study.write(Path(name))
            found.append({table: pq.read_table(folder / f"{table}.parquet") for table in TABLES})
    return tuple(found)


def _bytes(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


LONG = "x" * 200_000
ODD = {
    "string": (None, "", LONG, "a\nb", "\x00", "\u202e", "<script>", "{", "[]", "null", "done", "../x", "nan",
    '{"a": 1}'),
    "int64": (None, 0, -1, 2**63 - 1, -(2**63), 10**12, 1),
    "double": (None, 0.0, -1.0, float("nan"), float("inf"), float("-inf"), 1e308, 5e-324, 1e-300),
    "bool": (None, True, False),
}  # fmt: skip


@st.composite
def changed_tables(draw: st.DrawFn) -> Files:
    """All tables of a study, one or two of them changed."""
    tables = draw(st.sampled_from(_tables()))
    files = {name: _bytes(table) for name, table in tables.items()}
    for name in draw(st.sets(st.sampled_from(sorted(files)), min_size=1, max_size=2)):
        kind = draw(
            st.sampled_from(("bytes", "missing", "rows", "columns", "type", "values", "values", "values", "other"))
        )
        if kind == "missing":
            del files[name]
        elif kind == "bytes":
            files[name] = draw(damaged(files[name]))
        elif kind == "other":
            files[name] = _bytes(
                draw(st.sampled_from((tables["claims"], tables["runs"], pa.table({"a": [1]}), pa.table({}))))
            )
        else:
            files[name] = _bytes(_changed(draw, tables[name], kind))
    return files


def _changed(draw: st.DrawFn, table: pa.Table, kind: str) -> pa.Table:
    if kind == "rows":
        return table.slice(0, draw(st.sampled_from((0, 1, len(table) // 2))))
    place = draw(st.integers(0, table.num_columns - 1))
    field = table.schema.field(place)
    if kind == "columns":
        change = draw(st.sampled_from(("drop", "rename", "twice", "extra")))
        if change == "drop":
            return table.remove_column(place)
        if change == "extra":
            return table.append_column("extra", pa.array([LONG[:9]] * len(table)))
        if change == "twice":
            return table.append_column(field, table.column(place))
        return table.rename_columns([draw(texts) if i == place else n for i, n in enumerate(table.column_names)])
    if kind == "type":
        kinds = (
            pa.string(),
            pa.int64(),
            pa.float64(),
            pa.binary(),
            pa.bool_(),
            pa.list_(pa.string()),
            pa.date32(),
            pa.null(),
        )
        return table.set_column(place, field.name, pa.nulls(len(table), draw(st.sampled_from(kinds))))
    return _with_values(draw, table, place)


def _with_values(draw: st.DrawFn, table: pa.Table, place: int) -> pa.Table:
    field = table.schema.field(place)
    column = table.column(place).to_pylist()
    if pa.types.is_list(field.type):
        values: Any = (None, [], [None], [0.0] * 3, [float("nan")] * 16, [1.0] * 100)
    else:
        values = ODD.get(str(field.type), (None,))
    value = draw(st.sampled_from(values))
    if value is LONG:
        value = LONG if len(column) < 20 else LONG[:1000]
    if pa.types.is_list(field.type) and pa.types.is_integer(field.type.value_type):
        value = None
    for row in range(draw(st.integers(0, 2)), len(column), draw(st.sampled_from((1, 1, 3)))):
        column[row] = value
    return table.set_column(place, field, pa.array(column, field.type))


def _write(files: Files, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / f"{name}.parquet").write_bytes(content)
    return folder


def read(files: Files) -> None:
    read_tables(_write(files, Path("results/tables")))


def compared(files: Files) -> None:
    """A study with changed tables beside itself, in words and as JSON."""
    _write(files, Path("results/tables"))
    comparison = compare("results", "results")
    print_comparison(comparison)
    json.loads(as_json(comparison), parse_constant=lambda name: pytest.fail(name))


def claimed(files: Files) -> None:
    _write(files, Path("results/tables"))
    study = read_claims(Path("results"))
    write_claims_page([study], Path("results/claims.html"))
    markdown(study.claims or ())


def reported(files: Files) -> None:
    tables = _write(files, Path("results/tables"))
    write_report(StudyInfo(name="a"), tables, {}, Path("results/report.html"))


@st.composite
def figures(draw: st.DrawFn) -> tuple[Files, str, dict[str, Any]]:
    name = draw(st.sampled_from(sorted(FIGURES)))
    options: dict[str, Any] = (
        {"over": draw(st.sampled_from(("weight_decay", "classes", "x.y")))} if name == "sweep" else {}
    )
    if draw(st.booleans()):
        options["metrics"] = draw(st.sampled_from(("nc1_pinv", "accuracy", "loss", "nc1_pinv,nc3_of", "nc9", "")))
    return draw(changed_tables()), name, options


def drawn(case: tuple[Files, str, dict[str, Any]]) -> None:
    files, name, options = case
    tables = _write(files, Path("results/tables"))
    save_from_tables(figure_options(name, **options), tables, Path("results/figure.svg"))


SURFACES = (
    Surface("tables: read", changed_tables(), read, 700, 10),
    Surface("tables: compare", changed_tables(), compared, 250, 5),
    Surface("tables: claims", changed_tables(), claimed, 300, 5),
    Surface("tables: report", changed_tables(), reported, 150, 4),
    Surface("tables: figures", figures(), drawn, 250, 6),
)


@pytest.mark.parametrize("surface", SURFACES, ids=str)
def test_tables_are_read_or_refused_in_one_line(surface, tmp_path):
    fuzz(surface, tmp_path, cases(surface.sample))
