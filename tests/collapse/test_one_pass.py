"""``CollapseMetrics(one_pass=True)``: the scatter within the classes after one pass, exact near collapse."""

from __future__ import annotations

import copy
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import definitions, sample
from extent import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_ranks
from test_streaming import (
    BATCHES,
    BIAS,
    CASTS,
    COPIES,
    LATE,
    WEIGHT,
    H,
    Y,
    assert_same,
    metric_of,
    numbers,
    saved,
    see,
    see_second,
    splits,
    whole,
)

import ncpipe
from ncpipe import CollapseMetrics
from ncpipe.collapse import products

DECISIONS = LATE - {"nc1_pinv"}
TRAIN = {"train_means": WEIGHT + 0.3}
NEAR = 1e-10
one_pass_of = partial(metric_of, one_pass=True)


def assert_after_one_pass(metric, **options):
    """The values of ``measure``, but for decisions."""
    row, expected = metric.compute(), whole(**options)
    assert row.undefined == dict.fromkeys(DECISIONS, "needs a second pass over the features")
    names = expected.keys() - DECISIONS  # the products may give more
    assert_same({n: row[n] for n in names}, {n: expected[n] for n in names})


# Values


def test_one_pass_gives_all_but_decisions():
    assert_after_one_pass(see(one_pass_of()))
    assert_after_one_pass(see(one_pass_of(**TRAIN)), **TRAIN)


def test_a_second_pass_gives_these_too():
    assert_same(see_second(see(one_pass_of(**TRAIN))).compute(), whole(**TRAIN))


def test_threads_that_share_the_blocks_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(products, "BLOCK", 2)
    alone = see(one_pass_of()).moments
    monkeypatch.setattr(products, "SHARED", 1)
    torch.set_num_threads(2)
    assert torch.equal(see(one_pass_of()).moments, alone)


def test_wide_features_are_multiplied_in_blocks(monkeypatch):
    whole_product = see(one_pass_of()).statistics().within_products
    monkeypatch.setattr(products, "BLOCK", 3)
    first, second = see(one_pass_of(), BATCHES[:2]), see(one_pass_of(), BATCHES[2:])
    first.merge_state(second)
    torch.testing.assert_close(first.statistics().within_products, whole_product, rtol=1e-12, atol=1e-12)
    assert_after_one_pass(first)


@settings(max_examples=cases(20), deadline=None, derandomize=True)
@given(splits(), st.booleans())
def test_any_split_into_batches_and_metrics_gives_the_same(both, reverse):
    first, other = see(one_pass_of(), both[0][::2]), see(one_pass_of(), both[0][1::2])
    pair = [other, first] if reverse else [first, other]
    pair[0].merge_state(pair[1])
    assert_after_one_pass(pair[0])


NEARLY_COLLAPSED = [sample([60, 30, 45], 6, spread, offset=offset) for spread in (1e-6, 1e-7) for offset in (0, 100)]


@pytest.mark.parametrize("data", NEARLY_COLLAPSED, ids=["1e-12", "1e-12 offset", "1e-14", "1e-14 offset"])
@pytest.mark.parametrize("size", [1, 7, 135])
def test_nearly_collapsed_features_keep_their_digits(data, size):
    h, y = torch.as_tensor(data.features), torch.as_tensor(data.labels)
    expected, measured = definitions(data), ncpipe.measure(h, y)
    metrics = [CollapseMetrics(3, one_pass=True) for _ in range(2)]
    for step, batch in enumerate(zip(h.split(size), y.split(size))):
        metrics[step % 3 == 2].update(*batch)
    metrics[1].merge_state(metrics[0])
    row = metrics[1].compute()
    assert row["nc1_pinv"] < 1e-12
    for name in ("nc1_pinv", "nc1_trace_ratio", "within_share", "cdnv"):
        assert row[name] == pytest.approx(expected[name], rel=1e-3 * NEAR, abs=0)
        assert row[name] == pytest.approx(measured[name], rel=1e-3 * NEAR, abs=0)


