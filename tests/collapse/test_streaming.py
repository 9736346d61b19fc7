"""``CollapseMetrics``: batches, passes, copies, collections, processes, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from brute_force import sample
from extent import cases
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import run_ranks

import ncpipe
from ncpipe import CollapseMetrics  # before torchmetrics, which imports torchvision
from ncpipe.collapse import Measurement, SecondPass, streaming

torchmetrics = pytest.importorskip("torchmetrics")

DATA = sample([9, 4, 11, 6], 7, 1.0)
H, Y, WEIGHT, BIAS = (torch.as_tensor(array) for array in DATA.arguments)
WEIGHTS = [name for name in ncpipe.measure(H, Y, WEIGHT) if name.startswith(("nc2_weights", "weights"))]
LATE = {"nc1_pinv", "ncc_accuracy", "nc4_mismatch", "accuracy"}
BATCHES = torch.arange(30).split(8)


def metric_of(**options) -> CollapseMetrics:
    return CollapseMetrics(4, **{"weight": WEIGHT, "bias": BIAS} | options)


def see(metric, batches=BATCHES):
    for rows in batches:
        metric.update(H[rows], Y[rows])
    return metric


def see_twice(metric, batches=BATCHES):
    see(metric, batches).start_second_pass()
    return see(metric, batches)


def assert_same(row, expected, rel=1e-12):
    assert set(row) == set(expected)
    assert numbers(row) == pytest.approx(numbers(expected), rel=rel, abs=1e-14, nan_ok=True)


def numbers(row) -> dict[str, float]:
    return {name: float(value) for name, value in row.items()}


def whole(**options) -> Measurement:
    return ncpipe.measure(H, Y, WEIGHT, BIAS, **options)


# Passes


def test_one_pass_gives_what_needs_no_second():
    row, expected = see(metric_of()).compute(), whole()
    assert row.undefined == dict.fromkeys(LATE, "needs a second pass over the features")
    assert {name for name, value in row.items() if math.isnan(value)} == LATE
    assert_same({n: row[n] for n in row.keys() - LATE}, {n: expected[n] for n in expected.keys() - LATE})


def test_two_passes_give_all():
    row = see_twice(metric_of()).compute()
    assert_same(row, whole())
    assert row.undefined == {}
    np.testing.assert_allclose(row.singular_values, whole().singular_values, rtol=1e-12)


def test_without_a_classifier_there_are_no_metrics_of_one():
    assert_same(see_twice(CollapseMetrics(4)).compute(), ncpipe.measure(H, Y))


def test_metrics_of_a_test_split_are_about_the_train_means():
    row = see_twice(metric_of(train_means=WEIGHT + 0.3)).compute()
    assert_same(row, whole(train_means=WEIGHT + 0.3))
    assert row["ncc_accuracy"] != whole()["ncc_accuracy"]


def test_one_pass_about_train_means_gives_what_needs_no_second():
    row, expected = see(metric_of(train_means=WEIGHT)).compute(), whole(train_means=WEIGHT)
    late = {*LATE, "nc1_pinv_train_means"}
    assert set(row.undefined) == late
    assert_same({n: row[n] for n in row.keys() - late}, {n: expected[n] for n in expected.keys() - late})


def test_breakdowns_are_those_of_the_whole():
    row, expected = see_twice(metric_of(per_class=True)).compute(), whole(per_class=True)
    for mine, its in ((row.per_class, expected.per_class), (row.per_pair, expected.per_pair)):
        assert mine.keys() == its.keys()
        for name, values in its.items():
            np.testing.assert_allclose(mine[name], values, rtol=1e-12, atol=1e-14, err_msg=name)


@st.composite
def splits(draw):
    """Two divisions of the samples into batches, which may be empty of classes, in two orders."""
    found = []
    for _ in range(2):
        order = draw(st.permutations(range(30)))
        cuts = sorted(draw(st.sets(st.integers(1, 29), max_size=12)))
        found.append([order[a:b] for a, b in zip([0, *cuts], [*cuts, 30])])
    return found


@settings(max_examples=cases(20), deadline=None, derandomize=True)
@given(splits())
def test_any_split_into_batches_gives_the_same(both):
    metric = see(metric_of(train_means=WEIGHT), both[0])
    metric.start_second_pass()
    assert_same(see(metric, both[1]).compute(), whole(train_means=WEIGHT))


def test_batches_of_one_sample_and_of_half_precision_are_widened():
    low, metric = H.half(), CollapseMetrics(4)
    for _ in range(2):
        for row, label in zip(low, Y):
            metric.update(row[None], label[None])
        if not metric.sums.any():
            metric.start_second_pass()
    assert_same(metric.compute(), ncpipe.measure(low.double(), Y))


def test_collapsed_features_with_an_offset_keep_their_digits():
    data = sample([60, 30, 45], 6, 1e-7, offset=100.0)
    h, y = torch.as_tensor(data.features), torch.as_tensor(data.labels)
    metric, batches = CollapseMetrics(3), list(zip(h.split(7), y.split(7)))
    for _ in range(2):
        for batch in batches:
            metric.update(*batch)
        if not metric.sums.any():
            once = metric.compute()
            metric.start_second_pass()
    expected = ncpipe.measure(h, y)
    assert expected["nc1_pinv"] < 1e-14
    for name in ("nc1_pinv", "nc1_trace_ratio", "cdnv"):
        assert metric.compute()[name] == pytest.approx(expected[name], rel=1e-10)
    rounding = 100 * np.finfo(float).eps / 1e-7  # of a mean against the spread
    assert once["nc1_trace_ratio"] == pytest.approx(expected["nc1_trace_ratio"], rel=rounding)


def test_compute_may_be_called_in_between():
    metric = see(metric_of(), BATCHES[:2])
    part = torch.cat(BATCHES[:2])
    assert metric.compute()["nc1_trace_ratio"] == pytest.approx(ncpipe.measure(H[part], Y[part])["nc1_trace_ratio"])
    assert math.isnan(see(metric, BATCHES[2:]).compute()["nc1_pinv"])
    metric.start_second_pass()
    assert_same(see(metric).compute(), whole())
    assert metric.compute() is metric.compute()


def test_classes_may_be_missing():
    weight = torch.cat([WEIGHT, -WEIGHT[:2]])
    row = see_twice(CollapseMetrics(6, weight)).compute()
    expected = ncpipe.measure(H, Y, weight, num_classes=6)
    assert_same(row, expected)
    assert row.undefined == expected.undefined
    assert row.undefined["nc1_pinv"] == "no sample of class 4, 5"


def alone(rows) -> Measurement:
    """Of a batch alone, after one pass."""
    return see(metric_of(), [rows]).compute()


@pytest.mark.parametrize("on_step", [False, True])
def test_forward_adds_a_batch_and_returns_its_own_metrics(on_step):
    metric = metric_of(dist_sync_on_step=on_step)
    for rows in BATCHES:
        assert_same(metric(H[rows], Y[rows]), alone(rows))
    assert_same(metric.compute(), see(metric_of()).compute())
    metric.start_second_pass()
    for rows in BATCHES:
        assert_same(metric(H[rows], Y[rows]), alone(rows))
    assert_same(metric.compute(), whole())


def test_the_second_pass_is_set_up_once(monkeypatch):
    metric, made = see(metric_of()), []
    monkeypatch.setattr(streaming, "SecondPass", lambda *a, **k: made.append(1) or SecondPass(*a, **k))
    metric.start_second_pass()
    for rows in BATCHES:
        metric(H[rows], Y[rows])
    metric.compute()
    assert len(made) == 1


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("on_step", [False, True])
def test_a_batch_that_forward_refuses_is_not_added(second, on_step):
    broken = [WEIGHT]
    metric = see(metric_of(weight=lambda: broken[0], dist_sync_on_step=on_step))
    if second:
        metric.start_second_pass()
        see(metric, BATCHES[:1])
    broken[0] = WEIGHT / 0
    for bad in (H[:3], H[:3] * math.nan, H[:3, :2]):  # the first is refused by compute, for the weight
        with pytest.raises(ValueError, match=r"non-finite|shape \(4, 2\)|columns"):
            metric(bad, Y[:3])
    broken[0] = WEIGHT
    if not second:
        metric.start_second_pass()
    assert_same(see(metric, BATCHES[second:]).compute(), whole())


def test_forward_of_no_samples_has_no_values():
    metric = see(metric_of())
    assert all(value.isnan() for name, value in metric(H[:0], Y[:0]).items() if name not in ("rank", *WEIGHTS))
    assert_same(see_second(metric).compute(), whole())


# The classifier


def test_the_weight_is_read_when_the_second_pass_starts():
    weight, bias = WEIGHT.clone(), BIAS.clone()
    metric = see(CollapseMetrics(4, weight, bias))
    weight.mul_(-1).add_(0.3)
    bias.add_(torch.tensor([0, 2.0, 0, 0]))
    metric.start_second_pass()
    trained = weight.clone(), bias.clone()
    weight.zero_()
    bias.zero_()
    assert_same(see(metric).compute(), ncpipe.measure(H, Y, *trained))


def test_after_one_pass_compute_reads_the_weight():
    weight = WEIGHT.clone()
    metric = see(CollapseMetrics(4, weight))
    weight.copy_(-WEIGHT)
    expected = ncpipe.measure(H, Y, -WEIGHT)["nc3_duality"]
    assert metric.compute()["nc3_duality"] == pytest.approx(expected, rel=1e-12)


def test_a_classifier_may_be_numpy_or_computed():
    parts = {"weight": WEIGHT.numpy(), "bias": BIAS.numpy()}
    assert_same(see_twice(metric_of(**parts)).compute(), whole())
    factor = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    metric = copy.deepcopy(metric_of(weight=lambda: factor * WEIGHT))
    with torch.no_grad():
        factor.fill_(1)
    assert_same(see_twice(metric).compute(), whole())


@pytest.mark.parametrize("copied", [lambda m: m.clone(), lambda m: torchmetrics.MetricCollection([m]).clone("x_")])
def test_a_clone_reads_the_classifier_as_it_is_trained(copied):
    weight = torch.nn.Parameter(torch.zeros_like(WEIGHT))
    clone = copied(metric_of(weight=weight))
    with torch.no_grad():
        weight.copy_(WEIGHT)
    metric = next(iter(clone.values())) if isinstance(clone, torchmetrics.MetricCollection) else clone
    assert_same(see_twice(metric).compute(), whole())


def test_a_copy_of_a_network_with_its_metric_reads_the_copied_classifier():
    network = torch.nn.Linear(7, 4, dtype=torch.float64)
    both = torch.nn.ModuleDict({"network": network, "metric": CollapseMetrics(4, network.weight)})
    copied = copy.deepcopy(both)
    with torch.no_grad():
        copied["network"].weight.copy_(WEIGHT)
    row = see(copied["metric"]).compute()
    assert row["nc2_weights_etf"] == pytest.approx(whole()["nc2_weights_etf"])


def test_unpickled_metrics_share_no_group_of_a_collection():
    first, other = pickled(metric_of()), pickled(CollapseMetrics(4, 2 * WEIGHT + 1, BIAS))
    collection = torchmetrics.MetricCollection({"first": pickled(first), "again": pickled(first), "other": other})
    collection.update(H, Y)
    assert len(collection.compute_groups) == 3


def test_a_batch_without_samples_changes_nothing():
    metric = see(metric_of())
    metric.update(H[:0], Y[:0])
    metric.start_second_pass()
    metric.update(H[:0], Y[:0])
    assert_same(see(metric).compute(), whole())


def test_collapsed_features_may_be_rounded_otherwise_in_the_second_pass():
    features = 3 + torch.eye(4, 7)[Y]
    metric = CollapseMetrics(4)
    metric.update(features, Y)
    metric.start_second_pass()
    metric.update(features * (1 + 1.2e-7 * torch.rand(features.shape).round()), Y)
    assert metric.compute()["nc1_pinv"] < 1e-12


def test_metrics_of_other_classes_do_not_merge():
    with pytest.raises(ValueError, match="metrics of 4 and 5 classes do not merge"):
        see(metric_of()).merge_state(CollapseMetrics(5))


def test_a_layers_parameters_stay_its_own():
    layer = torch.nn.Linear(7, 4)
    metric = CollapseMetrics(4, layer.weight, layer.bias)
    assert list(metric.parameters()) == []
    row = see_twice(metric).compute()
    assert_same(row, ncpipe.measure(H, Y, layer.weight, layer.bias))
    assert layer.weight.grad is None
    assert layer.weight.requires_grad


# States


def test_reset_begins_anew():
    metric = see_twice(metric_of())
    metric.compute()
    metric.reset()
    with pytest.raises(ValueError, match="no features have been seen"):
        metric.start_second_pass()
    wider = torch.cat([H, H[:, :2]], dim=1)
    metric._references = (None, None, None)
    metric.update(wider, Y)
    assert set(metric.compute().undefined) == {"nc1_pinv", "ncc_accuracy"}
    metric.start_second_pass()
    metric.update(wider, Y)
    assert_same(metric.compute(), ncpipe.measure(wider, Y))


def pickled(metric):
    return pickle.loads(pickle.dumps(metric))


COPIES = pytest.mark.parametrize(
    "copied", [pickled, copy.deepcopy, lambda metric: metric.clone(), lambda m: m.to("cpu")]
)


@COPIES
def test_a_copy_at_any_time_goes_on(copied):
    metric = copied(see(copied(metric_of(train_means=WEIGHT)), BATCHES[:2]))
    metric = copied(see(metric, BATCHES[2:]))
    metric.start_second_pass()
    metric = copied(see(copied(metric), BATCHES[:1]))
    row = copied(see(metric, BATCHES[1:])).compute()
    assert isinstance(row, Measurement)
    assert_same(row, whole(train_means=WEIGHT))
    assert_same(copied(metric).compute(), row)


def test_a_copy_is_independent():
    metric = see(metric_of())
    other = copy.deepcopy(metric)
    other.update(H[:1] + 100, Y[:1])
    assert_same(see_second(metric).compute(), whole())
    assert other.moments[:, 0].sum() == 31


def computed_after(change, metric):
    """What fails may fail at once or when it is computed."""
    change()
    return metric.compute()


def see_second(metric):
    metric.start_second_pass()
    return see(metric)


CASTS = [
    lambda module: module.half(),
    lambda module: module.float(),
    lambda module: module.type(torch.float32),
    lambda module: module.to(torch.bfloat16),
]


@pytest.mark.parametrize("cast", CASTS, ids=["half", "float", "type", "to"])
def test_casts_of_a_module_leave_the_states_in_double_precision(cast):
    metric = see(metric_of())
    cast(torch.nn.ModuleList([metric]))
    assert metric.moments.dtype == metric.sums.dtype == torch.float64
    see_second(metric)
    cast(metric)
    assert metric.moments.dtype == metric.sums.dtype == torch.float64
    assert_same(metric.compute(), whole())


def test_a_measurement_survives_pickling():
    row = see(metric_of(per_class=True)).compute()
    again = pickled(row)
    assert again.undefined == row.undefined
    assert again.per_class.keys() == row.per_class.keys()


@pytest.mark.parametrize("groups", [False, True])
def test_a_collection_gives_the_metrics_of_every_classifier(groups):
    metrics = {"first": metric_of(), "other": CollapseMetrics(4, 2 * WEIGHT + 1, BIAS)}
    collection = torchmetrics.MetricCollection(metrics, compute_groups=groups)
    for rows in BATCHES:
        found = collection(H[rows], Y[rows])
        assert_same({n: found[f"first_{n}"] for n in alone(rows)}, alone(rows))
    for metric in collection.values():
        metric.start_second_pass()
    for rows in BATCHES:
        collection.update(H[rows], Y[rows])
    found = collection.compute()
    other = ncpipe.measure(H, Y, 2 * WEIGHT + 1, BIAS)
    expected = {f"first_{name}": value for name, value in whole().items()}
    assert_same(found, expected | {f"other_{name}": value for name, value in other.items()})


def test_a_collection_of_one_gives_plain_names():
    collection = torchmetrics.MetricCollection([metric_of()])
    for rows in BATCHES:
        collection.update(H[rows], Y[rows])
    collection["CollapseMetrics"].start_second_pass()
    collection.update(H, Y)
    assert_same(collection.compute(), whole())


def halves():
    return see(metric_of(), BATCHES[:2]), see(metric_of(), BATCHES[2:])


def test_merged_metrics_are_that_of_all_samples():
    first, second = halves()
    first.merge_state(second)
    assert first.moments[:, 0].tolist() == [9, 4, 11, 6]
    assert_same(see_second(first).compute(), whole())


def test_metrics_that_saw_different_classes_merge():
    order = Y.argsort()
    first, second = see(metric_of(), order.split(11)[:1]), see(metric_of(), order.split(11)[1:])
    second.merge_state(first)
    assert_same(see_second(second).compute(), whole())


@pytest.mark.parametrize("empty", [0, 1])
def test_a_metric_that_saw_nothing_merges(empty):
    both = [metric_of(), see(metric_of())][:: 1 - 2 * empty]
    both[0].merge_state(both[1])
    assert_same(see_second(both[0]).compute(), whole())


def test_second_passes_about_different_means_do_not_merge():
    first, second = see_twice(metric_of(), BATCHES[:2]), see_twice(metric_of(), BATCHES[2:])
    with pytest.raises(ValueError, match="means"):
        computed_after(lambda: first.merge_state(second), first)


def test_wide_features_need_no_square_matrix():
    d, before = 20_000, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    generator = torch.Generator().manual_seed(0)
    h, y = torch.randn(40, d, generator=generator), torch.arange(4).repeat(10)
    metric = CollapseMetrics(4, torch.ones(4, d))
    for _ in range(2):
        metric.update(h[:20], y[:20])
        metric.update(h[20:], y[20:])
        if not metric.sums.any():
            metric.start_second_pass()
    row = metric.compute()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024  # KiB
    assert grown < d * d * 8 / 10
    assert row["nc1_trace_ratio"] == pytest.approx(ncpipe.measure(h, y)["nc1_trace_ratio"], rel=1e-12)


# Refusals


def test_a_second_pass_over_fewer_samples_raises():
    metric = see(metric_of())
    metric.start_second_pass()
    with pytest.raises(ValueError, match="the second pass has seen 16 samples, the first 30: pass the same batches"):
        see(metric, BATCHES[:2]).compute()


def test_a_second_pass_over_other_classes_raises():
    metric = see(metric_of())
    metric.start_second_pass()
    metric.update(H, Y.roll(1).clamp(max=2))
    with pytest.raises(ValueError, match="pass the same batches twice"):
        metric.compute()


@pytest.mark.parametrize("change", [lambda h: h + 1, lambda h: h * math.nan], ids=["moved", "not finite"])
def test_a_second_pass_over_other_features_raises(change):
    metric = see(metric_of())
    metric.start_second_pass()
    with pytest.raises(ValueError, match="features"):
        computed_after(lambda: metric.update(change(H), Y), metric)


def test_a_second_pass_starts_once():
    metric = see(metric_of())
    metric.start_second_pass()
    with pytest.raises(ValueError, match=r"the second pass has begun: reset\(\) starts anew"):
        metric.start_second_pass()


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
@pytest.mark.parametrize("call", ["compute", "start_second_pass"])
def test_nothing_comes_of_nothing(call):
    with pytest.raises(ValueError, match="no features have been seen: call update first"):
        getattr(metric_of(), call)()


@pytest.mark.parametrize("second", [False, True])
def test_a_batch_of_another_width_raises(second):
    metric = see(metric_of())
    if second:
        metric.start_second_pass()
    with pytest.raises(ValueError, match="features must have 7 columns as before, got 6"):
        metric.update(H[:, :6], Y)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (H, Y + 1, r"labels must lie in \[0, 4\), got values from 1 to 4"),
        (H, Y.double(), "labels must be integers"),
        (H[:3], Y, r"labels must have shape \(3,\)"),
        (H.long(), Y, "features must be floating point"),
        (H[0], Y, "features must have shape"),
        (H.log(), Y, "features has .* non-finite values, the first at index"),
        (
            H.to("meta"),
            Y,
            r"features are on meta, the metric on cpu: metric.to\(meta\) would not help, a meta tensor",
        ),
        (H, Y.to("meta"), "labels is on meta, features on cpu: a meta tensor has no values"),
    ],
)
def test_a_bad_batch_is_named_and_not_added(features, labels, message):
    metric = see(metric_of())
    with pytest.raises(ValueError, match=message):
        metric.update(features, labels)
    assert_same(see_second(metric).compute(), whole())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
        ({"num_classes": 4.0}, "num_classes must be a whole number, got 4.0"),
        ({"bias": BIAS}, "bias is given without weight"),
        ({"weight": WEIGHT, "bias": BIAS[:2]}, r"bias must have shape \(K,\) with K = 4, got \(2,\)"),
        ({"weight": WEIGHT[:3]}, r"weight must have shape \(K, d\) with K = 4, got \(3, 7\)"),
        ({"train_means": WEIGHT[:2]}, r"train_means must have shape \(K, d\) with K = 4, got \(2, 7\)"),
        ({"weight": torch.nn.Linear(7, 4)}, "weight must be an array, got Linear: pass its weight"),
        ({"weight": 2 * torch.nn.Parameter(WEIGHT)}, "weight is computed: pass a function that returns it"),
    ],
)
def test_a_bad_metric_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        CollapseMetrics(**{"num_classes": 4} | options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": WEIGHT[:, :3]}, r"weight must have shape \(4, 7\), got \(4, 3\)"),
        ({"weight": WEIGHT / 0}, "weight has 28 non-finite values"),
        ({"weight": lambda: WEIGHT[:2]}, r"weight must have shape \(4, 7\), got \(2, 7\)"),
        ({"train_means": WEIGHT[:, :2]}, r"train_means must have shape \(4, 7\), got \(4, 2\)"),
    ],
)
def test_a_bad_classifier_is_named_when_it_is_read(options, message):
    metric = see(metric_of(**options))
    with pytest.raises(ValueError, match=message):
        metric.start_second_pass()


# Processes

SHARES = {"unequal": [range(13), range(13, 30)], "one without samples": [range(30), range(0)]}


def measured_rank(rank: int, case: str, folder: str) -> None:
    """What a process does: its share in batches of 5, and both passes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    batches = [rows for rows in torch.tensor(SHARES[case][rank], dtype=torch.int64).split(5) if len(rows)]
    metric = see(metric_of(train_means=WEIGHT, per_class=True), batches)
    metric.start_second_pass()
    row = see(metric, batches).compute()
    found = {
        "row": numbers(row),
        "samples": row.per_class["samples"].tolist(),
        "own": metric.moments[:, 0].sum().item(),
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch has no gloo",
)
@pytest.mark.parametrize("case", SHARES)
def test_processes_agree_on_the_whole(case, tmp_path):
    run_ranks(measured_rank, (case, str(tmp_path)), 2)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert ranks[0]["row"] == ranks[1]["row"]
    for found, share in zip(ranks, SHARES[case]):
        assert_same(found["row"], whole(train_means=WEIGHT))
        assert found["samples"] == [9, 4, 11, 6]
        assert found["own"] == len(share)


