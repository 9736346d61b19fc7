"""The reference documentation against the code: names, defaults, expansions and runnable examples."""

from __future__ import annotations

import doctest
import itertools
import re
import runpy
import shlex
from inspect import isabstract
from pathlib import Path

import numpy as np
import pytest
import yaml
from pydantic import BaseModel

import ncpipe
from ncpipe.records.parts import write_parts
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_rows
from ncpipe.settings.base import Settings
from ncpipe.settings.sweep import Block, expand
from ncpipe.study.study import Study
from ncpipe.ufm.solvers import BaseSolver

PROVENANCE = dict.fromkeys(("git_commit", "ncpipe_version", "study_hash"), "") | {"provenance": "{}"}
"""Metadata that ``write_tables`` adds to the study's name and the schema's version."""
DOCS = Path(__file__).resolve().parents[2] / "docs"


def text(name: str) -> str:
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", document, flags=re.MULTILINE | re.DOTALL)


def table_rows(section: str) -> dict[str, list[str]]:
    """Cells of the table rows whose first cell is one name in backquotes, by that name."""
    rows = (re.split(r"(?<!\\)\|", line)[1:-1] for line in section.splitlines() if line.startswith("| `"))
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells] for cells in rows}


def sections(document: str) -> dict[str, str]:
    """Text under every heading, up to the next heading."""
    parts = re.split(r"^#+ (.*)$", document, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2]))


@pytest.mark.parametrize("name", ["dynamics", "matched", "metrics", "published_names", "ufm"])
def test_examples_print_what_the_document_says(name):
    run_examples(name)


def run_examples(name: str) -> None:
    examples = "\n".join(blocks(text(name), "python"))
    test = doctest.DocTestParser().get_doctest(examples, {}, f"docs/{name}.md", None, 0)
    report: list[str] = []
    assert len(test.examples) >= 10
    failed, _ = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS).run(
        test, out=report.append
    )
    assert failed == 0, "".join(report)


def test_closed_form_values_of_the_table_are_those_of_the_code():
    from ncpipe.ufm import Problem

    values = {
        k: v[1] for k, v in table_rows(sections(text("ufm"))["Closed forms"]).items() if k.startswith("Problem(")
    }
    assert len(values) == 25
    for call, value in values.items():
        assert f"{eval(call, {'Problem': Problem}).optimum().value:.8f}" == value, call


def test_ufm_command_prints_the_optimum_that_is_shown():
    from typer.testing import CliRunner

    from ncpipe.cli.main import app

    (block,) = blocks(sections(text("ufm"))["From the command line"], "console")
    command, _, shown = block.partition("\n")
    printed = CliRunner().invoke(app, [*shlex.split(command)[2:], "--starts", "1"]).output
    optimum = [part.split("\n\n")[0] for part in (shown, printed)]
    assert len(optimum[0].splitlines()) == 5
    assert optimum[0] == optimum[1]


def test_every_metric_is_defined():
    rng = np.random.default_rng(0)
    labels = np.arange(12) % 3
    measured = ncpipe.measure(rng.normal(size=(12, 5)), labels, rng.normal(size=(3, 5)), np.zeros(3))
    document = text("metrics")
    assert set(measured) | {"loss"} <= set(table_rows(document))
    meaning = TABLES["history"].field("quantity").metadata[b"meaning"].decode()
    quantities = set(re.findall(r"\w+", re.sub(r"\(.*?\)|\w+:", "", meaning)))
    assert quantities == set(table_rows(sections(document)["Quantities of the history table"]))


REFERENCE = runpy.run_path(str(DOCS / "reference.py"))


@pytest.mark.parametrize("name", REFERENCE["PAGES"])
def test_pages_hold_all_that_the_code_declares(name):
    page = text(name)
    assert REFERENCE["PAGES"][name](page) == page, "run `make format`, which writes what is missing"


def test_every_package_has_its_line_in_the_tree_and_its_folder_of_tests():
    packages = {path.parent.name for path in DOCS.parent.glob("ncpipe/*/__init__.py")}
    assert set(table_rows(sections(text("architecture"))["The tree"])) == packages | {"ncpipe/"}
    assert packages <= {path.name for path in DOCS.parent.glob("tests/*")}


# --- the config ----------------------------------------------------------------------------------


def subclasses(model: type[BaseModel]) -> set[type[BaseModel]]:
    return {model}.union(*map(subclasses, model.__subclasses__()))


def ours(kind: type) -> bool:
    """Whether a class is of the package and public: plugins of other tests may live in this process."""
    return kind.__module__.startswith("ncpipe.") and not kind.__name__.startswith("_")


def test_every_group_of_settings_has_a_section():
    concrete = {kind for kind in subclasses(Settings) if ours(kind) and not isabstract(kind)}
    assert concrete - {Settings, BaseSolver} == set(REFERENCE["HEADINGS"])


def test_sweeps_expand_to_what_the_document_says():
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text("config"), flags=re.MULTILINE | re.DOTALL)
    pairs = [(a, b) for (first, a), (then, b) in itertools.pairwise(found) if (first, then) == ("yaml", "text")]
    assert len(pairs) >= 6
    for block, runs in pairs:
        expected = [yaml.safe_load(line) for line in runs.splitlines()]
        assert expand(Block.model_validate(yaml.safe_load(block)), "example") == expected, block


def test_plan_of_the_example_study_is_the_one_shown():
    document = sections(text("config"))["A whole study"]
    study = Study(yaml.safe_load(blocks(document, "yaml")[0]))
    lines = re.findall(r"^ (\w+)(?: x\d+)? +(\S+) +to do$", blocks(document, "console")[0], flags=re.MULTILINE)
    networks = {(stage, run) for run in study.networks for stage in ("train", "features", "match")}
    singles = {"dataset": study.datasets, "ufm": study.ufm_batches, "figure": study.figures}
    assert set(lines) == networks | {(stage, name) for stage, names in singles.items() for name in names}


# --- the tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("table", TABLES)
def test_every_column_stands_in_its_table(table):
    rows = table_rows(sections(text("tables"))[f"`{table}`"])
    assert list(rows) == TABLES[table].names
    for field in TABLES[table]:
        assert rows[field.name][1] == str(field.type)


def test_commands_that_are_shown_exist():
    from typer.main import get_command

    from ncpipe.cli.main import app

    known = set(get_command(app).commands)
    lines = [line for path in DOCS.glob("*.md") for line in path.read_text(encoding="utf-8").splitlines()]
    shown = [shlex.split(line, comments=True) for line in lines if re.match(r"(    |\$ )ncpipe [a-z]", line)]
    used = {words[words.index("ncpipe") + 1] for words in shown}
    assert used <= known


def test_examples_of_reading_run_on_tables_of_these_schemas(tmp_path, monkeypatch):
    duckdb = pytest.importorskip("duckdb")
    for name, schema in TABLES.items():
        write_rows(tmp_path / f"results/tables/{name}.parquet", schema, [], {"study": "empty", **PROVENANCE})
    monkeypatch.chdir(tmp_path)
    run_examples("tables")
    *queries, of_folder = blocks(text("tables"), "sql")
    assert len(queries) == 2
    for query in queries:
        assert duckdb.sql(query).fetchall() == []
    collapse = Path("results/tables/collapse.parquet")
    write_parts(collapse, TABLES["collapse"], [[]], {})
    assert duckdb.sql(of_folder).fetchall() == []
