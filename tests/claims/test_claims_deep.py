"""Claims on the split of the loss, the central path and the deep UFM, from tables in which the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ncpipe.claims import han2022, sukenik2023
from ncpipe.claims.evidence.claim import Claim, Frames
from ncpipe.ufm import snr_law

NET: dict[str, Any] = {
    "kind": "network", "status": "done", "loss": "mse", "bias": "no", "head": "linear", "fixed_etf": False,
    "zero_error_epoch": 5.0, "seed": 0, "classes": 4,
}  # fmt: skip
DEEP: dict[str, Any] = {
    "kind": "declared", "status": "done", "optimizer": "lbfgs", "loss": "mse", "classes": 2, "activation": "relu",
    "bias": "none", "depth": 3, "seed": 0,
}  # fmt: skip
PATH: dict[str, Any] = {"kind": "declared", "status": "done", "optimizer": "central_path", "classes": 4, "seed": 0}
RUNS = pd.DataFrame(columns=["run_id", "dataset", "train_samples", *(NET | DEEP)])
PENALTIES = ["weight_decay", "feature_decay"]
REACHED = ["value", "optimum", "gap", "optimum_is_zero", "missed", "success_fraction"]
FITS = pd.DataFrame(columns=["run_id", *PENALTIES, "samples", "dim", "seed", *REACHED, "classes", "starts"])
COLLAPSE = pd.DataFrame(columns=["run_id", "split", "layer", "depth", "time", "metric", "value"])
HISTORY = pd.DataFrame(columns=["run_id", "time", "quantity", "value"])

Rows = list[dict[str, Any]]


def frames(runs: Rows, collapse: Rows = [], fits: Rows = [], history: Rows = []) -> Frames:  # noqa: B006
    tables = {"runs": RUNS, "collapse": COLLAPSE, "ufm": FITS, "history": HISTORY}
    given = {"runs": runs, "collapse": collapse, "ufm": fits, "history": history}
    found = {name: pd.DataFrame(given[name], columns=table.columns) for name, table in tables.items()}
    return found | {"runs": found["runs"].astype({"dataset": object})}


def measured(run: str, metric: str, *values: float, layer: str = "features", times: tuple[int, ...] = (0, 1, 5, 9)):
    common = {"run_id": run, "split": "train", "layer": layer, "depth": 1, "metric": metric}
    return [
        common | {"time": time, "value": value} for time, value in zip(times[-len(values) :], values, strict=True)
    ]


def row(claims: tuple[Claim, ...], number: str, tables: Frames) -> dict[str, Any]:
    return next(claim for claim in claims if claim.id.split("-")[1] == number).row(tables)


# --- Han, Papyan & Donoho ------------------------------------------------------------------------


def split(run: str, perp: list[float], error: float = 0.0) -> Rows:
    """Parts of which L_LS is 0.3, and a penalised loss that is off by ``error``, relative, at the first epoch."""
    totals = [(0.3 + p) / (1 + error * (place == 0)) for place, p in enumerate(perp)]
    rows = [("loss_nc1", [0.1] * 4), ("loss_nc23", [0.2] * 4), ("loss_perp", perp), ("loss_penalised", totals)]
    return [found for metric, values in rows for found in measured(run, metric, *values)]


def test_decomposition_is_compared_at_its_worst_epoch():
    runs = [NET | {"run_id": "a", "zero_error_epoch": None}, NET | {"run_id": "b", "loss": "ce"}]
    exact = row(han2022.CLAIMS, "1", frames(runs, split("a", [0.9, 0.5, 0.1, 0.01]) + split("b", [1.0] * 4, 0.5)))
    assert (exact["verdict"], exact["count"]) == ("supported", 1)
    off = row(han2022.CLAIMS, "1", frames(runs, split("a", [0.9, 0.5, 0.1, 0.01], 1e-5)))
    assert off["verdict"] == "contradicted"
    assert off["effect"] == pytest.approx(1e-5)


def test_perpendicular_part_is_weighed_by_steps_after_zero_error_and_through_training():
    # far below L_LS = 0.3 from epoch 5 on, of the epochs 1, 5 and 9
    rows = split("a", [9.0, 0.6, 0.02, 0.009])
    tables = frames([NET | {"run_id": "a"}], rows + [row | {"split": "train_mode"} for row in split("a", [1.0] * 4)])
    after, through = row(han2022.CLAIMS, "2a", tables), row(han2022.CLAIMS, "2b", tables)
    assert (after["effect"], after["verdict"]) == (1, "supported")
    assert (through["effect"], through["verdict"]) == (pytest.approx(0.75), "supported")
    for number in ("2c", "2d"):
        batch = row(han2022.CLAIMS, number, tables)
        assert (batch["effect"], batch["verdict"]) == (0, "contradicted")


def path(w: np.ndarray, law: np.ndarray, times: np.ndarray) -> Rows:
    return [
        {"run_id": "p", "time": int(t), "quantity": f"{name}_{i + 1}", "value": values[k, i]}
        for name, values in (("snr", w), ("snr_law", law))
        for k, t in enumerate(times)
        for i in range(values.shape[1])
    ]


def test_law_and_exponent_of_the_simulated_flow():
    times = np.array([0, *np.geomspace(1e2, 1e7, 60).round()])
    law = snr_law([2.0, 0.5, 0.1], times, classes=4, samples=48).numpy()
    tables = frames([PATH | {"run_id": "p"}], history=path(law, law, times))
    assert row(han2022.CLAIMS, "3", tables)["effect"] == 0
    exponent = row(han2022.CLAIMS, "5", tables)
    assert (exponent["verdict"], exponent["count"]) == ("supported", 1)
    assert 0 < exponent["effect"] < 0.0115
    late = law[law.min(axis=1) ** 2 >= 50 * 4]
    assert len(late) > 5
    other = law.copy()
    other[7, 1] *= 1 + 1e-5
    off = frames([PATH | {"run_id": "p"}], history=path(other, law, times))
    assert row(han2022.CLAIMS, "3", off)["effect"] == pytest.approx(1e-5)
    assert row(han2022.CLAIMS, "3", off)["verdict"] == "contradicted"
    faster = frames([PATH | {"run_id": "p"}], history=path(law**1.2, law, times))
    assert row(han2022.CLAIMS, "5", faster)["verdict"] == "contradicted"
    early = frames([PATH | {"run_id": "p"}], history=path(law[:20], law[:20], times[:20]))
    assert row(han2022.CLAIMS, "5", early)["count"] == 0


def test_singular_values_become_alike_and_nc1_falls_past_zero_error():
    rows = measured("a", "snr_max", 50.0, 30.0, 8.0, 6.0) + measured("a", "snr_min", 1.0, 1.0, 2.0, 3.0)
    rows += measured("a", "nc1_pinv", 1e-9, 1e-9, 0.1, 0.01)
    tables = frames([NET | {"run_id": "a"}], rows)
    assert row(han2022.CLAIMS, "4", tables)["effect"] == pytest.approx(np.log10(2 / 4))
    assert row(han2022.CLAIMS, "6", tables)["effect"] == pytest.approx(-1)
    assert row(han2022.CLAIMS, "6", frames([NET | {"run_id": "a", "zero_error_epoch": None}], rows))["count"] == 0


# --- Sukenik, Mondelli & Lampert -----------------------------------------------------------------


def fit(run: str, **changes: Any) -> dict[str, Any]:
    row = {"run_id": run, "weight_decay": [1e-3] * 3, "feature_decay": 1e-3, "samples": 5, "dim": 16, "seed": 0}
    row |= {"value": 0.1, "optimum": 0.1, "gap": 0.0, "optimum_is_zero": False, "missed": False}
    return row | {"success_fraction": 0.5} | changes


def deep(*fits: dict[str, Any], collapse: Rows = [], **changes: Any) -> Frames:  # noqa: B006
    runs = [DEEP | {"run_id": f["run_id"], "seed": f["seed"]} | changes for f in fits]
    return frames(runs, collapse, list(fits))


def test_optimum_is_that_of_the_best_fit_over_the_widths():
    missed = {"value": 0.2, "gap": 0.1, "missed": True}
    found = row(sukenik2023.CLAIMS, "1", deep(fit("narrow", dim=2, **missed), fit("wide"), fit("other", seed=1)))
    assert (found["count"], found["verdict"], found["seeds"]) == (2, "supported", 2)
    assert row(sukenik2023.CLAIMS, "1", deep(fit("narrow", **missed)))["verdict"] == "contradicted"
    lower = fit("lower", value=0.09, gap=-0.01)
    assert row(sukenik2023.CLAIMS, "1", deep(lower, fit("wide")))["verdict"] == "contradicted"
    weaker = fit("weaker", weight_decay=[1e-4] * 3, **missed)
    assert row(sukenik2023.CLAIMS, "1", deep(fit("wide"), weaker))["verdict"] == "undecided"
    assert row(sukenik2023.CLAIMS, "1", deep(fit("three"), classes=3))["count"] == 0
    assert row(sukenik2023.CLAIMS, "1", deep(fit("linear"), activation="linear"))["count"] == 0


def test_layers_are_taken_where_the_theorem_speaks():
    layers = {"H1": 0.5, "W1H1": 0.4, "H2": 1e-6, "W2H2": 0.3, "features": 1e-7}
    rows = [r for layer, v in layers.items() for r in measured("a", "nc2_means_of", v, layer=layer)]
    rows += [r for layer in layers for r in measured("a", "nc1_trace_ratio", 1e-9, layer=layer)]
    rows += [r for layer, v in (("H1", 0.9), ("H2", 1e-5)) for r in measured("a", "nc3_rows", v, layer=layer)]
    tables = deep(fit("a"), collapse=rows)
    assert row(sukenik2023.CLAIMS, "2", tables)["effect"] == 1e-9
    assert row(sukenik2023.CLAIMS, "3", tables)["effect"] == 1e-6
    assert row(sukenik2023.CLAIMS, "4", tables)["effect"] == 1e-5
    worse = deep(fit("a"), collapse=rows + measured("a", "nc1_trace_ratio", 1e-3, layer="H3"))
    assert row(sukenik2023.CLAIMS, "2", worse)["verdict"] == "contradicted"
    for out in ({"missed": True}, {"optimum_is_zero": True}):
        assert row(sukenik2023.CLAIMS, "3", deep(fit("a", **out), collapse=rows))["count"] == 0
    undefined = measured("a", "nc2_means_of", float("nan"), layer="H3")
    assert row(sukenik2023.CLAIMS, "3", deep(fit("a"), collapse=rows + undefined))["count"] == 0


def test_zero_is_optimal_above_its_threshold_only():
    above = fit("above", optimum_is_zero=True, optimum=0.5, value=0.5, weight_decay=[1.0] * 3)
    tables = deep(above, fit("below", value=0.49), fit("stuck", dim=3, value=0.5))
    assert (row(sukenik2023.CLAIMS, "5a", tables)["effect"], row(sukenik2023.CLAIMS, "5a", tables)["count"]) == (0, 1)
    below = row(sukenik2023.CLAIMS, "5b", tables)
    assert (below["effect"], below["count"], below["verdict"]) == (pytest.approx(0.02), 1, "supported")
    assert row(sukenik2023.CLAIMS, "5a", deep(above | {"value": 0.4}))["verdict"] == "contradicted"
    assert row(sukenik2023.CLAIMS, "5b", deep(fit("stuck", value=0.5)))["verdict"] == "contradicted"


def test_success_is_compared_between_the_widths_of_a_seed():
    widths = [fit(f"{d}-{s}", dim=d, seed=s, success_fraction=d / 40 + s / 10) for d in (16, 4, 8) for s in (0, 1)]
    found = row(sukenik2023.CLAIMS, "6", deep(*widths, fit("alone", weight_decay=[1e-4] * 3)))
    assert (found["count"], found["verdict"]) == (2, "supported")
    assert (found["low"], found["high"]) == (pytest.approx(0.3), pytest.approx(0.3))
    falling = [f | {"success_fraction": 1 / f["dim"]} for f in widths]
    assert row(sukenik2023.CLAIMS, "6", deep(*falling))["verdict"] == "contradicted"


def test_heads_of_networks_are_judged_at_their_worst_layer():
    values = {"layer1": 9.0, "head_input": 0.05, "head1": 0.02, "features": 0.01}
    rows = [
        r
        for metric in ("nc1_pinv", "nc2_means_of", "nc3_rows")
        for layer, v in values.items()
        for run, factor in (("a", 1), ("b", 1), ("ten", 100))
        for r in measured(run, metric, 1.0, factor * v, layer=layer)
    ]
    two, ten = NET | {"head": "hidden 2", "classes": 2}, NET | {"head": "hidden 2", "classes": 10}
    tables = frames([two | {"run_id": "a"}, NET | {"run_id": "b", "classes": 2}, ten | {"run_id": "ten"}], rows)
    for number, effect in (("a", 0.05), ("b", 0.02), ("c", 0.02)):
        of_two, of_ten = (row(sukenik2023.CLAIMS, f"{group}{number}", tables) for group in "78")
        assert (of_two["effect"], of_two["count"], of_two["verdict"]) == (effect, 1, "supported")
        assert (of_ten["effect"], of_ten["count"], of_ten["verdict"]) == (100 * effect, 1, "contradicted")