# What compute reads is what it depends on


def changed(change):
    """The metric after ``compute``, with a classifier and train means that are then changed, and what is right."""
    parts = [WEIGHT.clone(), BIAS.clone(), WEIGHT + 0.3]
    metric = see(CollapseMetrics(4, *parts[:2], train_means=parts[2]))
    metric.compute()
    change(*parts)
    return metric, see(CollapseMetrics(4, *parts[:2], train_means=parts[2])).compute()


@pytest.mark.parametrize("part", range(3), ids=["weight", "bias", "train means"])
def test_compute_sees_what_the_classifier_is_now(part):
    metric, right = changed(lambda *parts: parts[part].mul_(3))
    again = metric.compute()
    assert_same(again, right)
    assert metric.compute() is again


@pytest.mark.parametrize("kind", ["parameter", "array", "function", "data", "replaced"])
def test_any_kind_of_weight_is_read_again(kind):
    weight = torch.nn.Parameter(WEIGHT.clone())
    array, held = WEIGHT.numpy().copy(), [WEIGHT]
    given = {"array": array, "function": lambda: weight * 1, "replaced": lambda: held[0]}.get(kind, weight)
    metric = see(CollapseMetrics(4, given))
    first = metric.compute()
    assert metric.compute() is first
    with torch.no_grad():
        weight.mul_(3)
    weight.data = weight.data + 0
    array *= 3
    held[0] = 3 * WEIGHT
    assert_same(metric.compute(), see(CollapseMetrics(4, 3 * WEIGHT)).compute())


