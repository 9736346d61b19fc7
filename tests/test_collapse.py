"""Collapse metrics against brute-force float64 linear algebra, exact frames, invariances and bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ncpipe
from ncpipe.collapse import Moment, Trace, layer_statistics, load_traces, save_traces


def random_features(classes: int, per_class: list[int], dim: int, spread: float, seed: int):
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), per_class)
    means = rng.standard_normal((classes, dim))
    features = means[labels] + spread * rng.standard_normal((len(labels), dim))
    weight, bias = rng.standard_normal((classes, dim)), rng.standard_normal(classes)
    order = rng.permutation(len(labels))
    return features[order], labels[order], weight, bias


def brute_force(features, labels, weight, bias):
    """The definitions as written, with explicit covariances and NumPy's pseudo-inverse."""
    K, N = len(weight), len(labels)
    means = np.stack([features[labels == c].mean(0) for c in range(K)])
    mean = means.mean(0)
    M = means - mean
    within = sum(np.outer(h - means[c], h - means[c]) for h, c in zip(features, labels)) / N
    between = M.T @ M / K
    variance = np.array([((features[labels == c] - means[c]) ** 2).sum(1).mean() for c in range(K)])
    pairs = [(a, b) for a in range(K) for b in range(K) if a != b]
    cosine = {
        name: np.array([v[a] @ v[b] / np.linalg.norm(v[a]) / np.linalg.norm(v[b]) for a, b in pairs])
        for name, v in (("means", M), ("weights", weight))
    }
    norm = np.linalg.norm
    etf = (np.eye(K) - 1 / K) / math.sqrt(K - 1)
    frame = np.eye(K) / math.sqrt(K)
    nearest = ((features[:, None] - means) ** 2).sum(2).argmin(1)
    decided = (features @ weight.T + bias).argmax(1)
    expected = {
        "nc1_pinv": np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / K,
        "nc1_trace_ratio": np.trace(within) / np.trace(between),
        "within_share": np.trace(within) / np.trace(within + between),
        "cdnv": np.mean([(variance[a] + variance[b]) / 2 / norm(means[a] - means[b]) ** 2 for a, b in pairs]),
        "nc2_means_uncentred_etf": norm(means @ means.T / norm(means @ means.T) - etf),
        "nc2_means_of": norm(means @ means.T / norm(means @ means.T) - frame),
        "nc2_weights_of": norm(weight @ weight.T / norm(weight @ weight.T) - frame),
        "nc3_duality": norm(weight / norm(weight) - M / norm(M)) ** 2,
        "nc3_etf": norm(weight @ M.T / norm(weight @ M.T) - etf),
        "nc3_of": norm(weight @ means.T / norm(weight @ means.T) - frame),
        "nc4_mismatch": np.mean(decided != nearest),
        "nc4_bias": norm(weight @ mean + bias),
        "ncc_accuracy": np.mean(nearest == labels),
        "accuracy": np.mean(decided == labels),
    }
    for name, v in (("means", M), ("weights", weight)):
        norms = norm(v, axis=1)
        expected |= {
            f"nc2_{name}_equinorm": norms.std() / norms.mean(),
            f"nc2_{name}_angle_std": cosine[name].std(),
            f"nc2_{name}_equiangle": np.abs(cosine[name] + 1 / (K - 1)).mean(),
            f"nc2_{name}_etf": norm(v @ v.T / norm(v @ v.T) - etf),
        }
    return expected


@pytest.mark.parametrize(
    ("per_class", "dim", "spread"),
    [([7] * 4, 6, 1.0), ([3, 9, 5], 20, 0.3), ([4] * 8, 3, 1.0), ([30] * 4, 12, 1e-5), ([5] * 2, 1, 0.5)],
    ids=["balanced", "imbalanced", "more classes than dimensions", "near collapse", "one dimension"],
)
def test_agrees_with_the_definitions(per_class, dim, spread):
    arrays = random_features(len(per_class), per_class, dim, spread, seed=1)
    measured = ncpipe.measure(*arrays)
    expected = brute_force(*arrays)
    assert set(expected) | {"rank", "condition"} == set(measured)
    for name, value in expected.items():
        assert measured[name] == pytest.approx(value, rel=1e-9, abs=1e-13), name


def test_check_value_of_the_theory_sheet():
    H = torch.tensor([[(3 * i + 5 * j + i * j) % 7 - 3.0 for j in range(6)] for i in range(4)]).double()
    row = ncpipe.measure(H.T.contiguous(), torch.arange(3).repeat_interleave(2))
    assert row["nc1_pinv"] == pytest.approx(2.5398335315, rel=1e-9)


def test_exact_frames_give_zeros():
    labels = torch.arange(4).repeat_interleave(5)
    frame = torch.linalg.qr(torch.randn(9, 9, dtype=torch.float64))[0][:4]
    of = ncpipe.measure(3 * frame[labels], labels, weight=2 * frame)
    etf_vectors = frame - frame.mean(0)
    etf = ncpipe.measure(etf_vectors[labels], labels, weight=etf_vectors, bias=torch.zeros(4))
    gap = math.sqrt(2 - 2 * math.sqrt(3 / 4))
    assert gap == pytest.approx(0.51763809, abs=1e-8)
    for name in ("nc1_pinv", "within_share", "cdnv", "nc2_means_equinorm", "nc2_means_etf", "nc4_mismatch"):
        assert of[name] == pytest.approx(0, abs=1e-12), name
        assert etf[name] == pytest.approx(0, abs=1e-12), name
    assert of["nc2_means_of"] < 1e-12 < of["nc2_weights_etf"] == pytest.approx(gap)
    assert etf["nc2_weights_etf"] < 1e-12 < etf["nc2_means_of"] == pytest.approx(gap)
    assert etf["nc3_duality"] < 1e-12
    assert of["nc3_of"] < 1e-12


