"""Tag-wise averages of multi-label features: exact data, brute force, reasons and bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from brute_force import orthonormal, simplex_etf, tagwise

from ncpipe.collapse import tag_sets_1nn, tagwise_metrics

SCALES = {1: 1.0, 2: 0.6, 3: 0.45}


def all_sets(classes: int, most: int = 3):
    """Every set of 1 to ``most`` tags, as zeros and ones."""
    sets = [tags for size in range(1, most + 1) for tags in itertools.combinations(range(classes), size)]
    return np.stack([np.isin(np.arange(classes), tags).astype(np.int64) for tags in sets])


def scaled_sums(targets, single):
    """Features that have the tag-wise average property exactly."""
    return np.array([SCALES[size] for size in targets.sum(axis=1)])[:, None] * (targets @ single)


def noisy(seed=0, counts=(1, 5), classes=4, dim=6):
    rng = np.random.default_rng(seed)
    sets = all_sets(classes)
    targets = rng.permutation(np.repeat(sets, rng.integers(*counts, len(sets)), axis=0))
    single = rng.standard_normal((classes, dim))
    return scaled_sums(targets, single) + 0.3 * rng.standard_normal((len(targets), dim)), targets


@pytest.mark.parametrize("single", [simplex_etf(5, 9), orthonormal(5, 9)], ids=["ETF", "OF"])
def test_exact_sums_have_no_angle_and_the_right_scales(single):
    targets = np.repeat(all_sets(5), 3, axis=0)
    row = tagwise_metrics(scaled_sums(targets, single), targets)
    assert max(row[name] for name in row if "angle" in name) < 1e-6
    for size in (2, 3):
        assert row[f"tagwise_scale_{size}"] == pytest.approx(SCALES[size], rel=1e-12)
    assert SCALES[3] < row["tagwise_scale"] < SCALES[2]
    assert row.undefined == {}


def test_a_small_angle_keeps_its_digits():
    angle, frame = 1e-6, orthonormal(3, 4)
    pair = np.cos(angle) * (frame[0] + frame[1]) / math.sqrt(2) + np.sin(angle) * frame[2]
    row = tagwise_metrics(np.stack([*frame, pair]), np.vstack([np.eye(3, dtype=int), [1, 1, 0]]))
    assert row["tagwise_angle"] == pytest.approx(math.degrees(angle), rel=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_the_definitions(seed):
    features, targets = noisy(seed)
    row = tagwise_metrics(features, targets)
    expected = {}
    for ending, size in (("", None), ("_2", 2), ("_3", 3)):
        names = (f"tagwise_{what}{ending}" for what in ("angle", "scale", "ratio"))
        expected |= dict(zip(names, tagwise(features, targets, size)))
    assert set(row) == set(expected)
    assert dict(row) == pytest.approx(expected, rel=1e-10)
    assert row["tagwise_angle"] > 1


def test_every_set_counts_alike_whatever_its_size():
    features, targets = noisy(counts=(1, 2))
    many = np.concatenate([features, *[features[-3:]] * 20]), np.concatenate([targets, *[targets[-3:]] * 20])
    assert dict(tagwise_metrics(*many)) == pytest.approx(dict(tagwise_metrics(features, targets)), rel=1e-12)


def test_a_scale_and_a_rotation_of_features_change_nothing():
    features, targets = noisy()
    moved = 7 * features @ orthonormal(6, 6)
    assert dict(tagwise_metrics(moved, targets)) == pytest.approx(dict(tagwise_metrics(features, targets)), rel=1e-10)


def test_means_are_uncentred():
    features, targets = noisy()
    shifted = tagwise_metrics(features + 5, targets)
    assert dict(shifted) != pytest.approx(dict(tagwise_metrics(features, targets)), rel=0.01)


def test_types_and_layouts_do_not_matter():
    features, targets = noisy()
    row = tagwise_metrics(features, targets)
    assert row == tagwise_metrics(torch.as_tensor(features), torch.as_tensor(targets).bool())
    assert row == tagwise_metrics(features, targets.astype(np.float32))
    assert row == tagwise_metrics(np.asfortranarray(features), targets.astype(np.uint8))
    half = torch.as_tensor(features).half()
    assert tagwise_metrics(half, targets) == tagwise_metrics(half.double(), targets)


def test_without_a_set_of_two_tags_nothing_is_defined():
    row = tagwise_metrics(np.eye(3), np.eye(3, dtype=int))
    assert row.undefined == dict.fromkeys(
        ("tagwise_angle", "tagwise_scale", "tagwise_ratio"), "no sample has two tags"
    )
    assert all(map(math.isnan, row.values()))


def test_a_tag_that_never_stands_alone_is_named():
    features, targets = noisy()
    with_own = ~((targets.sum(axis=1) == 1) & (targets[:, 2] == 1))
    row = tagwise_metrics(features[with_own], targets[with_own])
    assert set(row.undefined) == set(row) == {name for name, value in row.items() if math.isnan(value)}
    assert set(row.undefined.values()) == {"no sample has the one tag 2, so that it has no mean of its own"}


def test_a_lonely_tag_leaves_multiplicities_without_it_defined():
    targets = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 1]])
    row = tagwise_metrics(np.vstack([np.eye(3, 4), [1, 1, 0, 0], [0, 1, 1, 1]]), targets)
    assert set(row.undefined) == {f"tagwise_{what}{of}" for what in ("angle", "scale", "ratio") for of in ("", "_3")}
    assert row["tagwise_scale_2"] == 1


def test_a_sum_that_vanishes_has_a_reason():
    features = np.array([[1.0, 0], [-1.0, 0], [0, 1.0]])
    row = tagwise_metrics(features, np.array([[1, 0], [0, 1], [1, 1]]))
    assert all(map(math.isnan, row.values()))
    assert set(row.undefined.values()) == {"the mean of a set, or the sum of its tags' means, is zero"}
    assert set(row.undefined) == set(row)


FEATURES, TARGETS = torch.ones(3, 2), torch.tensor([[1, 0], [0, 1], [1, 1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": TARGETS[:2]}, r"targets must have shape \(3, K\), got \(2, 2\)"),
        ({"targets": TARGETS[0]}, r"targets must have shape \(3, K\), got \(2,\)"),
        ({"targets": TARGETS[:, :0]}, r"targets must have shape \(3, K\), got \(3, 0\)"),
        ({"targets": 2 * TARGETS}, "targets must hold zeros and ones only"),
        ({"targets": TARGETS * math.nan}, "targets must hold zeros and ones only"),
        ({"targets": TARGETS * torch.tensor([[1], [0], [0]])}, "2 samples have no tag, the first is 1"),
        ({"targets": TARGETS.tolist()}, "targets must be a NumPy array or a Torch tensor, got list"),
        ({"features": FEATURES.long()}, "features must be floating point"),
        ({"features": FEATURES * math.nan}, r"features has 6 non-finite values, the first at index \[0, 0\]"),
        ({"features": FEATURES[0]}, "features must have shape"),
        ({"targets": TARGETS.to("meta")}, "targets is on meta, features on cpu"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        tagwise_metrics(**{"features": FEATURES, "targets": TARGETS} | change)


# Sets of tags read off the nearest sample


def decoded(features, targets, train_features, train_targets) -> float:
    """Sample by sample, as it is written."""
    right = 0
    for h, tags in zip(features, targets):
        angles = [math.acos(np.clip(h @ t / np.linalg.norm(h) / np.linalg.norm(t), -1, 1)) for t in train_features]
        right += (train_targets[np.argmin(angles)] == tags).all()
    return right / len(features)


def halves(count=40):
    """Features and tags of a training and a test split."""
    features, targets = noisy(1, (4, 9))
    return (features[count:], targets[count:]), (features[:count], targets[:count])


def test_sets_of_the_nearest_sample_are_as_they_are_written(monkeypatch):
    train, test = halves()
    expected = decoded(*test, *train)
    assert 0.3 < expected < 0.95
    assert tag_sets_1nn(*test, *train) == expected
    monkeypatch.setattr("ncpipe.collapse.multilabel.CHUNK", 7)
    assert tag_sets_1nn(*test, *train) == expected


def test_lengths_of_features_and_turns_change_no_set():
    (train, tags), (test, test_tags) = halves()
    found = tag_sets_1nn(test, test_tags, train, tags)
    rng, turn = np.random.default_rng(0), orthonormal(6, 6)
    lengths = [rng.uniform(0.01, 100, (len(rows), 1)) for rows in (test, train)]
    assert tag_sets_1nn(lengths[0] * test @ turn, test_tags, lengths[1] * train @ turn, tags) == found
    assert tag_sets_1nn(train, tags, train, tags) == 1
    assert tag_sets_1nn(-train, tags, train, tags) < 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 5)), np.eye(3)[:2]), r"as wide as those of training, got 5 and 3, of training 4 and 3"),
        ((np.ones((2, 4)), np.eye(2)), r"as wide as those of training, got 4 and 2, of training 4 and 3"),
        ((np.full((2, 4), np.nan), np.eye(3)[:2]), "features has 8 non-finite values"),
        ((np.ones((2, 4)), np.zeros((2, 3))), "targets: 2 samples have no tag"),
    ],
)
def test_wrong_arguments_of_the_decoding_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tag_sets_1nn(*arguments, np.ones((3, 4)), np.eye(3))
