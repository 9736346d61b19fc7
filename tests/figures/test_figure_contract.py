"""What every figure promises, from ordinary and from degenerate tables: a new one is tested by being there."""

from __future__ import annotations

from pathlib import Path

import pytest
from plugins import install
from synthetic_tables import CASES
from test_figures import command, texts

from ncpipe.figures import caption, draw, save_figure
from ncpipe.figures.drawing.style import PAGE_HEIGHT, style
from ncpipe.report import write_report
from ncpipe.study.config import FIGURES, WIDTHS, FigureOptions, StudyInfo
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError


def options_of(name: str, **more) -> FigureOptions:
    return FigureOptions(name=name, over="optimizer.lr" if name == "sweep" else None, **more)


@pytest.mark.every(11)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", FIGURES)
def test_draws_from_any_tables(studies, name, case):
    for width in (WIDTHS["page"], WIDTHS["column"]):
        options = options_of(name, width=width)
        with style():  # without the layout, which takes most of the time
            figure = FIGURES[name].draw(studies[case], options)
        assert figure.get_size_inches()[0] == pytest.approx(width)
        assert figure.get_size_inches()[1] <= PAGE_HEIGHT
    assert caption(studies[case], options)


@pytest.mark.every(7)
@pytest.mark.parametrize("name", FIGURES)
def test_files_of_one_column_and_of_the_test_split_are_equal_on_redraw(studies, tmp_path, name):
    options = options_of(name, width=3.25, split="test")
    first, again = (
        save_figure(options, studies.folder("ordinary"), tmp_path / str(i) / name, ["svg"])[0] for i in range(2)
    )
    assert first.read_bytes() == again.read_bytes()


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_to_show_is_one_line(studies, name):
    figure = draw(studies["nothing"], options_of(name))
    assert not figure.axes
    assert texts(figure).startswith(f"{name}: no ")


A_PROBLEM = {
    "study": {"name": "x"},
    "ufm": {"matched": [], "base": {"classes": 3, "samples": 2, "dim": 3, "solver": {"name": "lbfgs"}}},
}
DOTS = '''"""Figure: the seeds of the classes that were learned."""
from ncpipe.figures.drawing.style import new_figure

KINDS = ("network",)

def applies(study):
    return bool(study.problems)

def draw(tables, options):
    figure = new_figure(options.width, 2.0)
    figure.subplots().scatter(tables["runs"]["classes"], tables["runs"]["seed"])
    return figure

def caption(tables, options):
    return "Seeds against classes."
'''


def test_a_figure_of_another_package_is_one_of_ours(studies, tmp_path: Path, monkeypatch):
    install(FIGURES, "dots", DOTS, tmp_path / "package", monkeypatch)
    assert list(Study(A_PROBLEM).figures) == ["dots"]
    listed = {"figures": ["dots", {"name": "dots", "file": "wide", "width": 9}]}
    assert list(Study(A_PROBLEM | listed).figures) == ["dots", "wide"]
    with pytest.raises(UserError, match=r"^figures\.0: unknown value 'dtos'; did you mean 'dots'\?$"):
        Study(A_PROBLEM | {"figures": ["dtos"]})
    assert "dots  " in command("--list")[0]
    tables, target = studies.folder("ordinary"), tmp_path / "dots"
    assert command("dots", "--tables", tables, "--output", target)[1] == ""
    write_report(StudyInfo(name="x"), tables, {"dots": target}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Seeds against classes. Networks: " in page
