"""Sums over pairs in blocks: what whole tables in extended precision give, for close and coincident classes too."""

from __future__ import annotations

import math

import brute_force
import numpy as np
import pytest
import torch

import ncpipe
from ncpipe.collapse import collapse_metrics, frames, layer_statistics, pairs, rows, statistics, strands

RNG = np.random.default_rng(0)
GENERIC = RNG.standard_normal((23, 6))
SETS = {
    "generic": GENERIC,
    "wide": RNG.standard_normal((9, 40)),
    "two": GENERIC[:2],
    "near": GENERIC[:4].repeat(4, axis=0) + 1e-7 * RNG.standard_normal((16, 6)),
    "at the bound": GENERIC[:4].repeat(4, axis=0) + 0.03 * RNG.standard_normal((16, 6)),
    "far from the origin": 1e6 + GENERIC,
    "ETF": brute_force.simplex_etf(11, 16),
}


@pytest.fixture(params=[4, 512])
def block(request, monkeypatch):
    monkeypatch.setattr(pairs, "BLOCK", request.param)
    monkeypatch.setattr(pairs, "DIFFERENCES", 16)
    monkeypatch.setattr(pairs, "rows_by", lambda classes: 3)


def wide(vectors: np.ndarray) -> np.ndarray:
    return vectors.astype(np.longdouble)


@pytest.mark.parametrize("name", SETS)
def test_blocks_give_what_whole_tables_do(name, block):
    vectors = torch.from_numpy(SETS[name])
    means, variances = wide(SETS[name]), torch.arange(1.0, 1 + len(vectors), dtype=torch.float64)
    classes = range(len(means))
    apart = np.array([[brute_force.norm(means[a] - means[b]) for b in classes] for a in classes])
    np.testing.assert_allclose(pairs.distances(vectors).numpy(), apart.astype(float), rtol=1e-11, atol=0)
    both = variances.numpy()[:, None] + variances.numpy()
    cdnv = np.mean([both[a, b] / 2 / apart[a, b] ** 2 for a in classes for b in classes if a != b])
    assert frames.mean_cdnv(vectors, variances) == pytest.approx(float(cdnv), rel=1e-10)
    sizes = torch.linalg.svdvals(vectors)
    found, expected = frames.frame_metrics("v", vectors, sizes), brute_force.frame_metrics("v", means)
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(float(value), rel=1e-10, abs=1e-14), metric
    to_of = brute_force.gram_distance(means @ means.T, brute_force.of_gram(len(means)))
    assert found["nc2_v_of"] == pytest.approx(float(to_of), rel=1e-10)
    digits = 1e-8 if name == "near" else 1e-10  # directions are rounded before they are subtracted
    for power, energies in ((0, "gnc2_log"), (1, "gnc2_riesz_1"), (2, "gnc2_riesz_2")):
        energy = float(brute_force.energies(means)[energies])
        assert frames.hyperspherical_energy(vectors, power) == pytest.approx(energy, rel=digits, abs=1e-13)


def test_weight_and_means_that_are_orthogonal_keep_their_norm(block):
    read, means = torch.zeros(9, 6, dtype=torch.float64), torch.from_numpy(GENERIC[:9]).clone()
    read[:, :3], means[:, :3] = torch.from_numpy(GENERIC[9:18, :3]), 0
    assert all(map(math.isnan, pairs.Products(read, means).frame_distances()))
    means[:, 0] = 1e-9
    expected = brute_force.gram_distance(wide(read.numpy()) @ wide(means.numpy()).T, brute_force.etf_gram(9))
    assert pairs.Products(read, means).frame_distances()[0] == pytest.approx(float(expected), rel=1e-10)


def test_coincident_classes_are_infinitely_close(block):
    vectors = torch.from_numpy(GENERIC[[*range(8), 5]])
    assert frames.mean_cdnv(vectors, torch.ones(9, dtype=torch.float64)) == math.inf
    assert math.isnan(frames.mean_cdnv(vectors, torch.zeros(9, dtype=torch.float64)))
    assert frames.hyperspherical_energy(vectors) == math.inf
    assert pairs.distances(vectors)[5, 8] == 0


@pytest.mark.parametrize("counts", [[5] * 11, [1, 3] * 6])
def test_metrics_of_many_classes_are_those_of_few(counts, block, monkeypatch):
    """All of them, and decisions from the features themselves, as above ``LOGITS_OF_CLASSES``."""
    data = brute_force.sample(counts, 7, offset=50.0)
    expected = brute_force.definitions(data)
    monkeypatch.setattr(statistics, "LOGITS_OF_CLASSES", 4)
    monkeypatch.setattr(statistics, "rows_by", lambda classes: 3)
    features, labels, weight, bias = map(torch.from_numpy, data.arguments)
    stats = layer_statistics(features, labels, len(counts), weight=weight, bias=bias)
    row = collapse_metrics(stats, weight, bias)
    defined = expected.keys() - row.undefined.keys()
    assert len(defined) > 25
    for name in defined:
        assert row[name] == pytest.approx(expected[name], rel=1e-10), name


def test_rows_that_are_read_in_pieces_are_measured_as_arrays(monkeypatch):
    monkeypatch.setattr(rows, "PIECE", 8)
    data = brute_force.sample([4, 7, 6], 5)
    features, sizes = torch.from_numpy(data.features), []

    def read(size: int):
        sizes.append(size)
        yield from features.split(size)

    stored = rows.Rows(features, read)
    arguments = {"ridge": 0.1, "bias_decay": 0.2, "ood_features": data.features[:3]}
    found = ncpipe.measure(stored, *data.arguments[1:], **arguments)
    assert found == pytest.approx(ncpipe.measure(*data.arguments, **arguments), rel=1e-10)
    assert sizes == [3, 3]  # no fewer than classes, in two reads
    features[10, 2] = torch.nan
    with pytest.raises(ValueError, match="features from row 9 on has 1 non-finite values"):
        ncpipe.measure(stored, *data.arguments[1:])


def test_threads_do_not_change_a_bit(block):
    vectors, found = torch.from_numpy(GENERIC), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(strands.by_one_thread(vectors, lambda: frames.frame_metrics("v", vectors, vectors[0].abs())))
    finally:
        torch.set_num_threads(before)
    assert found[0] == found[1] == found[2]
