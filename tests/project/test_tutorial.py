"""The notebooks of docs/: their cells run in order, and what they print and draw is stored in them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from ncpipe.system.vision import import_torchvision

DOCS = Path(__file__).resolve().parents[2] / "docs"
NAMES = sorted(path.stem for path in DOCS.glob("*.ipynb"))
every_notebook = pytest.mark.parametrize("name", NAMES)


def text(name: str) -> str:
    return (DOCS / f"{name}.ipynb").read_text(encoding="utf-8")


def cells(name: str, kind: str) -> list[dict]:
    return [cell for cell in json.loads(text(name))["cells"] if cell["cell_type"] == kind]


def source(name: str, kind: str) -> str:
    return "\n".join("".join(cell["source"]) for cell in cells(name, kind))


def run(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the cells define, run one after the other."""
    monkeypatch.setitem(mpl.rcParams, "backend", "agg")
    import matplotlib.pyplot as plt

    monkeypatch.setattr(plt, "show", lambda: None)
    space: dict[str, Any] = {"__name__": name}
    with mpl.rc_context():
        for number, cell in enumerate(cells(name, "code"), start=1):
            exec(compile("".join(cell["source"]), f"{name}.ipynb, cell {number}", "exec"), space)
        plt.close("all")
    return space


def test_the_notebooks_are_found():
    assert {"theorems", "tutorial"} <= set(NAMES)


@every_notebook
def test_it_is_a_valid_one(name):
    notebook = json.loads(text(name))
    assert notebook["nbformat"] == 4
    nbformat = pytest.importorskip("nbformat")
    nbformat.validate(notebook)


@every_notebook
def test_outputs_are_stored_without_errors_and_paths(name):
    code = cells(name, "code")
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs if output["output_type"] == "stream"} == {"stdout"}
    drawn = source(name, "code").count("plt.show()")
    assert sum("image/png" in output.get("data", {}) for output in outputs) == drawn > 0
    assert "/home/" not in text(name)


@every_notebook
def test_links_lead_to_documents_that_exist(name):
    targets = [part.split(")")[0].split("#")[0] for part in source(name, "markdown").split("](")[1:]]
    assert len(targets) >= 4
    for target in targets:
        assert (DOCS / target).is_file()


def collapse_is_found(space: dict[str, Any]) -> None:
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


CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {"tutorial": collapse_is_found}
"""What a notebook does not assert itself."""
PRINTED = {"tutorial": "converted", "theorems": "fitted"}


@pytest.mark.slow
@pytest.mark.thorough
@every_notebook
def test_all_cells_run(name, capsys, monkeypatch):
    if name == "tutorial":
        pytest.importorskip("sklearn")
        import_torchvision()
    space = run(name, monkeypatch)
    CHECKS.get(name, lambda space: None)(space)
    assert PRINTED.get(name, "") in capsys.readouterr().out