def test_scatter_mostly_across_the_class_means_keeps_the_digits_of_nc1():
    data = sample([300, 200, 250], 8, 1e-6)
    across = np.linalg.svd(data.weight - 1, full_matrices=True)[2][3:]  # the class means of no sample
    data.features[:] += 1e-4 * np.random.default_rng(1).standard_normal((750, 5)) @ across
    h, y = torch.as_tensor(data.features), torch.as_tensor(data.labels)
    metric = CollapseMetrics(3, one_pass=True)
    for batch in zip(h.split(32), y.split(32)):
        metric.update(*batch)
    assert metric.compute()["nc1_pinv"] == pytest.approx(ncpipe.measure(h, y)["nc1_pinv"], rel=NEAR, abs=0)


def test_features_that_change_between_the_batches_keep_their_digits():
    """The scatter between batches outweighs that within them."""
    moved = H + 1e3 * torch.arange(30).div(8, rounding_mode="floor")[:, None]
    metric = CollapseMetrics(4, one_pass=True)
    for rows in BATCHES:
        metric.update(moved[rows], Y[rows])
    row, expected = metric.compute(), ncpipe.measure(moved, Y)
    assert row["nc1_trace_ratio"] == pytest.approx(expected["nc1_trace_ratio"], rel=1e-13)
    assert row["nc1_pinv"] == pytest.approx(expected["nc1_pinv"], rel=NEAR, abs=0)


def test_equal_features_of_a_class_are_collapsed():
    metric, features = CollapseMetrics(4, one_pass=True), (WEIGHT / 3)[Y]
    for row, label in zip(features, Y):
        metric.update(row[None], label[None])
    assert metric.compute()["nc1_pinv"] == 0


@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.float32])
def test_features_of_any_precision_are_widened(dtype):
    low, metric = H.to(dtype), CollapseMetrics(4, one_pass=True)
    for rows in BATCHES:
        metric.update(low[rows], Y[rows])
    assert metric.compute()["nc1_pinv"] == pytest.approx(ncpipe.measure(low, Y)["nc1_pinv"], rel=1e-13)


def test_a_breakdown_has_no_nc1_of_single_classes():
    row, expected = see(one_pass_of(per_class=True)).compute(), see(metric_of(per_class=True)).compute()
    assert row.per_class.keys() == expected.per_class.keys()
    assert row.per_pair.keys() == expected.per_pair.keys()


def test_classes_present_are_measured_alone():
    ids = torch.tensor([3, 7, 8, 9])[Y]
    parts = [part.double() for part in (torch.randn(10, 7), torch.randn(10), torch.randn(10, 7))]
    metric = CollapseMetrics(10, *parts[:2], train_means=parts[2], present_only=True, one_pass=True)
    for rows in BATCHES:
        metric.update(H[rows], ids[rows])
    row, expected = metric.compute(), ncpipe.measure(H, ids, *parts[:2], train_means=parts[2], present_only=True)
    assert row.undefined.keys() == DECISIONS
    for name in ("nc1_pinv", "nc1_pinv_train_means", "cdnv_train_means"):
        assert row[name] == pytest.approx(expected[name], rel=1e-12)


def test_undefined_says_why():
    metric = CollapseMetrics(6, one_pass=True)
    assert see(metric).compute().undefined["nc1_pinv"] == "no sample of class 4, 5"
    metric = CollapseMetrics(4, one_pass=True)
    metric.update(torch.ones(8, 3), torch.arange(8) % 4)
    assert metric.compute().undefined["nc1_pinv"] == "all class means agree"


def test_forward_returns_the_metrics_of_the_batch():
    metric = one_pass_of()
    for rows in BATCHES:
        expected = see(one_pass_of(), [rows]).compute()
        assert_same(metric(H[rows], Y[rows]), expected)
    assert_after_one_pass(metric)


# States


def test_the_state_of_two_passes_has_no_square_matrix():
    assert see(metric_of()).moments.shape == (4, 2 + 7)
    assert see(one_pass_of()).moments.shape == (2 * 4 + 7, 2 + 7)


