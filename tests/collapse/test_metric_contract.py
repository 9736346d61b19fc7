"""Contract of every registered metric: brute force, values at exact frames, reasons, rotations, and its words."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import Sample, definitions, orthonormal, sample, simplex_etf, variability_collapse
from matplotlib.mathtext import MathTextParser

from ncpipe import measure
from ncpipe.collapse import Measurement, layer_statistics
from ncpipe.collapse.metrics import METRICS, NEEDS, Layer, Metric, families
from ncpipe.report.formulas import COMMAND, SYMBOLS, as_html

K = 4
DATA = sample([9, 5, 14, 20], 6, seed=3)
TRAIN_MEANS = sample([1] * K, 6, seed=4).features
COMPUTED = [name for name, metric in METRICS.items() if metric.compute]
every_family = pytest.mark.parametrize("metric", [*families()], ids=lambda metric: next(iter(metric.quantities)))


def everything(data: Sample, train_means: np.ndarray, outside: np.ndarray, ridge: float = 0.01) -> Measurement:
    return measure(*data.arguments, train_means=train_means, products=True, ridge=ridge, ood_features=outside)


ROW = everything(DATA, TRAIN_MEANS, DATA.features[:3])


WRITTEN = definitions(DATA, TRAIN_MEANS) | {"vci": variability_collapse(DATA)}


def test_a_row_has_every_metric_in_the_order_of_the_modules():
    assert set(ROW) == {*COMPUTED, "rank", "condition"}
    in_row = dict.fromkeys(METRICS[name] for name in ROW if name in METRICS)
    assert [*in_row] == [metric for metric in families() if metric.compute]


@pytest.mark.parametrize("name", [name for name in COMPUTED if name in WRITTEN])
def test_it_agrees_with_its_definition_as_it_is_written(name):
    assert ROW[name] == pytest.approx(WRITTEN[name], rel=1e-10)


def declared(text: str) -> float | None:
    """A value in the words of docs/metrics.md; None for one that is not said of every frame."""
    text = text.partition(",")[0]
    for written, meant in {"−": "-", "½ ": "0.5*", "√": "sqrt", "2K": "2*K", "2sqrt": "2*sqrt"}.items():
        text = text.replace(written, meant)
    known = {"K": K, "D": math.sqrt(2 - 2 * math.sqrt(1 - 1 / K)), "sqrt": math.sqrt, "log": math.log}
    return float(eval(text, known)) if re.fullmatch(r"[-+*/()\d.KD ]|(?:[-+*/()\d.KD ]|sqrt|log)+", text) else None


FRAMES = {"at_etf": simplex_etf(K, 9), "at_of": orthonormal(K, 9)}


@cache
def at_frame(where: str) -> Measurement:
    """Features collapsed to a frame of which the weight is a multiple, as are the train means and one outside."""
    frame, labels = FRAMES[where], np.repeat(np.arange(K), 5)
    collapsed = Sample(1.5 * frame[labels], labels, 2 * frame, np.zeros(K))
    return everything(collapsed, 1.5 * frame, frame[:1], ridge=0.0)


@pytest.mark.parametrize("where", FRAMES)
@pytest.mark.parametrize("name", COMPUTED)
def test_it_has_its_value_at_exact_collapse(name, where):
    quantity, value = METRICS[name].quantities[name], at_frame(where)[name]
    said = (where == "at_of" and quantity.at_of) or quantity.at_etf
    if said == "> 0":
        assert value > 0
    elif (expected := declared(said)) is None:
        assert said in ("–", "scale of W")
    else:
        assert value == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_a_rotation_changes_nothing():
    turn = orthonormal(6, 6, 5)
    turned = Sample(DATA.features @ turn, DATA.labels, DATA.weight @ turn, DATA.bias)
    row = everything(turned, TRAIN_MEANS @ turn, DATA.features[:3] @ turn)
    assert row == pytest.approx(ROW, rel=1e-9, abs=1e-12)


def whole() -> Layer:
    """A layer that has all that a metric may need."""
    features, labels, weight, bias = (torch.as_tensor(part) for part in DATA.arguments)
    means = torch.as_tensor(TRAIN_MEANS)
    stats = layer_statistics(features, labels, K, weight=weight, train_means=means, products=True)
    return Layer(stats, weight, bias, None, means, means, (0.1, None), features[0])


def measured_at(means: torch.Tensor) -> Layer:
    return replace(whole(), statistics=replace(whole().statistics, means=means, singular_values=None))


LACKING = {
    "finite": lambda: measured_at(torch.full((K, 6), torch.inf, dtype=torch.float64)),
    "means": lambda: measured_at(torch.full((K, 6), 1e200, dtype=torch.float64)),
    "gram": lambda: measured_at(torch.zeros(K, 6, dtype=torch.float64)),
    "frame": lambda: measured_at(torch.ones(K, 6, dtype=torch.float64)),
    "scatter": lambda: replace(whole(), statistics=replace(whole().statistics, counts=torch.tensor([1, 2, 3, 4]))),
    "weight": lambda: replace(whole(), weight=torch.zeros(K, 6, dtype=torch.float64)),
    "reader": lambda: replace(whole(), weight=torch.zeros(K, 6, dtype=torch.float64)),
    "train_means": lambda: replace(whole(), train_means=torch.ones(K, 6, dtype=torch.float64)),
}
ABSENT = {
    **{need: lambda: replace(whole(), weight=None) for need in ("classifier", "weight", "reader")},
    "train_means": lambda: replace(whole(), train_means=None),
    "products": lambda: replace(whole(), statistics=replace(whole().statistics, within_products=None)),
    "penalties": lambda: replace(whole(), penalties=None),
    "ood_mean": lambda: replace(whole(), ood_mean=None),
}


@every_family
def test_it_is_nan_with_a_reason_where_a_need_is_not_met(metric: Metric):
    for need in metric.needs:
        if need in LACKING:
            layer, row = LACKING[need](), Measurement()
            metric.fill(row, layer)
            assert set(row) == set(metric.quantities)
            assert all(map(math.isnan, row.values()))
            assert set(row.undefined) == set(row)
            assert layer.lacks(need) in row.undefined.values()
        if need in ABSENT:
            row = Measurement()
            metric.fill(row, ABSENT[need]())
            assert not row


def test_every_need_can_fail():
    assert {*LACKING} | {*ABSENT} == {*NEEDS}
    with pytest.raises(ValueError, match=r"needs of a: got \['wieght'\]; known are finite, means,"):
        Metric({"a": METRICS["vci"].quantities["vci"]}, float, ("wieght",))


@pytest.mark.parametrize("name", METRICS)
def test_it_has_words_for_a_panel_and_for_the_report(name):
    label = METRICS[name].quantities[name].label
    assert 0 < len(label) < 80
    assert MathTextParser("path").parse(label).width > 0
    assert {*COMMAND.findall(label)} <= {*SYMBOLS, "mathrm", "bar"}
    assert not re.search(r"[\\$^{}]", as_html(label))


def test_a_symbol_that_the_report_lacks_stands_as_a_word():
    assert as_html(r"$\chi\sqrt{v_c-1}$") == "chi √(v<sub>c</sub>−1)"


def test_names_are_known_without_torch():
    code = "import sys; from ncpipe.collapse.metrics import METRICS; [*METRICS]; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
