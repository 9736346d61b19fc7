"""Regression collapse: NRC1 to NRC3 beside their definitions, what is undefined, and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from extent import cases
from scipy.linalg import sqrtm

import ncpipe

RNG = np.random.default_rng


def noisy(seed, targets=3, dim=7, samples=40):
    """Features (N, d) around what a weight reads, correlated targets (N, n), and the weight (n, d)."""
    rng = RNG(seed)
    y = rng.standard_normal((samples, targets)) @ rng.standard_normal((targets, targets)) + 2
    weight = rng.standard_normal((targets, dim))
    return y @ weight + rng.standard_normal((samples, dim)), y, weight


def distance(features, spanning):
    """Mean squared distance of normalised features from the span of rows, by the pseudo-inverse."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.mean(np.sum((unit - unit @ np.linalg.pinv(spanning) @ spanning) ** 2, axis=1))


def nrc3(weight, targets, gamma):
    root = sqrtm(np.cov(targets.T, bias=True)) - math.sqrt(gamma) * np.eye(len(weight))
    gram = weight @ weight.T
    return np.linalg.norm(gram / np.linalg.norm(gram) - root / np.linalg.norm(root)) ** 2


@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_the_definitions(seed):
    h, y, w = noisy(seed)
    row = ncpipe.regression_collapse(h, y, w)
    assert row.undefined == {}
    components = np.linalg.svd(h - h.mean(axis=0))[2][: y.shape[1]]
    assert row["nrc1"] == pytest.approx(distance(h, components), rel=1e-12)
    assert row["nrc2"] == pytest.approx(distance(h, w), rel=1e-12)
    assert row["nrc3"] == pytest.approx(nrc3(w, y, row["nrc3_gamma"]), rel=1e-10)
    assert ncpipe.regression_collapse(h, y, w, gamma=0.1)["nrc3"] == pytest.approx(nrc3(w, y, 0.1), rel=1e-10)


def gram_like(kind, root, rng):
    """Root of a Gram whose minimiser of NRC3 lies at zero, at the least eigenvalue, or between."""
    values, axes = np.linalg.eigh(root)
    if kind == "least":
        return np.outer(axes[:, -1], np.eye(len(root))[0])
    size = {"zero": np.eye(len(root)), "between": root - rng.uniform(0, 0.9) * values[0] * np.eye(len(root))}[kind]
    return np.linalg.cholesky(size + (0.01 * root @ root if kind == "between" else 0))


@pytest.mark.parametrize("kind", ["zero", "between", "least"])
@pytest.mark.parametrize("seed", range(cases(8)))
def test_no_gamma_is_better_than_the_minimiser(kind, seed):
    h, y, _ = noisy(seed)
    root = sqrtm(np.cov(y.T, bias=True))
    w = np.pad(gram_like(kind, root, RNG(seed)), [(0, 0), (0, 4)])
    least = np.linalg.eigvalsh(root)[0]
    row = ncpipe.regression_collapse(h, y, w)
    assert row["nrc3"] <= min(nrc3(w, y, shift**2) for shift in np.linspace(0, least, 200)) + 1e-12
    where = {"zero": 0, "least": least**2}.get(kind)
    assert 0 < row["nrc3_gamma"] < least**2 if where is None else row["nrc3_gamma"] == pytest.approx(where, rel=1e-9)


def test_scales_and_types_do_not_matter():
    h, y, w = noisy(0)
    row = ncpipe.regression_collapse(h, y, w)
    scaled = ncpipe.regression_collapse(1e200 * h, y, 1e-200 * w)
    assert scaled == pytest.approx(row, rel=1e-9)
    half = [torch.tensor(array).bfloat16() for array in (h, y, w)]
    assert ncpipe.regression_collapse(*half) == ncpipe.regression_collapse(*(array.double() for array in half))


def test_a_zero_feature_counts_nothing():
    h, y, w = noisy(0)
    more = ncpipe.regression_collapse(np.vstack([h, 0 * h]), np.vstack([y, y]), w)
    assert more["nrc2"] == pytest.approx(ncpipe.regression_collapse(h, y, w)["nrc2"] / 2, rel=1e-12)


H, Y, W = noisy(0, targets=2, dim=4)
EVEN = np.array([[1.0, 0], [-1, 0], [0, 1], [0, -1]])


@pytest.mark.parametrize(
    ("arguments", "reasons"),
    [
        ((0 * H, Y, W), {"nrc1": "all features are zero", "nrc2": "all features are zero"}),
        ((0 * H + 0.1, Y, W), {"nrc1": "all features agree"}),
        ((H, Y, 0 * W), dict.fromkeys(["nrc2", "nrc3", "nrc3_gamma"], "the weight is zero")),
        ((H, Y[:, :1], W[:1]), dict.fromkeys(["nrc3", "nrc3_gamma"], "one target: NRC3 is 0 for any weight")),
        ((H[:4], EVEN, W), {"nrc3_gamma": "targets of one variance: any gamma is as good"}),
        (
            (H, 0 * Y + 0.1, W),
            dict.fromkeys(["nrc3", "nrc3_gamma"], "the targets are constant, or gamma takes all of their covariance"),
        ),
    ],
)
def test_what_is_undefined_says_why(arguments, reasons):
    row = ncpipe.regression_collapse(*arguments)
    assert row.undefined == reasons
    assert {name for name, value in row.items() if math.isnan(value)} == set(reasons)


@pytest.mark.parametrize(
    ("arguments", "gamma", "message"),
    [
        ((H, Y[1:], W), None, r"targets must have shape \(40, 2\), got \(39, 2\)"),
        ((H, Y[:, 0], W), None, r"targets must have shape .* one feature is targets\[:, None\]"),
        ((H, Y.astype(int), W), None, "targets must be floating point, got int64: targets.astype"),
        ((H, np.where(Y > 2, np.nan, Y), W), None, "targets has .* non-finite values.*: drop these samples"),
        ((H, Y, W.T), None, r"weight must have shape \(2, 4\), got \(4, 2\): pass weight.T"),
        ((H, Y, W), -1.0, "gamma must be a number of at least 0, got -1.0"),
    ],
)
def test_bad_input_is_named(arguments, gamma, message):
    with pytest.raises(ValueError, match=message):
        ncpipe.regression_collapse(*arguments, gamma=gamma)
