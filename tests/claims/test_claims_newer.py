"""Claims on classes of different size, and on NC1 on the way to a minimum, from tables whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable

import pandas as pd
import pytest
from test_claims_papers import Row, curve, decide, frames, network
from torch import Tensor

from ncpipe.records.schemas import TABLES
from ncpipe.ufm import Problem

# --- dang2024 ------------------------------------------------------------------------------------

SIZES, DECAYS = [40, 20, 4, 3], {"weight_decay": 0.02, "feature_decay": 0.04}  # the threshold lies at 4.8 samples


def fits(change: Callable[[Tensor, Tensor], None] = lambda means, weight: None, missed: bool = False) -> dict:
    """Tables of one fit that is at the optimum but for what ``change`` does to its class means and classifier."""
    point = Problem(4, SIZES, 6, "ce", nonnegative=True, **DECAYS).construct()
    means, weight = point.class_features(), point.weights[0]
    change(means, weight)
    run = {
        "run_id": "fit",
        "kind": "declared",
        "status": "done",
        "optimizer": "lbfgs",
        "loss": "ce",
        "model": "plain",
    }
    run |= {"bias": "none", "classes": 4, "seed": 0, "weight_decay": [0.02], "feature_decay": 0.04}
    run["settings"] = json.dumps({"samples": SIZES})
    fit = {
        "run_id": "fit",
        "kind": "declared",
        "nonnegative": True,
        "classifier": "free",
        "optimum": 1.0,
        "gap": 1e-15,
    }
    grams = {"means_uncentred": means @ means.T, "weights": weight @ weight.T}
    entries = [
        {"run_id": "fit", "layer": "features", "gram": name, "row": i, "column": j, "value": float(gram[i, j])}
        for name, gram in grams.items()
        for i in range(4)
        for j in range(4)
    ]
    rows = {"runs": [run], "ufm": [fit | {"missed": missed}], "grams": entries}
    return {name: pd.DataFrame(rows.get(name, []), columns=schema.names) for name, schema in TABLES.items()}


def stretch(means: Tensor, weight: Tensor) -> None:
    means[0] *= 1.01


def lean(means: Tensor, weight: Tensor) -> None:
    means[0, 1] = 0.01 * means[0, 0]


def revive(means: Tensor, weight: Tensor) -> None:
    means[3, 2] = 0.01


def kill(means: Tensor, weight: Tensor) -> None:
    means[1] = 0


def part(means: Tensor, weight: Tensor) -> None:
    weight[3] *= 1.01


def swap(means: Tensor, weight: Tensor) -> None:
    weight[[0, 1]] = weight[[1, 0]]


CLAIMS = ("3", "4a", "4b", "5", "6", "7")


@pytest.mark.parametrize(
    ("change", "broken"),
    [(stretch, {"4a"}), (lean, {"3"}), (revive, {"5"}), (part, {"4b", "6"}), (swap, {"4b", "7"})],
)
def test_dang_what_differs_from_the_theorem_breaks_its_claims(change, broken):
    for number in CLAIMS:
        assert decide(f"dang2024-{number}", fits())["verdict"] == "supported", number
        wanted = "contradicted" if number in broken else "supported"
        assert decide(f"dang2024-{number}", fits(change))["verdict"] == wanted, number


def test_dang_counts_classes_on_both_wrong_sides_of_the_threshold():
    assert decide("dang2024-5", fits(lambda *at: (revive(*at), kill(*at))))["effect"] == 2


def test_dang_speaks_of_points_at_the_optimum_but_for_the_objective():
    missed = fits(missed=True)
    assert decide("dang2024-1", missed)["count"] == 1
    assert all(decide(f"dang2024-{number}", missed)["count"] == 0 for number in CLAIMS)


# --- wu2025 --------------------------------------------------------------------------------------

TIMES = (10, 20, 30, 31, 35, 40)  # the end phase begins at 31


def path(nc1: list[float], mixture: Row | None = None, **recorded: list[float]) -> dict:
    """Tables of a network with these values at ``TIMES``, gradients in the end phase alone."""
    falling = {"train_loss": [0.3, 0.2, 0.1, 1e-2, 1e-3, 1e-4], "test_accuracy": [0.5, 0.6, 0.7, 0.8, 0.9, 0.99]}
    falling |= {"gradient_norm": [None, None, None, 9.0, 0.4, 0.1]} | recorded
    net = network("net", loss="mse", bias="no", classes=3)
    net["settings"] = json.dumps(json.loads(net["settings"]) | {"dataset": {"name": "x", "mixture": mixture}})
    history = [
        {"source": "net", "run_id": "net", "time": time, "quantity": name, "value": number}
        for name, numbers in falling.items()
        for time, number in zip(TIMES, numbers)
        if number is not None
    ]
    return frames([net], *curve("net", "nc1_trace_ratio", dict(zip(TIMES, nc1))), history=history)


def effects(tables: dict) -> dict[str, float | None]:
    return {
        number: decide(f"wu2025-{number}", tables)["effect"] for number in ("1a", "1b", "2", "3a", "3b", "4a", "4b")
    }


def test_wu_correlates_over_the_end_phase_and_takes_the_largest_where_all_is_small():
    found = effects(path([1.0, 1.1, 1.2, 0.5, 0.02, 0.03]))
    assert (found["1a"], found["1b"]) == (pytest.approx(0.5), pytest.approx(0.5))  # ranks 3, 1, 2 beside 3, 2, 1
    assert (found["2"], found["3a"], found["3b"]) == (0.03, 1e-4, 0.03)
    assert found["4a"] == pytest.approx(1 - 6 * (4 + 0 + 4 + 0 + 1 + 1) / 210)
    assert found["4b"] is None
    nowhere = path([1.0] * 6, train_loss=[0.3] * 5 + [0.02])
    assert decide("wu2025-2", nowhere)["count"] == 0


def test_wu_test_errors_are_of_classes_that_do_not_overlap():
    apart, overlapping = {"separation": 8.0}, {"separation": 3.0}
    falling = [1.0, 0.9, 0.8, 0.5, 0.1, 0.01]
    assert effects(path(falling, apart))["4b"] == pytest.approx(0.01)
    assert effects(path(falling, apart))["4a"] == pytest.approx(1)
    found = effects(path(falling, overlapping))
    assert (found["4a"], found["4b"], found["3b"]) == (None, None, 0.01)
    assert effects(path(falling, apart | {"condition": 100.0}))["4b"] is None