@COPIES
def test_a_copy_goes_on(copied):
    assert_after_one_pass(copied(see(copied(see(one_pass_of(), BATCHES[:2])), BATCHES[2:])))


def test_a_copy_is_independent():
    metric = see(one_pass_of())
    copy.deepcopy(metric).update(H + 100, Y)
    assert_after_one_pass(metric)


def test_a_saved_state_goes_on():
    loaded = see(one_pass_of(), BATCHES[:1])
    loaded.load_state_dict(saved(see(one_pass_of(), BATCHES[:2])))
    assert_after_one_pass(see(loaded, BATCHES[2:]))


@pytest.mark.parametrize("cast", CASTS, ids=["half", "float", "type", "to"])
def test_casts_leave_the_state_in_double_precision(cast):
    metric = see(one_pass_of(), BATCHES[:2])
    cast(torch.nn.ModuleList([metric]))
    assert_after_one_pass(see(metric, BATCHES[2:]))


def test_reset_begins_anew_with_other_features():
    metric = see(CollapseMetrics(4, one_pass=True))
    metric.reset()
    wider = torch.cat([H, H[:, :2]], dim=1)
    metric.update(wider[:0], Y[:0])
    metric.update(wider, Y)
    assert metric.compute()["nc1_pinv"] == pytest.approx(ncpipe.measure(wider, Y)["nc1_pinv"], rel=1e-12)


def test_a_metric_made_on_the_meta_device_measures():
    with torch.device("meta"):
        metric = CollapseMetrics(4, lambda: WEIGHT, lambda: BIAS, one_pass=True)
    assert_after_one_pass(see(metric.to_empty(device="cpu")))


@pytest.mark.parametrize("empty", [0, 1])
def test_a_metric_that_saw_nothing_merges(empty):
    both = [one_pass_of(), see(one_pass_of())][:: 1 - 2 * empty]
    both[0].merge_state(both[1])
    assert_after_one_pass(both[0])


def test_a_batch_that_is_refused_is_not_added():
    metric = see(one_pass_of())
    for bad in (H * math.nan, H[:, :6]):
        with pytest.raises(ValueError, match=r"non-finite|columns"):
            metric.update(bad, Y)
    assert_after_one_pass(metric)


def test_a_state_without_products_is_refused():
    for one, other, word in ((metric_of, one_pass_of, "with"), (one_pass_of, metric_of, "without")):
        with pytest.raises(ValueError, match="metrics with and without one_pass do not merge"):
            see(one()).merge_state(see(other()))
        with pytest.raises(ValueError, match=rf"moments was saved by a metric {word} one_pass"):
            one().load_state_dict(saved(see(other())))


def test_a_state_of_other_classes_is_refused():
    with pytest.raises(ValueError, match="metrics of 4 and 5 classes do not merge"):
        see(one_pass_of()).merge_state(CollapseMetrics(5, one_pass=True))
    with pytest.raises(ValueError, match="saved by a metric of 4 classes, not 5"):
        CollapseMetrics(5, one_pass=True).load_state_dict(saved(see(one_pass_of())))


# Ranks

SHARES = {"unequal": [range(13), range(13, 30)], "one without samples": [range(30), range(0)]}


def measured_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    rows = {}
    for case, shares in SHARES.items():
        batches = [indices for indices in torch.tensor(shares[rank], dtype=torch.int64).split(5) if len(indices)]
        rows[case] = numbers(see(one_pass_of(**TRAIN), batches).compute())
    Path(folder, f"{rank}.json").write_text(json.dumps(rows))
    torch.distributed.destroy_process_group()


@pytest.mark.thorough
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch has no gloo",
)
def test_ranks_agree_on_the_whole(tmp_path):
    run_ranks(measured_rank, (str(tmp_path),), 2)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    np.testing.assert_equal(first, second)
    for row in first.values():
        expected = dict(whole(**TRAIN)) | dict.fromkeys(DECISIONS, math.nan)
        assert_same({name: row[name] for name in expected}, expected)