def test_a_weight_that_has_diverged_is_not_hidden_by_what_it_was():
    weight = WEIGHT.clone()
    metric = see(CollapseMetrics(4, weight))
    metric.compute()
    weight.fill_(math.nan)
    with pytest.raises(ValueError, match="weight has 28 non-finite values"):
        metric.compute()


@pytest.mark.parametrize("option", ["per_class", "present_only"])
def test_an_option_that_is_changed_is_seen(option):
    labels = Y.clamp(max=2)
    metric = CollapseMetrics(4)
    metric.update(H, labels)
    metric.compute()
    setattr(metric, option, True)
    row = metric.compute()
    assert row.per_class if option == "per_class" else not row["cdnv"].isnan()


def test_a_merged_or_loaded_state_is_seen():
    first, second = halves()
    first.compute()
    first.merge_state(second)
    assert_same(first.compute(), see(metric_of()).compute())
    second.persistent(True)
    first.compute()
    first.load_state_dict(second.state_dict())
    assert_same(first.compute(), second.compute())


def test_without_a_cache_nothing_is_kept():
    metric = see(metric_of(compute_with_cache=False))
    assert metric.compute() is not metric.compute()


def test_a_subclass_may_return_what_it_wants():
    class One(CollapseMetrics):
        def compute(self):
            return super().compute()["unc3"]

    weight = WEIGHT.clone()
    metric = see(One(4, weight))
    assert metric.compute() == pytest.approx(whole()["unc3"])
    weight.mul_(3)
    assert metric.compute() == pytest.approx(3**2 * whole()["unc3"])