def test_close_classes_in_float32_do_not_fool_the_pseudo_inverse():
    features, labels, *_ = random_features(3, [50] * 3, 8, 1e-3, seed=2)
    features[labels == 1] = features[labels == 0][:50] + 1e-3 * np.eye(8)[0]
    exact = brute_force(features.astype(np.float32).astype(float), labels, np.eye(3, 8), np.zeros(3))
    measured = ncpipe.measure(features.astype(np.float32), labels)
    assert measured["nc1_pinv"] == pytest.approx(exact["nc1_pinv"], rel=1e-8)
    assert exact["nc1_pinv"] > 0.1


def test_undefined_metrics_are_nan():
    labels = torch.arange(3).repeat_interleave(4)
    zero = ncpipe.measure(torch.zeros(12, 5), labels, weight=torch.zeros(3, 5))
    for name in ("nc1_pinv", "nc1_trace_ratio", "cdnv", "nc2_means_etf", "nc2_weights_etf", "nc3_duality"):
        assert math.isnan(zero[name]), name
    assert zero["rank"] == 0
    equal_means = ncpipe.measure(torch.ones(12, 5) * 7.3, labels)
    assert math.isnan(equal_means["nc1_pinv"])
    with pytest.warns(UserWarning, match=r"no sample of class \[3\]"):
        missing = ncpipe.measure(torch.randn(12, 5), labels, num_classes=4)
    assert math.isnan(missing["nc1_pinv"])
    assert 0 <= missing["ncc_accuracy"] <= 1


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 10_000), st.floats(0.05, 20))
def test_invariances(classes, dim, seed, scale):
    features, labels, *_ = random_features(classes, [6] * classes, dim, 0.4, seed)
    base = ncpipe.measure(features, labels)
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]
    order = np.random.default_rng(seed + 1).permutation(len(labels))
    relabel = np.random.default_rng(seed + 2).permutation(classes)
    for other in (
        ncpipe.measure(scale * features @ rotation, labels),
        ncpipe.measure(features[order], labels[order]),
        ncpipe.measure(features, relabel[labels]),
    ):
        for name, value in base.items():
            assert other[name] == pytest.approx(value, rel=1e-7, abs=1e-10), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_input_is_accumulated_in_float64(dtype):
    features, labels, *_ = random_features(3, [200] * 3, 16, 0.2, seed=3)
    low = torch.from_numpy(features).to(dtype)
    assert ncpipe.measure(low, labels) == ncpipe.measure(low.double(), labels)


def test_any_layout_and_scale_is_measured():
    features, labels, *_ = random_features(3, [5] * 3, 4, 0.3, seed=4)
    assert ncpipe.measure(features[::-1], labels[::-1]) == pytest.approx(ncpipe.measure(features, labels))
    assert math.isnan(ncpipe.measure(1e-200 * features, labels)["nc1_trace_ratio"])


def test_test_decisions_use_train_means():
    labels = torch.tensor([0, 0, 1, 1])
    features = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert ncpipe.measure(features, labels)["ncc_accuracy"] == 1
    assert ncpipe.measure(features, labels, train_means=torch.tensor([[3.0], [0.0]]))["ncc_accuracy"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": torch.full((6, 2), float("nan"))}, "features has 12 non-finite"),
        ({"features": torch.zeros(6, 2, 3)}, "features must have shape"),
        ({"features": torch.zeros(6, 2, dtype=torch.int64)}, "features must be floating point"),
        ({"features": [[1.0]]}, "features must be a NumPy array or a Torch tensor"),
        ({"features": torch.zeros(0, 2)}, "features must have shape"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "one per row of features"),
        ({"labels": torch.full((6,), -1)}, r"labels must lie in \[0, K\)"),
        ({"labels": torch.zeros(6)}, "labels must be integers"),
        ({"labels": torch.zeros(6, dtype=torch.int64)}, "at least 2"),
        ({"num_classes": 2}, r"labels must lie in \[0, 2\)"),
        ({"weight": torch.zeros(2, 2)}, r"weight must have shape \(3, 2\)"),
        ({"bias": torch.zeros(3)}, "bias is given without weight"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, r"bias must have shape \(3,\)"),
        ({"train_means": torch.zeros(3, 5)}, "train_means must have shape"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"features": torch.randn(6, 2), "labels": torch.arange(3).repeat(2)} | change
    with pytest.raises(ValueError, match=message):
        ncpipe.measure(**arguments)


def test_traces_survive_the_disk(tmp_path):
    features, labels, weight, bias = (torch.as_tensor(a) for a in random_features(3, [4] * 3, 5, 1.0, 0))
    stats = layer_statistics(features, labels, 3, weight=weight, bias=bias)
    trace = Trace(("layer1.0", "features"))
    trace.statistics[Moment(0, "features", "test")] = stats
    trace.statistics[Moment(0, "layer1.0")] = layer_statistics(features, labels, 3)
    trace.heads[0] = (weight, bias)
    trace.heads[1] = (weight, None)
    trace.losses[0, "train"] = 0.25
    save_traces(tmp_path / "t.safetensors", {"a": trace, "b": Trace(("features",))})
    loaded = load_traces(tmp_path / "t.safetensors")
    assert list(loaded) == ["a", "b"]
    assert loaded["a"].losses == {(0, "train"): 0.25}
    assert loaded["a"].heads[1][1] is None
    for name, value in stats.tensors().items():
        assert torch.equal(loaded["a"].statistics[Moment(0, "features", "test")].tensors()[name], value)
    assert loaded["a"].statistics[Moment(0, "layer1.0")].agreements is None
