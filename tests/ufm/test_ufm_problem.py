"""Settings of a UFM problem: what is refused, and how the rest is normalised."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ncpipe.ufm import Problem, fit

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
        ("loss", "hinge", "one of 'ce', 'focal', 'label_smoothing', .*'mse'"),
        ("smoothing", 0.1, "with 'label_smoothing', else 0"),
        ("gamma", 2.0, "with 'focal', else 0"),
        ("gamma", -1.0, ">= 0"),
        ("rescale", 2.0, "two numbers"),
        ("rescale", (1.0, 0.0), "> 0"),
        ("weight_decay", (1e-3, -1e-3), "> 0"),
        ("weight_decay", (1e-3, 0.0), "> 0"),
        ("weight_decay", (), "one per weight layer"),
        ("dim", (6, 6, 6), "one per weight layer"),
        ("dim", (6, 0), "at least 1"),
        ("samples", {1: 3}, "with loss 'mse'; needs an integer, or one per class"),
        ("classifier", "simplex", "'free', 'etf'"),
        ("temperature", 0, "> 0"),
        ("temperature", -1.0, "> 0"),
        ("weight_decay", "large", "> 0"),
        ("feature_decay", float("nan"), "> 0"),
        ("feature_decay", float("inf"), "> 0"),
        ("feature_decay", -1e-3, "> 0"),
        ("feature_decay", "small", "> 0"),
        ("bias", "yes", "'none', 'free' or a penalty"),
        ("bias", -0.1, ">= 0"),
        ("activation", "tanh", "'linear', 'relu'"),
        ("nonnegative", 1, "True or False"),
        ("nonnegative", "yes", "True or False"),
    ],
)
def test_bad_field_is_named_with_what_it_got_and_needs(field: str, value: Any, needs: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: got .*{needs}"):
        Problem(**{**VALID, field: value})


PLAIN: dict[str, Any] = {"classes": 4, "samples": 5, "dim": 6}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": "label_smoothing"}, "^smoothing: got 0.0 with loss 'label_smoothing'"),
        ({"loss": "label_smoothing", "smoothing": 1.0}, "^smoothing: got 1.0"),
        ({"loss": "label_smoothing", "smoothing": float("nan")}, "^smoothing: got nan"),
        ({"loss": "focal"}, "^gamma: got 0.0 with loss 'focal'"),
        ({"loss": "ce", "rescale": (2, 1)}, r"^rescale: got \(2.0, 1.0\) with loss 'ce'"),
        ({"loss": "pick_all_labels"}, "^samples: got 5 with loss 'pick_all_labels'; needs a mapping"),
        ({"loss": "pick_all_labels", "samples": [1, 2, 3, 4]}, "^samples: .*needs a mapping"),
        ({"loss": "pick_all_labels", "samples": {2: 3}}, "^samples: got no multiplicity 1"),
        ({"loss": "pick_all_labels", "samples": {}}, "^samples: got no multiplicity 1"),
        ({"loss": "pick_all_labels", "samples": {1: 3, 4: 1}}, "^samples: got multiplicity 4; needs 1 to 3"),
        ({"loss": "pick_all_labels", "samples": {0: 3, 1: 1}}, "^samples: got 0; needs an integer, at least 1"),
        ({"loss": "pick_all_labels", "samples": {1: 0}}, "^samples: got 0; needs an integer, at least 1"),
        ({"loss": "pick_all_labels", "samples": {1.5: 1}}, "^samples: got 1.5"),
        ({"temperature": 2}, "^temperature: got 2.0 with loss 'mse'; it goes with 'ce'"),
        ({"temperature": 2, "loss": "ce", "weight_decay": 1e-3}, "^weight_decay: .*norms are fixed, leave it out"),
        ({"temperature": 2, "loss": "ce", "feature_decay": 1e-3}, "^feature_decay: .*norms are fixed, leave it out"),
        ({"temperature": 2, "loss": "ce", "bias": "free"}, "^bias: got 'free' with temperature 2.0; needs 'none'"),
        ({"temperature": 2, "loss": "ce", "nonnegative": True}, "^nonnegative: got True with temperature 2.0"),
        ({"temperature": 2, "loss": "ce", "dim": (4, 4)}, "^dim: got 2 widths for 1 weight layers"),
        ({"temperature": 2, "loss": "ce", "activation": "relu"}, "^activation: got 'relu'"),
        ({"temperature": float("inf"), "loss": "ce"}, "^temperature: got inf"),
        ({"temperature": "hot", "loss": "ce"}, "^temperature: got 'hot'; needs a finite number > 0"),
        ({"classifier": "etf", "dim": 2}, "^dim: got 2 with classifier 'etf'; .* at least 3"),
        ({"classifier": "etf", "weight_decay": 1e-3, "dim": (5, 2)}, "^dim: got 2 with classifier 'etf'"),
        ({"classifier": "etf", "activation": "relu"}, "^activation: got 'relu' .*with classifier 'etf'"),
        ({"classifier": "etf", "weight_decay": 0}, "^weight_decay: got 0.0; needs a finite number > 0"),
        ({"dim": ()}, "^dim: got 0 widths for 1 weight layers"),
        ({"dim": "wide"}, "^dim: got 'wide'; needs an integer, at least 1"),
        ({"weight_decay": [[1e-3]]}, "^weight_decay: got "),
        ({"samples": "many"}, "^samples: got 'many'"),
    ],
)
def test_fields_that_do_not_go_together_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Problem(**PLAIN | fields)
    assert "\n" not in str(caught.value)


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


def test_penalties_that_are_not_given() -> None:
    assert Problem(4, 5, 6).decays == (1e-3, 5e-3)
    assert Problem(4, 5, 6, classifier="etf").decays == (1e-3,)
    assert Problem(4, 5, 6, loss="ce", temperature=2).decays == ()


@pytest.mark.parametrize(
    ("fields", "depth", "widths", "decays"),
    [
        ({}, 1, (6,), 2),
        ({"weight_decay": (1e-3, 2e-3), "dim": (3, 7)}, 2, (3, 7), 3),
        ({"weight_decay": (1e-3, 2e-3), "dim": (7, 7)}, 2, (7, 7), 3),
        ({"classifier": "etf"}, 1, (6,), 1),
        ({"classifier": "etf", "weight_decay": (1e-3, 2e-3)}, 3, (6, 6, 6), 3),
        ({"loss": "ce", "temperature": 2, "classifier": "etf"}, 1, (6,), 0),
    ],
)
def test_depth_counts_the_classifier(
    fields: dict[str, Any], depth: int, widths: tuple[int, ...], decays: int
) -> None:
    problem = Problem(**PLAIN | fields)
    assert problem.depth == depth
    assert problem.widths == widths
    assert len(problem.decays) == decays
    assert [tuple(w.shape) for w in fit(problem, starts=1, max_iterations=1).weights] == [
        *zip(widths[1:], widths[:-1]),
        (4, widths[-1]),
    ]


def test_sets_of_tags_are_listed_with_their_samples() -> None:
    problem = Problem(4, {2: 3, 1: 5}, 6, "pick_all_labels")
    assert problem.tag_sets == ((0,), (1,), (2,), (3,), (0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    assert problem.counts == (5, 5, 5, 5, 3, 3, 3, 3, 3, 3)
    assert problem.num_samples == 38
    assert Problem(3, (4, 2, 2), 5).num_samples == 8
    targets = problem.construct().targets
    assert targets.shape == (38, 4)
    assert targets[20].tolist() == [1, 1, 0, 0]
    assert targets.sum(dim=1).tolist() == [1] * 20 + [2] * 18


def test_problems_can_be_told_apart_in_sets() -> None:
    first, again = (Problem(4, {1: 5, 2: 3}, 6, "pick_all_labels") for _ in range(2))
    plain = Problem(4, 5, 6)
    assert len({first, again, replace(first, samples={1: 5}), plain, replace(plain, nonnegative=True)}) == 4


@pytest.mark.parametrize("value", [True, False])
def test_bias_is_no_flag(value: bool) -> None:
    with pytest.raises(ValueError, match=f"bias: got {value}; needs 'none', 'free' or a penalty"):
        Problem(4, 5, 6, bias=value)


def test_arrays_are_lists() -> None:
    one = Problem(4, np.array([20, 10, 5, 5]), np.array([7, 6]), weight_decay=np.array([1e-3, 2e-3]))  # type: ignore[arg-type]
    assert one == Problem(4, [20, 10, 5, 5], (7, 6), weight_decay=(1e-3, 2e-3))