# Second passes that are merged, saved, loaded and made again


def workers(count: int = 2):
    first = see(metric_of(train_means=WEIGHT))
    first.start_second_pass()
    return [pickled(first) for _ in range(count)]


def test_second_passes_over_parts_merge():
    one, two, three = workers(3)
    see(one, BATCHES[:1])
    see(two, BATCHES[1:3])
    see(three, BATCHES[3:])
    two.merge_state(three.metric_state)
    one.merge_state(two)
    assert_same(one.compute(), whole(train_means=WEIGHT))
    other = see(metric_of(train_means=WEIGHT), BATCHES[::-1])  # the same means but for rounding
    other.start_second_pass()
    one, two, _ = workers(3)
    see(one, BATCHES[:1])
    see(other, BATCHES[1:])
    one.merge_state(other)
    assert_same(one.compute(), whole(train_means=WEIGHT))


def test_a_fresh_metric_takes_over_a_second_pass():
    (one,) = workers(1)
    see(one)
    for pair in ((metric_of(train_means=WEIGHT), one), (pickled(one), metric_of(train_means=WEIGHT))):
        pair[0].merge_state(pair[1])
        assert_same(pair[0].compute(), whole(train_means=WEIGHT))


def test_a_first_pass_does_not_merge_with_a_second():
    for order in (1, -1):
        pair = [*workers(1), see(metric_of(train_means=WEIGHT))][::order]
        before = [{name: value.clone() for name, value in metric.metric_state.items()} for metric in pair]
        with pytest.raises(ValueError, match="second passes about different class means do not merge"):
            pair[0].merge_state(pair[1])
        for metric, states in zip(pair, before):
            assert all(torch.equal(v.nan_to_num(), metric.metric_state[n].nan_to_num()) for n, v in states.items())


