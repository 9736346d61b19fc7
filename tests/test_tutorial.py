"""The tutorial notebook: its cells run in order, and what they print is stored in it."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import pytest

from ncpipe.vision import import_torchvision

NOTEBOOK = Path(__file__).resolve().parent.parent / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def code_of(cells: list[dict]) -> list[dict]:
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_the_notebook_is_a_valid_one():
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(notebook)


def test_outputs_are_stored_without_errors_and_paths(cells):
    assert [cell["execution_count"] for cell in code_of(cells)] == list(range(1, len(code_of(cells)) + 1))
    outputs = [output for cell in code_of(cells) for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 1
    assert "/home/" not in NOTEBOOK.read_text(encoding="utf-8")


def test_links_lead_to_documents_that_exist(cells):
    prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    targets = [part.split(")")[0].split("#")[0] for part in prose.split("](")[1:]]
    assert len(targets) >= 4
    for target in targets:
        assert (NOTEBOOK.parent / target).is_file()


@pytest.mark.slow
def test_all_cells_run_and_find_collapse(cells, capsys, monkeypatch):
    pytest.importorskip("sklearn")
    import_torchvision()
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: None)
    space: dict = {"__name__": "tutorial"}
    for number, cell in enumerate(code_of(cells), start=1):
        exec(compile("".join(cell["source"]), f"tutorial.ipynb, cell {number}", "exec"), space)
    plt.close("all")

    before, after, row, test_row = (space[name] for name in ("before", "after", "row", "test_row"))
    assert list(before) == list(after) == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    for name in ("nc1_pinv", "within_share", "nc2_means_etf"):
        assert after["layer4.1"][name] < 0.7 * before["layer4.1"][name]
        assert after["layer4.1"][name] < 0.7 * after["layer1.0"][name]
    assert after["layer4.1"]["ncc_accuracy"] > 0.98
    assert row["accuracy"] > 0.98
    assert test_row["accuracy"] > 0.9
    assert row["nc1_pinv"] == pytest.approx(after["layer4.1"]["nc1_pinv"], rel=1e-6)
    assert row.undefined == {}
    assert space["sw_inv_sb"] / 10 == pytest.approx(row["nc1_pinv"], rel=1e-9)
    assert "converted" in capsys.readouterr().out
