"""Tables that other tools have written again: read where nothing is lost, else refused in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_tables import MadeUp
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.cli.query import query
from ncpipe.compare import compare
from ncpipe.figures.drawing.output import save_figure
from ncpipe.records.reading import read_tables, rows_of
from ncpipe.records.schemas import TABLES
from ncpipe.report import write_report
from ncpipe.report.claims_page import read_claims
from ncpipe.study.config import StudyInfo
from ncpipe.system.errors import UserError

Change = Callable[[Path, Path], object]


def typed(change: Callable[[pa.Field], pa.DataType], **options: object) -> Change:
    """Every column of another type."""

    def write(source: Path, target: Path) -> None:
        table = pq.read_table(source)
        schema = pa.schema([field.with_type(change(field)) for field in table.schema], table.schema.metadata)
        pq.write_table(table.cast(schema), target, **options)

    return write


def of(kind: pa.DataType, other: pa.DataType) -> Callable[[pa.Field], pa.DataType]:
    return lambda field: other if field.type == kind else field.type


def lists(field: pa.Field) -> pa.DataType:
    return pa.large_list(field.type.value_type) if pa.types.is_list(field.type) else field.type


def changed(change: Callable[[pa.Table], pa.Table], **options: object) -> Change:
    return lambda source, target: pq.write_table(change(pq.read_table(source)), target, **options)


def categories(table: pa.Table) -> pa.Table:
    texts = [(i, f.name) for i, f in enumerate(table.schema) if f.type == pa.string()]
    for i, name in texts:
        table = table.set_column(i, name, table[name].dictionary_encode())
    return table


def in_parts(source: Path, target: Path) -> None:
    table = pq.read_table(source)
    target.mkdir()
    pq.write_table(table.slice(0, len(table) // 2), target / "a.parquet")
    pd.read_parquet(source).iloc[len(table) // 2 :].to_parquet(target / "b.parquet")


def with_note(table: pa.Table) -> pa.Table:
    return table.append_column("my_note", pa.array(["x"] * len(table)))


def by_duckdb(source: Path, target: Path) -> None:
    duckdb.sql(f"COPY (FROM '{source}') TO '{target}' (FORMAT parquet, COMPRESSION zstd)")


def narrow_by_duckdb(source: Path, target: Path) -> None:
    whole = [field.name for field in pq.read_schema(source) if field.type == pa.int64()]
    casts = ", ".join(f'CAST("{name}" AS INTEGER) AS "{name}"' for name in whole)
    duckdb.sql(f"COPY (SELECT * {f'REPLACE ({casts})' if casts else ''} FROM '{source}') TO '{target}'")


REWRITTEN: dict[str, Change] = {
    "pandas": lambda p, q: pd.read_parquet(p).to_parquet(q),
    "pandas, index": lambda p, q: pd.read_parquet(p).set_index(TABLES[p.stem].names[0], drop=False).to_parquet(q),
    "pandas, nullable": lambda p, q: pd.read_parquet(p, dtype_backend="numpy_nullable").to_parquet(q),
    "pandas, arrow": lambda p, q: pd.read_parquet(p, dtype_backend="pyarrow").to_parquet(q),
    "pandas, categories": lambda p, q: (
        pd.read_parquet(p).astype({f.name: "category" for f in TABLES[p.stem] if f.type == pa.string()}).to_parquet(q)
    ),
    "pandas, zstd": lambda p, q: pd.read_parquet(p).to_parquet(q, compression="zstd"),
    "duckdb": by_duckdb,
    "duckdb, int32": narrow_by_duckdb,
    "large_string": typed(of(pa.string(), pa.large_string())),
    "large_string, zstd": typed(of(pa.string(), pa.large_string()), compression="zstd"),
    "string_view": typed(of(pa.string(), pa.string_view())),
    "binary": typed(of(pa.string(), pa.binary())),
    "float as whole": typed(of(pa.int64(), pa.float64())),
    "decimal": typed(of(pa.int64(), pa.decimal128(21, 2))),
    "int32": typed(of(pa.int64(), pa.int32())),
    "uint64": typed(of(pa.int64(), pa.uint64())),
    "large lists": typed(lists),
    "categories": changed(categories),
    "categories, zstd": changed(categories, compression="zstd"),
    "another order": changed(lambda table: table.select(table.column_names[::-1])),
    "a column more": changed(with_note),
    "a column more, zstd": changed(with_note, compression="zstd"),
    "no metadata": changed(lambda table: table.replace_schema_metadata(None)),
    "odd metadata": changed(lambda table: table.replace_schema_metadata({b"\xff": b"\xfe"})),
    "v1, zstd": changed(lambda table: table, compression="zstd", version="1.0"),
    "parts": in_parts,
}


def rewritten(change: Change, source: Path, folder: Path) -> Path:
    folder.mkdir(parents=True)
    for path in source.glob("*.parquet"):
        change(path, folder / path.name)
    return folder


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MadeUp(seeds=2).write(tmp_path_factory.mktemp("study") / "tables")


@pytest.mark.every(2)
@pytest.mark.parametrize("name", REWRITTEN)
def test_what_casts_without_loss_is_read_as_it_was(tables, tmp_path, name):
    folder = rewritten(REWRITTEN[name], tables, tmp_path / "results/tables")
    ours, theirs = read_tables(tables), read_tables(folder)
    for table in TABLES:
        pd.testing.assert_frame_equal(ours[table], theirs[table])
    chosen = {"metric": "nc1_pinv", "split": ["train"]}
    pd.testing.assert_frame_equal(
        *(rows_of(found, "collapse", ["run_id", "value"], **chosen) for found in (ours, theirs))
    )
    theirs.check_whole()
    sql = "SELECT label, count(*), avg(seed), max(value) FROM collapse JOIN runs USING (run_id) GROUP BY 1 ORDER BY 1"
    answers = []
    for place in (tables, folder):
        with query(place, sql) as found:
            answers.append(found.fetchall())
    assert answers[0] == answers[1]
    assert read_claims(tmp_path / "results").claims == tuple(pq.read_table(tables / "claims.parquet").to_pylist())


@pytest.fixture(scope="module")
def drawn(tables: Path) -> dict[str, bytes]:
    """Figures of the tables as they were written."""
    figures = ("collapse_curves", "gram_heatmaps", "matched_ufm")
    return {name: save_figure(name, tables, tables.parent / name, ["svg"])[0].read_bytes() for name in figures}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", ["pandas", "duckdb, int32", "string_view", "categories", "float as whole"])
def test_figures_report_and_comparison_of_rewritten_tables(tables, drawn, tmp_path, name):
    folder = rewritten(REWRITTEN[name], tables, tmp_path / "results/tables")
    for figure, ours in drawn.items():
        (theirs,) = save_figure(figure, folder, tmp_path / figure, ["svg"])
        assert theirs.read_bytes() == ours
    write_report(StudyInfo(name="a"), folder, {}, tmp_path / "report.html")
    beside_itself, beside_theirs = (
        compare(str(tables.parent), str(p)) for p in (tables.parent, tmp_path / "results")
    )
    assert beside_theirs.of("claims") == beside_itself.of("claims")
    done = CliRunner().invoke(app, ["claims", str(tmp_path / "results"), "--output", str(tmp_path / "claims.html")])
    assert done.exit_code == 0, done.output


def with_column(name: str, values: Callable[[int], list[object]]) -> Change:
    """The column of the table ``runs`` with other values."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name) if "status" in table.column_names else -1
        return table if place < 0 else table.set_column(place, name, pa.array(values(len(table))))

    return changed(change)


