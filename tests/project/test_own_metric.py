"""The metric of docs/own.md: as of another installed package, in measurements, tables, figures and messages."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from in_one_process import run_study
from plugins import install

from ncpipe.collapse.metrics import METRICS, NEEDS
from ncpipe.figures.collapse_curves import draw
from ncpipe.figures.drawing.definitions import definition
from ncpipe.records.reading import read_tables
from ncpipe.records.writing import read_table
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

SECTION = re.search(
    r"^## A metric\n(.*?)^## ", (Path(__file__).parents[2] / "docs/own.md").read_text(encoding="utf-8"), re.M | re.S
)
assert SECTION is not None
TEXT = SECTION[1]
MODULE, EXAMPLE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.M | re.S)
[ENTRY_POINT] = re.findall(r'^```toml\n\[project\.entry-points\."(.*)"\]\ncoherence = ".*(:\w+)"\n```$', TEXT, re.M)


@pytest.fixture
def coherence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group, attribute = ENTRY_POINT
    assert group == METRICS.package
    install(METRICS, "coherence", MODULE, tmp_path / "package", monkeypatch, attribute)


def study(folder: Path, metric: str = "coherence") -> Study:
    solver = {"name": "gradient_descent", "steps": 200}
    return Study(
        {
            "study": {"name": "mine", "results": str(folder / "results")},
            "ufm": {"base": {"classes": 3, "samples": 2, "dim": 4, "solver": solver}},
            "tracking": {"enabled": False},
            "figures": [{"name": "collapse_curves", "metrics": [metric, "nc1_pinv"]}],
        }
    )


def test_the_example_prints_what_the_page_says(coherence: None) -> None:
    test = doctest.DocTestParser().get_doctest(EXAMPLE, {}, "docs/own.md", None, 0)
    assert len(test.examples) == 4
    assert doctest.DocTestRunner().run(test).failed == 0


def test_needs_are_those_of_the_page() -> None:
    assert dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", TEXT.partition("|---|")[2], re.M)) == NEEDS


def test_it_is_in_tables_and_figures(tmp_path: Path, coherence: None) -> None:
    mine = study(tmp_path)
    run_study(mine)
    table = read_table(mine.layout.tables / "collapse.parquet").to_pandas()
    values = table.query("metric == 'coherence'")["value"]
    assert len(values) == len(table.query("metric == 'nc1_pinv'"))
    assert values.between(1 / 2, 1).all()  # that of an ETF of three classes is the least
    assert definition("coherence").startswith("max ")
    figure = draw(read_tables(mine.layout.tables), mine.config.figures[0])
    assert [axes.get_title("left") for axes in figure.axes] == ["coherence", "NC1"]
    assert (mine.layout.figures / "collapse_curves.svg").exists()


def test_it_is_known_only_where_it_is_installed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"figures\.0\.metrics\.0: unknown value 'coherence'"):
        study(tmp_path)
    assert definition("coherence") == ""
