"""Settings of a UFM problem: what is refused, and how the rest is normalised."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ncpipe.ufm import Problem

VALID: dict[str, Any] = {
    "classes": 4,
    "samples": 5,
    "dim": 6,
    "weight_decay": (2e-3, 3e-3),
    "feature_decay": 1e-3,
    "activation": "relu",
}


@pytest.mark.parametrize(
    ("field", "value", "needs"),
    [
        ("classes", 1, "at least 2"),
        ("classes", 2.5, "an integer"),
        ("samples", 0, "at least 1"),
        ("samples", [5, 5, 5], "one per class"),
        ("samples", [5, 5, 5, -1], "at least 1"),
        ("dim", 0, "at least 1"),
        ("loss", "hinge", "'mse', 'ce', 'label_smoothing', 'focal'"),
        ("smoothing", 0.1, "with 'label_smoothing', else 0"),
        ("gamma", 2.0, "with 'focal', else 0"),
        ("gamma", -1.0, ">= 0"),
        ("rescale", 2.0, "two numbers"),
        ("rescale", (1.0, 0.0), "> 0"),
        ("weight_decay", (1e-3, -1e-3), "> 0"),
        ("weight_decay", (1e-3, 0.0), "> 0"),
        ("weight_decay", (), "one per weight layer"),
        ("weight_decay", "large", "> 0"),
        ("feature_decay", float("nan"), "> 0"),
        ("feature_decay", float("inf"), "> 0"),
        ("feature_decay", None, "> 0"),
        ("bias", "yes", "'none', 'free' or a penalty"),
        ("bias", -0.1, ">= 0"),
        ("activation", "tanh", "'linear', 'relu'"),
    ],
)
def test_bad_field_is_named_with_what_it_got_and_needs(field: str, value: Any, needs: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: got .*{needs}"):
        Problem(**{**VALID, field: value})


@pytest.mark.parametrize(
    ("loss", "fields", "message"),
    [
        ("label_smoothing", {}, "smoothing: got 0.0 with loss 'label_smoothing'"),
        ("label_smoothing", {"smoothing": 1.0}, "smoothing: got 1.0"),
        ("focal", {}, "gamma: got 0.0 with loss 'focal'"),
        ("ce", {"rescale": (2, 1)}, r"rescale: got \(2.0, 1.0\) with loss 'ce'"),
    ],
)
def test_parameters_go_with_their_loss(loss: Any, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(4, 5, 6, loss, **fields)


def test_relu_needs_two_weight_layers() -> None:
    with pytest.raises(ValueError, match="activation: got 'relu' with one weight layer"):
        Problem(**{**VALID, "weight_decay": 1e-3})


@pytest.mark.parametrize(
    ("depth", "activation", "names"),
    [
        (1, "linear", ("features",)),
        (2, "relu", ("H1", "W1H1", "features")),
        (3, "linear", ("H1", "H2", "features")),
        (3, "relu", ("H1", "W1H1", "H2", "W2H2", "features")),
    ],
)
def test_layers_are_named_from_the_first(depth: int, activation: Any, names: tuple[str, ...]) -> None:
    problem = Problem(3, 4, 5, weight_decay=(1e-3,) * depth, activation=activation)
    assert problem.depth == depth
    assert problem.layer_names == names
    assert tuple(problem.construct().layers()) == names


def test_equal_settings_make_equal_problems() -> None:
    one = Problem(4, [5, 5, 5, 5], np.int64(6), weight_decay=(1e-3,), bias=0.0)  # type: ignore[arg-type]
    assert one == Problem(4, 5, 6, weight_decay=1e-3, bias="free")
    assert one.depth == 1
    assert one.counts == (5, 5, 5, 5)
    assert replace(one, dim=7) != one


@pytest.mark.parametrize(("bias", "decay"), [("none", None), ("free", 0.0), (0.2, 0.2)])
def test_bias_decay(bias: Any, decay: float | None) -> None:
    assert Problem(4, 5, 6, bias=bias).bias_decay == decay
