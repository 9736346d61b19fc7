"""Claims on landscapes and the figure of them, from tables in which the curvatures are known."""

from __future__ import annotations

import pandas as pd
import pytest

from ncpipe.figures import caption, draw
from ncpipe.records.schemas import TABLES
from ncpipe.study.config import PAPERS, FigureOptions

SADDLES = [(0.5, 9), (0.3, 2), (0.1, 0)]  # objective and index; 0.1 is the optimum
TRAP = [(0.5, 0), (0.3, 2), (0.1, 0)]


def tables(
    points: dict[str, list[tuple[float, int]]], gap: bool = True, **columns: object
) -> dict[str, pd.DataFrame]:
    """A UFM of every name with critical points from the highest."""
    run = {"source": "ufm", "kind": "declared", "status": "done", "optimizer": "landscape", "loss": "ce", "depth": 1}
    run |= {
        "model": "plain",
        "dim": 6,
        "classes": 4,
        "seed": 0,
        "label": "plain linear CE bias (landscape)",
    } | columns
    rows: dict[str, list[dict[str, object]]] = {"runs": [run | {"run_id": name} for name in points]}
    rows["history"] = [
        {"source": "ufm", "run_id": name, "time": time, "quantity": quantity, "value": value}
        for name, found in points.items()
        for time, (objective, index) in enumerate(found)
        for quantity, value in {
            "objective": objective, "index": index, "negative_share": index / 20, "kinks": 0, "gap": objective - 0.1,
        }.items()
        if gap or quantity != "gap"
    ]  # fmt: skip
    return {name: pd.DataFrame(rows.get(name, []), columns=schema.names) for name, schema in TABLES.items()}


def decide(claim_id: str, frames: dict[str, pd.DataFrame]) -> dict[str, object]:
    claims = {claim.id: claim for claim in PAPERS[claim_id.split("-")[0]].CLAIMS}
    return claims[claim_id].row(frames)


@pytest.mark.parametrize("gap", [True, False], ids=["closed form", "lowest found"])
def test_one_minimum_above_the_optimum_decides_against(gap):
    found = decide("zhou2022-6a", tables({"a": SADDLES, "b": SADDLES}, gap))
    assert (found["verdict"], found["count"], found["high"]) == ("supported", 2, 0)
    found = decide("zhou2022-6a", tables({"a": SADDLES, "b": TRAP}, gap))
    assert (found["verdict"], found["holds"], found["high"]) == ("undecided", 1, 1)
    assert decide("zhou2022-6a", tables({"a": TRAP}, gap))["verdict"] == "contradicted"
    assert decide("zhou2022-6b", tables({"a": TRAP}, gap))["count"] == 0
    assert decide("tirer2022-11b", tables({"a": TRAP}, gap, model="extended"))["verdict"] == "supported"
    assert decide("tirer2022-11a", tables({"a": TRAP}, gap, model="extended"))["count"] == 0


def test_a_lowest_point_above_the_closed_form_is_a_minimum_above_the_optimum():
    assert decide("yaras2022-6", tables({"a": [(0.5, 3), (0.3, 0)]}))["high"] == 1


def test_what_rounding_parts_from_the_optimum_is_the_optimum():
    near = [*SADDLES[:-1], (0.1 * (1 + 1e-9), 0), (0.1, 0)]
    assert decide("zhou2022-6a", tables({"a": near}))["high"] == 0


def test_a_run_that_found_the_optimum_alone_says_nothing():
    assert decide("zhou2022-6a", tables({"a": [(0.1, 0)]}))["count"] == 0


def test_the_figure_marks_what_is_no_strict_saddle():
    options = FigureOptions(name="ufm_landscape")
    frames = tables({"a": SADDLES, "b": TRAP})
    [axes] = draw(frames, options).axes
    drawn = {line.get_marker(): len(line.get_xdata()) for line in axes.lines}
    assert drawn == {"*": 2, "o": 3, "X": 1}
    assert axes.get_title(loc="left") == "plain linear CE bias"
    assert "2 UFMs" in caption(frames, options)
    assert "3 strict saddles, and 1 above the optimum" in caption(frames, options)
    assert draw(tables({}), options).axes == []
    assert "0 UFMs" in caption(tables({}), options)
