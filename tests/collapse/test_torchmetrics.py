"""``CollapseMetrics`` among torchmetrics' wrappers, under its tests of a metric, in lightning, on the meta device."""

from __future__ import annotations

import pytest
import torch
from metric_tester import check_class, check_differentiability, check_precision, check_ranks
from test_streaming import (
    BATCHES,
    BIAS,
    LATE,
    WEIGHT,
    H,
    Y,
    assert_same,
    metric_of,
    see,
    see_twice,
    whole,
)

import ncpipe
from ncpipe import CollapseMetrics

torchmetrics = pytest.importorskip("torchmetrics")


# The meta device


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = torch.nn.Linear(7, 4, dtype=torch.float64)
        self.metric = CollapseMetrics(4, lambda: self.fc.weight, lambda: self.fc.bias)


@pytest.mark.parametrize("reset", [False, True])
def test_a_metric_made_on_the_meta_device_measures(reset):
    with torch.device("meta"):
        net = Net()
    assert net.metric.moments.is_meta
    with pytest.raises(ValueError, match=r"the metric on meta: metric.to_empty\(device='cpu'\)"):
        net.metric.update(H, Y)
    net = net.to_empty(device="cpu")
    with torch.no_grad():
        net.fc.weight.copy_(WEIGHT)
        net.fc.bias.copy_(BIAS)
    if reset:
        net.metric.reset()
    assert_same(see_twice(net.metric).compute(), whole())
    alone = CollapseMetrics(4).to("meta").to_empty(device="cpu")
    assert_same(see_twice(alone).compute(), ncpipe.measure(H, Y))


def test_a_parameter_that_to_empty_has_replaced_is_named():
    with torch.device("meta"):
        layer = torch.nn.Linear(7, 4)
        metric = CollapseMetrics(4, layer.weight)
    layer.to_empty(device="cpu")
    with pytest.raises(ValueError, match=r"weight is on meta.* is passed as a function that returns it"):
        see(metric.to_empty(device="cpu")).compute()


# What torchmetrics does with metrics


def test_values_are_scalars_in_double_precision():
    for row in (see(metric_of()).compute(), metric_of()(H, Y)):
        assert {(type(value), value.shape, value.dtype) for value in row.values()} == {
            (torch.Tensor, torch.Size(), torch.float64)
        }
        assert isinstance(row, dict)
        assert row.undefined.keys() == LATE
        assert row["cdnv"] == pytest.approx(whole()["cdnv"])


@pytest.mark.filterwarnings("ignore:Metric `CollapseMetrics`")
def test_a_tracker_keeps_the_best_of_every_value():
    tracker = torchmetrics.MetricTracker(CollapseMetrics(4), maximize=False)
    for scale in (1, 3, 2):
        tracker.increment()
        tracker.update(H + scale * torch.eye(4, 7, dtype=torch.float64)[Y], Y)
    rows = tracker.compute_all()
    assert rows["cdnv"].shape == (3,)
    best, step = tracker.best_metric(return_step=True)
    assert best["cdnv"] == rows["cdnv"].min()
    assert step["cdnv"] == 1
    for metric in (CollapseMetrics(4, WEIGHT)["unc3"], One(4, WEIGHT)):
        tracker = torchmetrics.MetricTracker(metric, maximize=False)
        tracker.increment()
        tracker.update(H, Y)
        assert tracker.best_metric() == pytest.approx(whole()["unc3"])


def test_a_bootstrap_is_of_every_value():
    metric = CollapseMetrics(4, present_only=True)
    wrapper = torchmetrics.BootStrapper(metric, num_bootstraps=5, raw=True, quantile=0.5)
    wrapper.update(H.repeat(5, 1), Y.repeat(5))
    found = wrapper.compute()
    raw = torch.stack([copy.compute()["cdnv"] for copy in wrapper.metrics])
    assert torch.equal(found["raw"]["cdnv"], raw)
    assert found["mean"]["cdnv"] == pytest.approx(raw.mean().item())
    assert found["std"]["cdnv"] == pytest.approx(raw.std().item())
    assert found["quantile"]["cdnv"] == raw.median()
    one = torchmetrics.BootStrapper(metric["cdnv"], num_bootstraps=3)
    one.update(H, Y)
    assert one.compute()["mean"].shape == ()


