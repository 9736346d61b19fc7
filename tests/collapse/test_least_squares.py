"""Han, Papyan & Donoho's split of the squared error: its value, its parts, and the classifier it is about."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from brute_force import Sample, penalised_loss, sample, simplex_etf

import ncpipe
from ncpipe.collapse import LeastSquaresSplit, layer_statistics, least_squares_split
from ncpipe.collapse import penalised_loss as with_penalties

RIDGE = 0.07
BIASES = {
    "no bias": (False, None, 0.0),
    "penalised bias": (True, None, RIDGE),
    "bias with a penalty of its own": (True, 0.3, 0.3),
    "free bias": (True, 0.0, 0.0),
    "fixed bias": (True, math.inf, 0.0),
}
"""Whether there is a bias, ``bias_decay``, and the penalty in the loss."""
DATA = {"balanced": sample([6] * 4, 5), "imbalanced": sample([3, 12, 5], 6, 1.0), "K > d": sample([4, 9, 7, 6], 2)}
variants = pytest.mark.parametrize(("has_bias", "decay", "penalty"), BIASES.values(), ids=BIASES)
balances = pytest.mark.parametrize("data", DATA.values(), ids=DATA)


def split(data: Sample, weight=None, bias=None, *, has_bias=True, ridge=RIDGE, decay=None) -> LeastSquaresSplit:
    h, y, own_weight, own_bias = (torch.as_tensor(array) for array in data.arguments)
    statistics = layer_statistics(h, y, data.num_classes, products=True)
    bias = (own_bias if bias is None else bias) if has_bias else None
    return least_squares_split(
        statistics, own_weight if weight is None else weight, bias, ridge=ridge, bias_decay=decay
    )


def bias_of(found: LeastSquaresSplit, data: Sample):
    return np.zeros(data.num_classes) if found.bias is None else found.bias.numpy()


def extended_features(data: Sample):
    return np.hstack([data.features, np.ones((len(data.labels), 1))])


def check_sample() -> Sample:
    columns = np.array([[(3 * i + 5 * j + i * j) % 7 - 3.0 for i in range(4)] for j in range(6)])
    weight = np.array([[(2 * i + 3 * j) % 5 - 2.0 for j in range(4)] for i in range(3)]) / 10
    return Sample(columns, np.repeat(np.arange(3), 2), weight, np.array([0.1, 0.2, 0.3]))


CHECK = {"loss_nc1": 0.0235553022, "loss_nc23": 0.1297327058, "loss_perp": 0.5944953253}


def test_the_split_has_its_known_value():
    found = split(check_sample(), ridge=0.01)
    assert found.loss == pytest.approx(0.7477833333, abs=5.1e-11)
    for name, value in CHECK.items():
        assert found.values()[name] == pytest.approx(value, abs=5.1e-11), name


def test_measure_gives_the_parts():
    row = ncpipe.measure(*check_sample().arguments, ridge=0.01)
    assert {name: row[name] for name in CHECK} == pytest.approx(CHECK, abs=5.1e-11)
    free = ncpipe.measure(*check_sample().arguments, ridge=0.01, bias_decay=0.0)
    assert {name: free[name] for name in CHECK} == split(check_sample(), ridge=0.01, decay=0.0).values()


@balances
@variants
def test_the_parts_sum_to_the_penalised_loss(data, has_bias, decay, penalty):
    loss = penalised_loss(data, data.weight, has_bias * data.bias, RIDGE, penalty)
    assert split(data, has_bias=has_bias, decay=decay).loss == pytest.approx(loss, rel=1e-12)


@balances
@variants
def test_the_least_squares_classifier_loses_the_first_two_parts(data, has_bias, decay, penalty):
    found = split(data, has_bias=has_bias, decay=decay)
    loss = penalised_loss(data, found.weight.numpy(), bias_of(found, data), RIDGE, penalty)
    assert found.loss_nc1 + found.loss_nc23 == pytest.approx(loss, rel=1e-12)


@balances
@variants
def test_the_first_part_is_the_scatter_of_outputs_and_the_penalty(data, has_bias, decay, penalty):
    found = split(data, has_bias=has_bias, decay=decay)
    outputs = data.features @ found.weight.numpy().T
    rest = outputs - np.stack([outputs[data.labels == c].mean(axis=0) for c in range(data.num_classes)])[data.labels]
    expected = (rest**2).sum() / len(rest) + RIDGE * float(found.weight.square().sum())
    expected += penalty * (bias_of(found, data) ** 2).sum()
    assert found.loss_nc1 == pytest.approx(expected / 2, rel=1e-10)


@balances
@variants
def test_the_gradient_is_zero_at_the_least_squares_classifier(data, has_bias, decay, penalty):
    found = split(data, has_bias=has_bias, decay=decay)
    weight, bias = found.weight.numpy(), bias_of(found, data)
    rest = (data.features @ weight.T + bias - np.eye(data.num_classes)[data.labels]) / len(data.labels)
    np.testing.assert_allclose(rest.T @ data.features + RIDGE * weight, 0, atol=1e-13)
    if has_bias and decay != math.inf:
        np.testing.assert_allclose(rest.sum(axis=0) + penalty * bias, 0, atol=1e-13)


@balances
@variants
def test_every_other_classifier_loses_more(data, has_bias, decay, penalty):
    found = split(data, has_bias=has_bias, decay=decay)
    weight, bias = found.weight.numpy(), bias_of(found, data)
    moves = has_bias and decay != math.inf
    least, rng = penalised_loss(data, weight, bias, RIDGE, penalty), np.random.default_rng(0)
    for _ in range(5):
        step, shift = rng.standard_normal(weight.shape), moves * rng.standard_normal(len(bias))
        assert penalised_loss(data, weight + 1e-3 * step, bias + 1e-3 * shift, RIDGE, penalty) > least


@variants
def test_nothing_is_off_the_central_path_for_the_least_squares_classifier(has_bias, decay, penalty):
    data = DATA["imbalanced"]
    found = split(data, has_bias=has_bias, decay=decay)
    again = split(data, found.weight, found.bias, has_bias=has_bias, decay=decay)
    assert found.loss_perp > 0.1
    assert 0 <= again.loss_perp < 1e-25
    assert (again.loss_nc1, again.loss_nc23) == (found.loss_nc1, found.loss_nc23)


def test_the_variants_of_the_bias_differ():
    losses = [split(DATA["imbalanced"], has_bias=has, decay=decay).loss_nc1 for has, decay, _ in BIASES.values()]
    assert len({round(loss, 6) for loss in losses}) == len(BIASES)


def test_a_missing_bias_needs_no_decay():
    found = split(DATA["imbalanced"], has_bias=False, decay=0.4)
    assert found.bias is None
    assert found.values() == split(DATA["imbalanced"], has_bias=False).values()


def test_a_fixed_bias_is_given_back():
    data = DATA["imbalanced"]
    assert split(data, decay=math.inf).bias.tolist() == data.bias.tolist()


def test_for_balanced_classes_the_classifier_is_that_of_the_paper():
    data, K = DATA["balanced"], 4
    extended = extended_features(data)
    means = np.stack([extended[data.labels == c].mean(axis=0) for c in range(K)])
    total, centre = np.cov(extended.T, bias=True), means.mean(axis=0)
    within = sum(np.cov(extended[data.labels == c].T, bias=True) for c in range(K)) / K
    second = total + np.outer(centre, centre) + RIDGE * np.eye(6)
    best = means @ np.linalg.inv(second) / K
    found = split(data)
    np.testing.assert_allclose(torch.cat([found.weight, found.bias[:, None]], dim=1), best, rtol=1e-10)
    off = np.hstack([data.weight, data.bias[:, None]]) - best
    assert found.loss_nc1 == pytest.approx(np.trace(best @ (within + RIDGE * np.eye(6)) @ best.T) / 2, rel=1e-10)
    assert found.loss_nc23 == pytest.approx(((best @ means.T - np.eye(K)) ** 2).sum() / 2 / K, rel=1e-10)
    assert found.loss_perp == pytest.approx(np.trace(off @ second @ off.T) / 2, rel=1e-10)


def test_for_imbalanced_classes_the_classifier_weighs_them_by_size():
    data = DATA["imbalanced"]
    weighted = np.stack([data.features[data.labels == c].sum(axis=0) for c in range(3)]) / 20
    expected = weighted @ np.linalg.inv(data.features.T @ data.features / 20 + RIDGE * np.eye(6))
    np.testing.assert_allclose(split(data, has_bias=False).weight, expected, rtol=1e-10)


def test_without_a_penalty_the_classifier_is_that_of_least_squares():
    data = sample([6, 9, 7], 4)
    best = np.linalg.lstsq(extended_features(data), np.eye(3)[data.labels], rcond=None)[0].T
    found = split(data, ridge=0.0)
    np.testing.assert_allclose(torch.cat([found.weight, found.bias[:, None]], dim=1), best, rtol=1e-9)
    assert found.loss == pytest.approx(penalised_loss(data, data.weight, data.bias, 0, 0), rel=1e-12)


def test_without_a_penalty_and_with_few_samples_the_least_norm_is_taken():
    data = sample([3, 2, 4], 30)
    best = np.linalg.lstsq(data.features, np.eye(3)[data.labels], rcond=None)[0].T
    found = split(data, has_bias=False, ridge=0.0)
    np.testing.assert_allclose(found.weight, best, rtol=1e-8, atol=1e-12)
    assert found.loss_nc1 + found.loss_nc23 == pytest.approx(0, abs=1e-12)
    assert found.loss == pytest.approx(penalised_loss(data, data.weight, 0 * data.bias, 0, 0), rel=1e-10)


@pytest.mark.parametrize("seed", range(6))
def test_without_a_penalty_equal_features_share_their_weight(seed):
    data = sample([6, 9, 7], 3, seed=seed)
    twice = Sample(data.features[:, [0, 1, 2, 0]], data.labels, data.weight[:, [0, 1, 2, 0]], data.bias)
    found, single = split(twice, ridge=0.0).weight, split(data, ridge=0.0).weight
    np.testing.assert_allclose(found, single.numpy()[:, [0, 1, 2, 0]] / [2, 1, 1, 2], rtol=1e-9)


def test_at_collapse_without_a_penalty_no_part_is_left():
    labels = np.repeat(np.arange(4), [3, 5, 2, 7])
    means = simplex_etf(4, 6)
    data = Sample(means[labels], labels, np.zeros((4, 6)), np.full(4, 1 / 4))
    found = split(data, ridge=0.0, decay=0.0)
    assert found.loss_nc1 == pytest.approx(0, abs=1e-14)
    assert found.loss_nc23 == pytest.approx(0, abs=1e-14)
    assert found.loss == pytest.approx(3 / 8, rel=1e-12)


def test_a_single_precision_classifier_is_widened():
    data = DATA["balanced"]
    weight, bias = torch.as_tensor(data.weight).float().requires_grad_(), torch.as_tensor(data.bias).float()
    assert split(data, weight, bias).values() == split(data, weight.double(), bias.double()).values()


@pytest.mark.parametrize(
    ("ridge", "decay", "message"),
    [
        (-1e-9, None, "ridge must be a number of at least 0, got -1e-09"),
        (math.nan, None, "ridge must be a number of at least 0, got nan"),
        (0.1, -2.0, "bias_decay must be at least 0, got -2.0"),
    ],
)
def test_a_negative_penalty_is_named(ridge, decay, message):
    with pytest.raises(ValueError, match=message):
        split(DATA["balanced"], ridge=ridge, decay=decay)


def test_statistics_without_products_are_named():
    h, y, weight, _ = (torch.as_tensor(array) for array in DATA["balanced"].arguments)
    with pytest.raises(ValueError, match="take statistics with products=True"):
        least_squares_split(layer_statistics(h, y, 4), weight, ridge=0.1)


def test_a_class_without_samples_is_named():
    h, y, _, _ = (torch.as_tensor(array) for array in DATA["balanced"].arguments)
    with pytest.raises(ValueError, match="finite samples of every class"):
        least_squares_split(layer_statistics(h, y, 5, products=True), torch.ones(5, 5), ridge=0.1)


def test_the_parts_of_features_without_a_class_are_undefined():
    h, y, _, _ = DATA["balanced"].arguments
    row = ncpipe.measure(h, y, np.ones((5, 5)), num_classes=5, ridge=0.1)
    assert {row.undefined[name] for name in CHECK} == {"no sample of class 4"}


@balances
@variants
def test_the_loss_of_the_logits_with_penalties_is_that_of_the_split(data, has_bias, decay, penalty):
    weight, bias = torch.as_tensor(data.weight), torch.as_tensor(data.bias) if has_bias else None
    rest = data.features @ data.weight.T + has_bias * data.bias - np.eye(data.num_classes)[data.labels]
    whole = with_penalties((rest**2).sum() / len(rest) / 2, weight, bias, ridge=RIDGE, bias_decay=decay)
    assert whole == pytest.approx(penalised_loss(data, data.weight, has_bias * data.bias, RIDGE, penalty), rel=1e-13)
    assert whole == pytest.approx(split(data, has_bias=has_bias, decay=decay).loss, rel=1e-12)
