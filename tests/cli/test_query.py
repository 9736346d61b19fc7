"""The command ``ncpipe query``: SQL on the tables, and on nothing else."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from synthetic_tables import MadeUp
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.cli.query import MOST_ROWS, query
from ncpipe.records.reading import LONG
from ncpipe.records.schemas import COLLAPSE, TABLES
from ncpipe.records.writing import write_rows
from ncpipe.system.errors import UserError

PER_LABEL = "SELECT label, count(*) AS runs FROM runs WHERE kind = 'network' GROUP BY label ORDER BY label"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder whose long tables are folders of parts."""
    folder = tmp_path_factory.mktemp("results")
    MadeUp().write(folder / "tables")
    for name in LONG:
        path = folder / "tables" / f"{name}.parquet"
        whole = path.rename(folder / "whole.parquet")
        path.mkdir()
        whole.rename(path / "part-00000.parquet")
    shutil.copy(folder / "tables/runs.parquet", folder / "secret.parquet")
    return folder


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["query", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_files_and_folders_join(results):
    sql = "SELECT count(*) AS n FROM collapse JOIN runs USING (run_id) WHERE kind = 'network' AND metric = 'nc1_pinv'"
    found = json.loads(run(sql, "--tables", results / "tables", "--json"))
    assert found == [{"n": 4 * 4 * 2 * 2}]  # networks, epochs, layers, splits
    assert found == json.loads(run(sql, "--tables", results, "--json"))


@pytest.mark.parametrize(
    ("ending", "read"), [("parquet", pd.read_parquet), ("csv", pd.read_csv), ("json", pd.read_json)]
)
def test_all_rows_are_written(results, tmp_path, ending, read):
    target = tmp_path / f"x.{ending}"
    assert run("SELECT run_id, value FROM collapse", "--tables", results, "--output", target) == f"wrote {target}\n"
    assert len(read(target)) == len(pd.read_parquet(results / "tables/collapse.parquet"))


def test_a_long_result_is_cut_and_says_so(results):
    assert f"the first {MOST_ROWS} rows" in run("FROM collapse", "--tables", results)
    assert "2 rows" in run(PER_LABEL, "--tables", results)


def test_without_sql_tables_and_columns_are_listed(results):
    text = " ".join(run("--tables", results).split())
    assert all(f"{name}: " in text for name in TABLES)
    assert "smallest" in text


def test_json_has_null_for_nan(tmp_path):
    MadeUp(value=float("nan"), ufm=False, matched=False).write(tmp_path)
    (row,) = json.loads(run("SELECT value FROM collapse LIMIT 1", "--tables", tmp_path, "--json"))
    assert row == {"value": None}


def test_json_gives_back_what_it_has_no_number_for(results, tmp_path):
    sql = "SELECT 'inf'::DOUBLE AS above, -'inf'::DOUBLE AS below, 'nan'::DOUBLE AS nan, NULL AS absent"
    sql += ", 1.5::DOUBLE AS x, ['inf'::DOUBLE, 2] AS listed, 'inf'::FLOAT AS single"
    run(sql, "--tables", results, "--output", tmp_path / "x.json")
    printed = run(sql, "--tables", results, "--json")
    assert printed == (tmp_path / "x.json").read_text()
    (row,) = json.loads(printed, parse_constant=pytest.fail)
    assert row == {"above": "inf", "below": "-inf", "nan": "nan", "absent": None, "x": 1.5, "listed": ["inf", 2.0],
                   "single": "inf"}  # fmt: skip
    assert [float(row[name]) for name in ("above", "below")] == [math.inf, -math.inf]


def test_nan_is_null_also_where_the_statistics_of_the_file_leave_it_out(tmp_path):
    MadeUp(ufm=False, matched=False).write(tmp_path)
    path = tmp_path / "collapse.parquet"
    rows = pq.read_table(path).slice(0, 3).to_pylist()
    write_rows(path, COLLAPSE, [row | {"value": value} for row, value in zip(rows, [float("nan"), 1.0, 0.5])])
    (row,) = json.loads(
        run(
            "SELECT max(value) AS largest, count(*) FILTER (value >= 1) AS ones, count(value) AS known FROM collapse",
            "--tables", tmp_path, "--json",
        )
    )  # fmt: skip
    assert row == {"largest": 1.0, "ones": 1, "known": 2}


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{results}/secret.parquet'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('{results}/../*')",
        "SELECT * FROM glob('{results}/*')",
        "SELECT * FROM query('COPY runs TO ''{results}/out.csv''')",
        "COPY runs TO '{results}/out.csv'",
        "COPY runs TO '{results}/tables/runs.parquet' (USE_TMP_FILE false)",
        "EXPLAIN ANALYZE COPY runs TO '{results}/tables/runs.parquet' (USE_TMP_FILE false)",
        "EXPORT DATABASE '{results}/tables/collapse.parquet/x'",
        "ATTACH '{results}/x.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "SELECT 1; SELECT 2",
        "SELEKT",
        "SELECT nothing FROM runs",
        "SELECT CAST(label AS INTEGER) FROM runs",
        "",
    ],
)
def test_whatever_is_no_query_of_the_tables_is_refused_in_one_line(results, sql):
    before = {path: path.stat().st_mtime_ns for path in results.rglob("*")}
    with (
        pytest.raises(UserError, match="query: ") as error,
        query(results / "tables", sql.format(results=results)) as rows,
    ):
        rows.fetchall()
    assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in results.rglob("*")} == before


def test_other_endings_and_missing_tables_are_told(results, tmp_path):
    for arguments in (
        ["SELECT 1", "--tables", results, "--output", tmp_path / "x.xls"],
        ["SELECT 1", "--tables", tmp_path],
    ):
        with pytest.raises(UserError, match=r"ends in \.parquet, \.csv or \.json|no tables in"):
            run(*arguments)