def test_minimum_and_maximum_are_of_one_value():
    wrapper = torchmetrics.MinMaxMetric(CollapseMetrics(4)["cdnv"])
    values = [wrapper(k * H + torch.eye(4, 7, dtype=torch.float64)[Y], Y)["raw"] for k in (1, 3)]
    assert wrapper.compute()["max"] >= max(values)
    whole_row = torchmetrics.MinMaxMetric(CollapseMetrics(4))
    whole_row.update(H, Y)
    with pytest.raises(RuntimeError, match="should be a float or scalar tensor"):
        whole_row.compute()


def test_a_running_window_is_that_of_its_batches():
    wrapper = torchmetrics.wrappers.Running(CollapseMetrics(4, WEIGHT), window=2)
    for rows in BATCHES:
        wrapper.update(H[rows], Y[rows])
    rows = torch.cat(BATCHES[2:])
    assert_same(wrapper.compute(), see(CollapseMetrics(4, WEIGHT), [rows]).compute())


def test_metrics_are_compared_by_arithmetic():
    difference = CollapseMetrics(4)["cdnv"] - CollapseMetrics(4, WEIGHT)["cdnv"]
    difference.update(H, Y)
    assert difference.compute() == 0
    less = 1 - CollapseMetrics(4)
    less.update(H, Y)
    assert less.compute()["cdnv"] == 1 - see(CollapseMetrics(4)).compute()["cdnv"]


def test_a_metric_is_drawn():
    pyplot = pytest.importorskip("matplotlib.pyplot")
    metric = see(metric_of())
    rows = [metric.compute(), metric(H, Y)]
    for drawn in (None, rows[0], rows):
        figure, axes = metric.plot(drawn)
        assert axes.get_legend_handles_labels()[1] == list(rows[0])
        pyplot.close(figure)


def test_a_script_passes_over_the_metric():
    torch.jit.script(metric_of())


class Logs:
    """What lightning's ``log_dict`` takes of a mapping: numbers, or tensors of one element that it adds up."""

    def __init__(self):
        self.sums = {}

    def log_dict(self, dictionary, batch_size=1):
        for name, value in dictionary.items():
            assert isinstance(name, str)
            assert isinstance(value, torch.Tensor)
            assert value.numel() == 1
            kept = value.clone().detach().squeeze()
            self.sums[name] = self.sums.get(name, torch.tensor(0.0)) + kept * batch_size


def test_lightning_logs_what_compute_returns():
    metric, module = see(metric_of()), Logs()
    module.log_dict(metric.compute())
    module.log_dict(metric(H, Y))
    module.log_dict(torchmetrics.MetricCollection([metric_of()], prefix="train/")(H, Y))
    assert {"cdnv", "train/cdnv"} <= module.sums.keys()
    assert module.sums["cdnv"] == pytest.approx(2 * whole()["cdnv"])


# torchmetrics' tests of a metric

K, D = 5, 7
PREDS = torch.randn(4, 32, D, generator=torch.Generator().manual_seed(0)) + 1
TARGET = torch.arange(32).remainder(K).expand(4, 32)
W = torch.randn(K, D, generator=torch.Generator().manual_seed(1))


def reference(features, labels):
    row = dict(ncpipe.measure(features, labels, W, num_classes=K)) | dict.fromkeys(LATE, float("nan"))
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in row.items()}


def of_all(**options):
    return CollapseMetrics(K, W, **options)


class One(CollapseMetrics):
    def compute(self):
        return super().compute()["unc3"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("on_step", [False, True])
def test_the_metric_is_what_torchmetrics_asks_of_one(on_step):
    check_class(of_all, PREDS, TARGET, reference, on_step=on_step)


@pytest.mark.thorough
@pytest.mark.skipif(
    not (torch.distributed.is_available() and torch.distributed.is_gloo_available()),
    reason="this PyTorch has no gloo",
)
@pytest.mark.parametrize("on_step", [False, True])
def test_ranks_give_what_torchmetrics_asks(on_step, tmp_path):
    batches = {"preds": PREDS, "target": TARGET}
    check_ranks(tmp_path, 2, make=of_all, reference=reference, on_step=on_step, **batches)


@pytest.mark.parametrize("metric", [lambda: One(K, W), lambda: CollapseMetrics(K, W)["unc3"]], ids=["own", "item"])
@pytest.mark.parametrize("dtype", [torch.half, torch.bfloat16, torch.double])
def test_features_of_any_precision_have_a_value(metric, dtype):
    check_precision(metric(), PREDS, TARGET, dtype)


def test_values_have_no_gradient():
    check_differentiability(One(K, W), PREDS, TARGET)