REFUSED: dict[str, tuple[Change, str]] = {
    "a column less": (
        changed(lambda t: t.drop_columns(["label"]) if "label" in t.column_names else t),
        "has no column 'label'.*write",
    ),
    "twice": (changed(lambda t: pa.concat_tables([t] * 2)), "stands in more than one row"),
    "fractions": (with_column("seed", lambda n: [0.5] * n), "column 'seed' is of type double, not int64"),
    "too large": (with_column("final_epoch", lambda n: [2.0**70] * n), "column 'final_epoch' is of type double"),
    "numbers for texts": (with_column("label", lambda n: [*range(n)]), "column 'label' is of type int64, not string"),
    "texts for numbers": (with_column("seed", lambda n: ["0"] * n), "column 'seed' is of type string, not int64"),
    "flags for numbers": (
        with_column("classes", lambda n: [True] * n),
        "column 'classes' is of type bool, not int64",
    ),
    "csv": (lambda p, q: pd.read_parquet(p).to_csv(q), "cannot read"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_means_something_else_is_refused_in_a_line(tables, tmp_path, name):
    change, message = REFUSED[name]
    folder = rewritten(change, tables, tmp_path / "results/tables")
    uses = (
        lambda: save_figure("collapse_curves", folder, tmp_path / "f", ["png"]),
        lambda: write_report(StudyInfo(name="a"), folder, {}, tmp_path / "report.html"),
        lambda: compare(str(tmp_path / "results"), str(tables.parent)),
        lambda: query(folder, "FROM runs").__enter__(),
    )
    for use in uses:
        with pytest.raises(UserError, match=message):
            use()


@pytest.mark.parametrize("mistake", [AttributeError, TypeError, NameError, AssertionError])
def test_our_own_mistakes_keep_their_traceback(tables, tmp_path, monkeypatch, mistake):
    def wrong(*_: object) -> None:
        raise mistake("ours")

    monkeypatch.setattr("ncpipe.figures.collapse_curves.draw", wrong)
    with pytest.raises(mistake, match="ours"):
        save_figure("collapse_curves", tables, tmp_path / "f", ["png"])


@pytest.mark.parametrize("misfit", [KeyError, IndexError, ValueError, ZeroDivisionError, pa.ArrowInvalid])
def test_what_tables_can_cause_is_told_in_a_line(tables, tmp_path, monkeypatch, misfit):
    def wrong(*_: object) -> None:
        raise misfit("theirs")

    monkeypatch.setattr("ncpipe.figures.collapse_curves.draw", wrong)
    with pytest.raises(UserError, match=r"do not fit together: .*theirs"):
        save_figure("collapse_curves", tables, tmp_path / "f", ["png"])
