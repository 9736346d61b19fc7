"""README against what it speaks of: numbers of the study, code, config, query, dependencies, make targets."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml

import ncpipe
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_rows
from ncpipe.study.study import Study

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def effects(study: str) -> dict[str, float]:
    """Effect of every claim, as the page of a study has it in the table that its run has written."""
    page = (ROOT / "docs" / "studies" / f"{study}.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*(\w+)\*\* .*$", page, flags=re.MULTILINE)
    lines = [line.replace(r"\|", "") for line in page.splitlines() if line.startswith("| **")]
    return {claim: float(line.split("|")[4]) for claim, line in zip(rows, lines, strict=True)}


def test_results_are_those_of_the_study():
    stated = re.findall(r"^\|[^|]+\| ([\d.]+)( %)? \| (\d\w) \|$", README, flags=re.MULTILINE)
    assert len(stated) == 5
    known = effects("tirer2022")
    for number, percent, claim in stated:
        digits = len(number.partition(".")[2]) + (2 if percent else 0)
        assert round(known[claim], digits) == pytest.approx(float(number) / (100 if percent else 1)), claim
    networks = re.search(r"(\d+) networks", README)
    assert networks
    page = (ROOT / "docs" / "studies" / "tirer2022.md").read_text(encoding="utf-8")
    assert f"models are of {networks[1]} networks" in page


def test_code_does_what_its_comments_say():
    *_, message = re.findall(r'# "(.*); \.\.\."$', blocks("python")[0], flags=re.MULTILINE)
    space: dict = {}
    exec(blocks("python")[0], space)
    assert space["row"]["nc2_means_etf"] < 0.01
    said = space["fit"](space["problem"]).message
    value = re.compile(r"reached the optimum ([\d.]+) to .*; (\d+)% of 8 starts")
    assert value.match(said), said
    assert value.match(said).groups() == value.match(message).groups()


def test_the_usual_recipe_is_as_wrong_as_stated():
    stated = re.search(r"reports (\d)·10⁻⁹ where NC1 is (\d)", README)
    assert stated
    drawn = runpy.run_path(str(ROOT / "docs" / "figures" / "pseudo_inverse_trap.py"))
    features, labels = drawn["sample"](1e-4)
    usual, exact = drawn["float32_pinv"](features, labels), ncpipe.measure(features, labels)["nc1_pinv"]
    assert f"{usual:.0e}" == f"{stated[1]}e-09"
    assert round(exact) == int(stated[2])


def test_the_config_has_as_many_networks_as_stated():
    study = Study(yaml.safe_load(blocks("yaml")[0]) | {"study": {"name": "readme"}})
    assert len(study.networks) == 8
    assert "\nEight networks." in README


def test_the_query_reads_one_split_of_the_tables(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    (query,) = re.findall(r'ncpipe query "(.*?)"', README, flags=re.DOTALL)
    connection = duckdb.connect()
    for name in ("collapse", "runs"):
        write_rows(tmp_path / f"{name}.parquet", TABLES[name], [], {})
        connection.execute(f"CREATE VIEW {name} AS SELECT * FROM '{tmp_path / name}.parquet'")
    assert connection.execute(query).fetchall() == []
    assert "split = 'train'" in query


def test_dependencies_and_python_are_those_of_the_package():
    (stated,) = re.findall(r"light library: (.*)\.$", README, flags=re.MULTILINE)
    assert sorted(stated.split(", ")) == sorted(re.match(r"[\w-]+", line)[0] for line in PROJECT["dependencies"])
    assert f"Python {PROJECT['requires-python'].removeprefix('>=')} or newer" in README


def test_targets_and_files_that_are_named_exist():
    rules = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"\bmake ([a-z-]+)", README)):
        assert re.search(rf"^{target}:", rules, flags=re.MULTILINE), target
    for file in set(re.findall(r"\b(?:studies|workflow)/[\w./-]+\w", README)):
        assert (ROOT / file).exists() or (ROOT / "docs" / file).exists(), file