def test_second_passes_of_different_classifiers_do_not_merge():
    one, two = see(metric_of()), see(metric_of(weight=WEIGHT + 1))
    one.start_second_pass()
    two.start_second_pass()
    with pytest.raises(ValueError, match="do not merge"):
        one.merge_state(two)


def test_other_widths_do_not_merge():
    narrow = CollapseMetrics(4)
    narrow.update(H[:, :5], Y)
    with pytest.raises(ValueError, match="features of 5 and 7 columns do not merge"):
        see(CollapseMetrics(4)).merge_state(narrow)


def saved(metric):
    metric.persistent(True)
    return metric.state_dict()


@pytest.mark.parametrize("part", range(5))
def test_a_saved_state_goes_on_where_it_was(part):
    """In the first pass, after it, in the second, after it; at any precision."""
    metric = see(metric_of(train_means=WEIGHT), BATCHES[: 2 if part == 0 else 4])
    if part >= 2:
        metric.start_second_pass()
        see(metric, BATCHES[: 2 if part == 2 else 4])
    state = saved(metric)
    loaded = metric_of(weight=None if part == 4 else WEIGHT, bias=None if part == 4 else BIAS, train_means=WEIGHT)
    see_twice(loaded, BATCHES[1:3])  # what it had seen is gone
    loaded.load_state_dict(state)
    if part == 0:
        see(loaded, BATCHES[2:])
    if part < 2:
        loaded.start_second_pass()
        see(loaded)
    if part == 2:
        see(loaded, BATCHES[2:])
    assert_same(loaded.compute(), whole(train_means=WEIGHT))


