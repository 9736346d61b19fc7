"""A study's own claims and figure: the examples of docs/own.md in one study, and what is told of wrong files."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from in_one_process import run_study
from synthetic_tables import MadeUp
from typer.testing import CliRunner
from workplace import ROOT

from ncpipe.claims import claim_rows
from ncpipe.cli.main import app
from ncpipe.records.reading import read_tables
from ncpipe.report.claims_page import read_claims, write_claims_page
from ncpipe.settings.source import own
from ncpipe.study.config import PAPERS
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

PAGE = ROOT / "docs/own.md"


def examples(section: str) -> dict[str, str]:
    """The files that a section of the page shows, by name."""
    text = PAGE.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return dict(re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", text, re.M | re.S))


FILES = examples("A figure") | examples("A claim")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        if name.endswith(".py"):
            Path(name).write_text(content, encoding="utf-8")
    return tmp_path


A_PROBLEM = {
    "study": {"name": "x"},
    "ufm": {"matched": [], "base": {"classes": 3, "samples": 2, "dim": 3, "solver": {"name": "lbfgs"}}},
}


STUDY = {
    "study": {"name": "own"},
    "datasets": {"base": {"name": "digits", "samples_per_class": 20}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 1, "width": 16},
            "loss": {"name": "mse"},
            "optimizer": {"lr": 0.05},
            "epochs": 3,
        }
    },
    "measure": {"epochs": 2},
    "ufm": {"matched": []},
}


def test_the_examples_stand_in_tables_report_and_claims_page(folder: Path) -> None:
    given = [yaml.safe_load(examples(section)["config.yaml"]) for section in ("A figure", "A claim")]
    run_study(Study(STUDY | given[0] | given[1]))
    claims = pd.read_parquet("results/tables/claims.parquet").set_index("claim_id")
    assert list(claims.index[:2]) == ["claims-collapse", "claims-learnt"]
    assert set(claims["source"]) == {"What I claim", "Tirer & Bruna 2022"}
    assert claims["count"][:2].tolist() == [1, 1]
    assert claims["verdict"][:2].tolist() == ["contradicted", "contradicted"]
    assert Path("results/figures/my_figure.svg").exists()
    report = Path("results/report.html").read_text(encoding="utf-8")
    for text in ("What I claim", *claims["statement"][:2], "Training and test accuracy of every network.", "2022,"):
        assert text in report, text
    write_claims_page([read_claims(Path("results"))], folder / "claims.html")
    page = (folder / "claims.html").read_text(encoding="utf-8")
    assert f"1 of {len(PAPERS)} papers have results here" in page
    assert page.count("What I claim") > 2


def test_a_figure_is_drawn_from_any_tables(folder: Path) -> None:
    tables = MadeUp().write(folder / "tables")
    done = CliRunner().invoke(app, ["figure", "my_figure.py", "--tables", str(tables)], catch_exceptions=False)
    assert done.stdout.split()[1::2] == ["my_figure.svg", "my_figure.pdf", "my_figure.png"]
    assert "Training and test accuracy of every network. Networks: " in Path("my_figure.svg").read_text()


def told(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        Study(A_PROBLEM | config)
    return str(error.value)


def test_reading_a_study_runs_no_file(folder: Path) -> None:
    Path("deep").mkdir()
    Path("deep/loud.py").write_text("raise SystemExit('ran')\ndef draw(tables, options): ...\n")
    study = Study(A_PROBLEM | {"figures": ["deep/loud.py"], "claims": ["deep/loud.py", "tirer2022"]})
    assert list(study.figures) == ["loud"]
    assert study.own_files == ["deep/loud.py", "deep/loud.py"]


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        (None, {"claims": ["mine.py"]}, "claims: no file 'mine.py' in "),
        ("def f(:", {"claims": ["mine.py"]}, "claims: mine.py, line 1: SyntaxError: invalid syntax"),
        ("x = 1", {"figures": ["mine.py"]}, "figures: mine.py has no function draw(tables, options)"),
        ("x = 1", {"claims": ["mine.py", "./mine.py"]}, "claims: mine.py has the name of other claims, 'mine'"),
        (None, {"claims": ["li2024.py"]}, "claims: no file 'li2024.py'"),
        (None, {"figures": ["my figure.py"]}, "figures.0: the name of an own file may hold letters"),
        (None, {"figures": [{"name": ".py"}]}, "figures.0.name: the name of an own file may hold"),
        (None, {"figures": ["mine"]}, "figures.0: unknown value 'mine'"),
    ],
)
def test_a_wrong_file_is_told_before_anything_runs(
    content: str | None, config: dict[str, Any], message: str, folder: Path
) -> None:
    if content is not None:
        Path("mine.py").write_text(content)
    assert told(config).startswith(message)


def test_a_file_of_a_papers_name_is_refused(folder: Path) -> None:
    Path("li2024.py").write_text("")
    assert (
        told({"claims": ["li2024.py"]}) == "claims: li2024.py has the name of other claims, 'li2024'; rename the file"
    )


CLAIM = "from ncpipe.claims import claim\n@claim('S.', 's', {})\ndef first(tables):\n    return {}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nowhere", "mine.py, line 1: ModuleNotFoundError: No module named 'nowhere'; NCPIPE_TRACEBACK=1"),
        ("x = 1", "mine.py has no claim; decorate a function"),
        (CLAIM.format("", "1"), "mine.py, line 2: ValueError: claim: needs one threshold"),
        (CLAIM.format("below=1", "1"), "mine.py: claim 'mine-first' gave int; it needs a Series"),
        (CLAIM.format("above=1", "tables['nothing']"), "mine.py, line 4: KeyError: 'nothing'"),
        (
            CLAIM.format("above=1", "tables['runs']['seed']"),
            "mine.py: claim 'mine-first' gave a value for '0', which",
        ),
    ],
)
def test_a_claim_that_fails_is_told_by_its_file_and_line(content: str, message: str, folder: Path) -> None:
    Path("mine.py").write_text(content)
    with pytest.raises(UserError, match=f"^{re.escape(message)}"):
        claim_rows(read_tables(MadeUp().write(folder / "tables")), ["mine.py"])


DRAW = "def draw(tables, options):\n    {}\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DRAW.format("return tables['nothing']"), "mine.py, line 2: KeyError: 'nothing'"),
        (DRAW.format("pass"), "mine.py: draw gave NoneType; it must return a matplotlib Figure"),
    ],
)
def test_a_figure_that_fails_is_told_by_its_file_and_line(content: str, message: str, folder: Path) -> None:
    Path("mine.py").write_text(content)
    done = CliRunner().invoke(app, ["figure", "mine.py", "--tables", str(MadeUp().write(folder / "tables"))])
    assert isinstance(done.exception, UserError)
    assert str(done.exception).startswith(message)


def test_a_file_is_run_again_only_when_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    Path("mine.py").write_text("x = []")
    first = own("mine.py").module()
    assert own("mine.py").module() is first
    Path("mine.py").write_text("x = ()")  # of the same size, in the same second
    assert own("mine.py").module().x == ()
    assert not Path("__pycache__").exists()
