"""The distance of two curves against all monotone assignments, and its values over tables."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ncpipe.claims.evidence.curves import (
    BETWEEN,
    FLOOR,
    METRICS,
    curve_distance,
    curve_distances,
    likeness_difference,
)
from ncpipe.records.schemas import TABLES

Row = dict[str, Any]
NAN = math.nan


def by_all_assignments(network: np.ndarray, model: np.ndarray) -> float:
    """Written from the definition, point by point."""
    logs, steps = np.log10(np.maximum(model, FLOOR)), BETWEEN + 1
    points = [a + (b - a) * i / steps for a, b in itertools.pairwise(logs) for i in range(steps)] + [logs[-1]]
    best = math.inf
    for chosen in itertools.combinations_with_replacement(range(len(points)), len(network)):
        times = []
        for values, place in zip(network, chosen):
            apart = [abs(math.log10(max(a, FLOOR)) - b) for a, b in zip(values, points[place]) if not math.isnan(a)]
            times.append(sum(apart) / len(apart))
        best = min(best, sum(times) / len(times))
    return best


@pytest.mark.parametrize("seed", range(6))
def test_distance_is_the_least_over_all_monotone_assignments(seed):
    rng = np.random.default_rng(seed)
    network, model = (10.0 ** rng.uniform(-3, 1, (times, 2)) for times in (4, 3))
    network[2, 0], model[0, 1] = [(NAN, 0), (0, 1), (1, 1)][seed % 3]
    assert curve_distance(network, model) == pytest.approx(by_all_assignments(network, model), rel=1e-12)


def sampled(places: np.ndarray) -> np.ndarray:
    """A curve of two metrics at places in [0, 1] of its path."""
    return np.stack([10 ** (-3 * places), 10 ** (0.5 * np.sin(4 * places) - places)], axis=1)


def test_distance_of_equal_curves_is_zero():
    curve = sampled(np.linspace(0, 1, 20))
    assert curve_distance(curve, curve) == 0
    assert curve_distance(curve[5:12:3], curve) == 0  # the model may begin before and end after


def test_distance_does_not_depend_on_the_times_of_the_model():
    network = sampled(np.linspace(0, 1, 15)) * [1.5, 0.8]
    evenly = curve_distance(network, sampled(np.linspace(0, 1, 40)))
    assert evenly > 0.05
    for retimed in (
        np.linspace(0, 1, 40) ** 3,
        np.sqrt(np.linspace(0, 1, 25)),
        np.sort(np.random.default_rng(0).random(60)),
    ):
        places = np.concatenate([[0], retimed, [1]])
        assert curve_distance(network, sampled(places)) == pytest.approx(evenly, abs=0.004)


def test_distance_is_in_decades_and_never_goes_back():
    falling, rising = np.array([[1.0], [0.1], [0.01]]), np.array([[0.01], [0.1], [1.0]])
    assert curve_distance(falling / 100, falling) == pytest.approx((0 + 1 + 2) / 3)
    assert curve_distance(falling, falling[:1]) == pytest.approx((0 + 1 + 2) / 3)
    assert curve_distance(rising, falling) == pytest.approx(2 / 3)


def test_zeros_are_floored_and_what_is_undefined_is_left_out():
    assert curve_distance([[0.0]], [[1e-30]]) == 0
    assert curve_distance([[0.0]], [[1.0]]) == pytest.approx(12)
    assert curve_distance([[1.0, NAN], [NAN, NAN]], [[10.0, 1.0]]) == pytest.approx(1)
    assert curve_distance([[1.0, 5.0]], [[10.0, NAN]]) == pytest.approx(1)  # the model lacks a metric
    assert curve_distance([[1.0, 1.0]], [[1.0, math.inf], [100.0, 1.0]]) == pytest.approx(1)  # or has it later
    assert math.isnan(curve_distance([[NAN]], [[1.0]]))
    assert math.isnan(curve_distance([[1.0, NAN]], [[NAN, 1.0]]))
    assert math.isnan(curve_distance(np.ones((0, 4)), np.ones((3, 4))))


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"network has shape \(3,\); it needs two dimensions"):
        curve_distance(np.ones(3), np.ones((3, 1)))
    with pytest.raises(ValueError, match="model has 2 metrics and network 1"):
        curve_distance(np.ones((3, 1)), np.ones((3, 2)))


def network(run_id: str, **columns: Any) -> Row:
    usual = {"kind": "network", "status": "done", "classes": 10, "loss": "mse", "bias": "no", "head": "linear"}
    return {"source": "net", "run_id": run_id, "label": "net", "seed": 0, "fixed_etf": False} | usual | columns


def model(run_id: str, activation: str, **columns: Any) -> Row:
    usual = {"kind": "declared", "status": "done", "classes": 10, "loss": "mse", "bias": "none", "model": "extended"}
    usual |= {"optimizer": "gradient_descent", "activation": activation, "label": activation, "seed": 0}
    return {"source": "ufm", "run_id": run_id} | usual | columns


def frames(runs: list[Row], levels: dict[str, list[float]], **fits: Row) -> dict[str, pd.DataFrame]:
    """``levels``: the values of all metrics over time, by run; ``fits``: what is special in the ``ufm`` table."""
    collapse = [
        {"run_id": run, "split": "train", "layer": "features", "time": 10 * time, "metric": metric, "value": value}
        for run, values in levels.items()
        for time, value in reversed(list(enumerate(values)))
        for metric in (*METRICS, "accuracy")
    ]
    ufm = [
        {"run_id": r["run_id"], "kind": "declared"} | fits.get(r["run_id"], {}) for r in runs if r["source"] == "ufm"
    ]
    rows = {"runs": runs, "collapse": collapse, "ufm": ufm}
    return {name: pd.DataFrame(rows.get(name, []), columns=schema.names) for name, schema in TABLES.items()}


def test_a_model_is_as_far_as_the_median_seed_of_its_nearest_label():
    runs = [network("n")] + [model(f"r{seed}", "relu", seed=seed) for seed in range(3)]
    runs += [model("far", "relu", label="relu far"), model("l", "linear")]
    levels = {"n": [1, 0.1], "r0": [1, 0.1], "r1": [10, 1], "r2": [1e3, 1e2], "far": [1e9, 1e9], "l": [1e2, 10]}
    found = curve_distances(frames(runs, levels)).set_index("model")["distance"]
    assert dict(found) == pytest.approx({"relu": 0.5, "linear": 1.5})
    assert dict(likeness_difference(frames(runs, levels))) == pytest.approx({"n": -1})


NOT_COMPARED = {
    "other classes": (network("n", classes=4), model("r", "relu"), {}),
    "bias": (network("n", bias="yes"), model("r", "relu"), {}),
    "cross entropy": (network("n", loss="ce"), model("r", "relu"), {}),
    "frozen classifier": (network("n", fixed_etf=True), model("r", "relu"), {}),
    "diverged": (network("n", status="diverged"), model("r", "relu"), {}),
    "another solver": (network("n"), model("r", "relu", optimizer="lbfgs"), {}),
    "one matrix": (network("n"), model("r", "linear", model="plain"), {}),
    "model with a bias": (network("n"), model("r", "relu", bias="free"), {}),
    "diverged model": (network("n"), model("r", "relu", status="diverged"), {}),
    "non-negative": (network("n"), model("r", "relu"), {"nonnegative": True}),
    "frozen model": (network("n"), model("r", "relu"), {"classifier": "etf"}),
    "rescaled": (network("n"), model("r", "relu"), {"rescale": [5.0, 2.0]}),
}


@pytest.mark.parametrize("case", NOT_COMPARED)
def test_what_is_not_compared_has_no_row(case):
    net, ufm, fit = NOT_COMPARED[case]
    found = curve_distances(frames([net, ufm], {"n": [1, 0.1], "r": [1, 0.1]}, r=fit))
    assert list(found.columns) == ["run_id", "model", "distance"]
    assert found.empty


def test_one_model_alone_and_nothing_measured_say_nothing_of_likeness():
    pair = [network("n"), model("r", "relu")]
    assert len(curve_distances(frames(pair, {"n": [1], "r": [1]}))) == 1
    for runs, levels in (
        ([], {}),
        (pair, {}),
        (pair, {"n": [1, 1]}),
        (pair, {"n": [1], "r": [1]}),
        ([*pair, model("l", "linear")], {"n": [NAN], "r": [1], "l": [1]}),
    ):
        assert likeness_difference(frames(runs, levels)).empty