def test_a_loaded_state_is_a_copy():
    metric = see(metric_of())
    metric.start_second_pass()
    state = saved(see(metric, BATCHES[:2]))
    for _ in range(2):
        loaded = metric_of()
        loaded.load_state_dict(state)
        assert_same(see(loaded, BATCHES[2:]).compute(), whole())


def test_metrics_that_load_one_state_share_no_group():
    state = saved(see(metric_of()))
    metrics = {"first": metric_of(), "other": CollapseMetrics(4, 2 * WEIGHT + 1, BIAS)}
    for metric in metrics.values():
        metric.load_state_dict(state)
    collection = torchmetrics.MetricCollection(metrics)
    collection.update(H, Y)
    assert len(collection.compute_groups) == 2


def test_a_state_of_other_classes_is_not_loaded():
    with pytest.raises(ValueError, match="saved by a metric of 4 classes, not 5"):
        CollapseMetrics(5).load_state_dict(saved(see(metric_of())))


def test_a_state_that_was_saved_before_there_were_second_passes_in_it_starts_one():
    metric = see(metric_of())
    metric.start_second_pass()
    state = saved(see(metric))
    del state["about"], state["precision"]
    loaded = metric_of()
    loaded.load_state_dict(state)
    assert loaded.compute().undefined.keys() == LATE
    assert_same(see_second(loaded).compute(), whole())


def test_a_whole_second_pass_may_be_followed_by_another_of_a_trained_classifier():
    weight = WEIGHT.clone()
    metric = see_twice(CollapseMetrics(4, weight))
    weight.mul_(-1).add_(0.2)
    assert_same(metric.compute(), ncpipe.measure(H, Y, WEIGHT))  # of which the decisions are
    metric.start_second_pass()
    assert_same(see(metric).compute(), ncpipe.measure(H, Y, weight))


def test_half_precision_is_remembered_by_copies_that_are_merged_and_loaded():
    features = (3 + torch.eye(4, 7)[Y]).half()
    first = CollapseMetrics(4)
    first.update(features, Y)
    loaded = CollapseMetrics(4)
    loaded.load_state_dict(saved(first))
    loaded.start_second_pass()
    assert loaded.precision.item() == torch.finfo(torch.half).eps
    loaded.update(features * (1 + 1e-3), Y)  # rounded otherwise, in half precision
    assert loaded.compute()["nc1_pinv"] < 1e-4


# Classes that are not there


def test_classes_present_are_measured_alone():
    ids = torch.tensor([3, 7, 8, 9])[Y]
    weight, bias, means = torch.randn(10, 7).double(), torch.randn(10).double(), torch.randn(10, 7).double()
    metric = CollapseMetrics(10, weight, bias, train_means=means, present_only=True, per_class=True)
    metric.update(H, ids)
    once = metric.compute()
    assert once.undefined.keys() == {*LATE, "nc1_pinv_train_means"}
    metric.start_second_pass()
    metric.update(H, ids)
    row = metric.compute()
    assert row.undefined == {}
    options = {"train_means": means, "present_only": True, "per_class": True}
    same = ncpipe.measure(H, ids, weight, bias, **options)
    assert_same(row, same)
    np.testing.assert_allclose(row.per_class["variance"], same.per_class["variance"])
