"""The forward passes that measure checkpoints: statistics, splits, memory, several labels."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from networks_in_training import CPU, planned

import ncpipe
from ncpipe.collapse import Moment, collapse_metrics, layer_statistics, nc3_rows, signal_to_noise, subspace_alignment
from ncpipe.data import load, prepare
from ncpipe.features import extraction as features_module
from ncpipe.features.extraction import extract_features
from ncpipe.networks import Network, build_network
from ncpipe.networks.architectures.conv_stack import ConvStack
from ncpipe.networks.architectures.mlp import Mlp
from ncpipe.networks.architectures.resnet import ResNet
from ncpipe.networks.architectures.vgg import Vgg
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.records.traces import load_traces
from ncpipe.stages.collapse import collapse_rows
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors
from ncpipe.training.losses import classifier_decay, mean_loss, squared_error_penalties
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import new_network


@pytest.fixture
def trained(digits, tmp_path):
    run = planned(model={"name": "convnet", "depth": 2, "width": 4}, head__bias=True)
    train(run, digits, tmp_path, CPU)
    return run, tmp_path


def test_feature_pass_agrees_with_measuring_the_features(trained, digits):
    run, folder = trained
    measure = MeasureSpec.model_validate({"keep": {"layers": ["*"], "epochs": "last"}, "flatten": ["layer1"]})
    extract_features(run, measure, digits, folder, CPU)
    trace = load_traces(folder / "statistics.safetensors")["run"]
    assert trace.layers == ("layer1", "features")
    assert trace.times == [0, 3, 6]
    kept, _ = read_tensors(folder / "features.safetensors")
    assert set(kept) == {f"6/{layer}/{split}" for layer in trace.layers for split in ("train", "test")} | {
        "labels/train",
        "labels/test",
    }
    assert kept["6/layer1/train"].shape == (200, 4 * 8 * 8)
    network = new_network(run.spec, digits)
    network.load_state_dict(read_tensors(folder / "model.safetensors")[0])
    network.eval()
    data = open_batches(digits, "test", CPU.device)
    with torch.no_grad():
        logits = network(data.finished(data.images)).logits
    means = trace.statistics[Moment(6, "features", "train")].means
    weight, bias = trace.heads[6]
    direct = ncpipe.measure(
        kept["6/features/test"], kept["labels/test"], weight.float(), bias.float(), train_means=means
    )
    stored = collapse_metrics(trace.statistics[Moment(6, "features", "test")], weight, bias, train_means=means)
    assert direct == pytest.approx(stored, rel=1e-6, nan_ok=True)
    assert stored["accuracy"] == pytest.approx(float((logits.argmax(1) == data.labels).float().mean()))
    scalars = trace.scalars[6, "test"]
    assert scalars["loss"] == pytest.approx(float(mean_loss(run.spec.loss, logits, data.labels)), rel=1e-5)


def test_parts_of_the_squared_error_sum_to_the_penalised_loss(trained, digits):
    run, folder = trained
    extract_features(run, MeasureSpec(), digits, folder, CPU)
    trace = load_traces(folder / "statistics.safetensors")["run"]
    ridge, bias_decay = squared_error_penalties(run.spec, digits.num_classes)
    for epoch in trace.times:
        weight, bias = trace.heads[epoch]
        scalars = trace.scalars[epoch, "train"]
        penalty = (ridge * weight.square().sum() + bias_decay * bias.square().sum()) / 2
        parts = scalars["loss_nc1"] + scalars["loss_nc23"] + scalars["loss_perp"]
        assert parts == pytest.approx(scalars["loss"] + float(penalty), rel=1e-5)
        assert parts == pytest.approx(scalars["loss_penalised"], rel=1e-10)
        assert set(trace.scalars[epoch, "test"]) == {"loss"}
        assert trace.statistics[Moment(epoch, "features")].within_products is None


def test_the_penalised_loss_counts_the_mean_of_the_outputs_as_the_theory(digits, tmp_path):
    run = planned((1,), epochs=1, loss__scaling="mean")
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    scalars = load_traces(tmp_path / "statistics.safetensors")["run"].scalars[1, "train"]
    parts = scalars["loss_nc1"] + scalars["loss_nc23"] + scalars["loss_perp"]
    assert parts == pytest.approx(scalars["loss_penalised"], rel=1e-10)


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_signal_to_noise_is_of_the_last_features_and_of_squared_error(loss, digits, tmp_path):
    run = planned((1,), epochs=1, loss__name=loss)
    train(run, digits, tmp_path, CPU)
    kept = MeasureSpec.model_validate({"keep": {"layers": ["features"]}})
    extract_features(run, kept, digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    features, _ = read_tensors(tmp_path / "features.safetensors")
    vectors, labels = features["1/features/train"], features["labels/train"]
    expected = signal_to_noise(layer_statistics(vectors, labels, 10, products=True))
    rows = {row["metric"]: row for row in collapse_rows("net", "run", trace) if row["split"] == "train"}
    if loss == "ce":
        assert not {"snr_min", "snr_max", "loss_penalised"} & set(rows)
        return
    for name, value in expected.items():
        assert rows[name]["value"] == pytest.approx(value, rel=1e-8, nan_ok=True)
        assert rows[name]["reason"] == expected.undefined.get(name)
        assert rows[name]["layer"] == "features"


def test_more_units_than_samples_leave_no_signal_to_noise(digits, tmp_path):
    run = planned((1,), epochs=1, model__width=256)
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    rows = [row for row in collapse_rows("net", "run", trace) if row["metric"] in ("snr_min", "snr_max")]
    assert len(rows) == 2
    for row in rows:
        assert math.isnan(row["value"])
        assert row["reason"] == "no scatter within the classes in a direction of the class means"


def test_weights_between_layers_stand_at_the_layer_they_read(digits, tmp_path):
    run = planned((0, 2), epochs=2, model__depth=3, head__hidden=1)
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    below = run.layers[:-1]
    assert set(trace.weights) == {(time, layer) for time in (0, 2) for layer in below}
    first, last = (read_tensors(tmp_path / f"checkpoints/epoch{t:06d}.safetensors")[0] for t in (0, 2))
    name = "stages.layer2.0.weight"
    assert torch.equal(trace.weights[0, "layer1"], first[name])
    assert torch.equal(trace.weights[2, "layer1"], last[name])
    assert not torch.equal(first[name], last[name])
    assert torch.equal(trace.weights[2, "head_input"], last["hidden.features.0.weight"])
    rows = {
        (row["layer"], row["split"], row["metric"]): row["value"]
        for row in collapse_rows("net", "run", trace)
        if row["time"] == 2
    }
    for split in ("train", "test"):
        for layer in below:
            means = trace.statistics[Moment(2, layer, split)].means
            weight = trace.weights[2, layer]
            assert rows[layer, split, "nc3_rows"] == pytest.approx(nc3_rows(weight, means), rel=1e-10)
            expected = subspace_alignment(weight, means)
            assert rows[layer, split, "subspace_alignment"] == pytest.approx(expected, rel=1e-10)


def test_the_kernel_that_reads_a_map_is_summed_over_its_positions(trained, digits):
    run, folder = trained
    extract_features(run, MeasureSpec(), digits, folder, CPU)
    trace = load_traces(folder / "statistics.safetensors")["run"]
    kernel = read_tensors(folder / "model.safetensors")[0]["stages.features.0.0.weight"]
    torch.testing.assert_close(trace.weights[6, "layer1"], kernel.sum(dim=(2, 3)), rtol=0, atol=0)
    # away from borders it is the map between averages over positions
    maps = torch.randn(1, 4, 1, 1).expand(-1, -1, 9, 9)
    inner = torch.nn.functional.conv2d(maps, kernel).mean(dim=(2, 3))
    torch.testing.assert_close(inner, maps.mean(dim=(2, 3)) @ trace.weights[6, "layer1"].T)
    extract_features(run, MeasureSpec(flatten=("layer1",)), digits, folder, CPU)
    assert not load_traces(folder / "statistics.safetensors")["run"].weights


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        (Mlp(name="mlp", depth=3, width=8), ["layer1", "layer2"]),
        (ConvStack(name="conv_stack", depth=4, width=8), ["layer1", "layer2", "layer3"]),
        (ResNet(name="resnet18", width=8), []),
        (Vgg(name="vgg11_bn", width=8), []),
    ],
)
def test_layers_that_one_matrix_reads(model, layers):
    network = build_network(model, HeadSpec(), (1, 16, 16), 10, 0)
    weights = network.reading_weights()
    assert list(weights) == layers
    for weight in weights.values():
        assert weight.shape == (8, 8)
    projected = build_network(model, HeadSpec(feature_dim=5, hidden=2), (1, 16, 16), 10, 0).reading_weights()
    assert list(projected) == [*layers[:-1], "head_input", "head1"]


def test_sets_of_tags_are_decoded_by_the_nearest_training_feature(tmp_path):
    digits = {"name": "digits", "samples_per_class": 10, "test_samples_per_class": 5, "pairs": 3, "test_pairs": 2}
    run = planned((1,), epochs=1, dataset=digits, loss={"name": "pick_all_labels"})
    prepare(run.spec.dataset, tmp_path / "data")
    data = load(tmp_path / "data")
    train(run, data, tmp_path, CPU)
    kept = MeasureSpec.model_validate({"keep": {"layers": ["features"]}})
    extract_features(run, kept, data, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    kept, _ = read_tensors(tmp_path / "features.safetensors")
    unit = {s: torch.nn.functional.normalize(kept[f"1/features/{s}"].double()) for s in ("train", "test")}
    nearest = (unit["test"] @ unit["train"].T).argmax(dim=1)
    expected = float((kept["labels/train"][nearest] == kept["labels/test"]).double().mean())
    assert 0 < expected < 1
    assert trace.scalars[1, "test"]["tag_sets_1nn"] == expected
    assert "tag_sets_1nn" not in trace.scalars[1, "train"]


@pytest.mark.parametrize(
    ("changes", "decay"),
    [
        ({}, 0.01),
        ({"optimizer__decay": "head"}, 0.01),
        ({"optimizer__decay": "weights"}, 0.01),
        ({"optimizer__name": "adam"}, 0.01),
        ({"optimizer__weight_decay": 0.0}, None),
        ({"optimizer__name": "adamw"}, None),
        ({"head__fixed_etf": True}, None),
    ],
)
def test_stationarity_is_recorded_where_the_classifier_is_penalised(changes, decay, digits, tmp_path):
    run = planned((0, 1), epochs=1, **changes)
    assert classifier_decay(run.spec) == decay
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    assert "classifier_stationarity" not in trace.scalars[1, "test"]
    if decay is None:
        assert "classifier_stationarity" not in trace.scalars[1, "train"]
        return
    network = new_network(run.spec, digits)
    network.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    network.eval()
    data = open_batches(digits, "train", CPU.device)
    loss = mean_loss(run.spec.loss, network(data.finished(data.images)).logits, data.labels)
    weight = network.head.weight
    (gradient,) = torch.autograd.grad(loss + decay / 2 * weight.square().sum(), weight)
    expected = float(gradient.norm() / (decay * weight.detach().norm()))
    assert trace.scalars[1, "train"]["classifier_stationarity"] == pytest.approx(expected, rel=1e-4)
    rows = [row for row in collapse_rows("net", "run", trace) if row["metric"] == "classifier_stationarity"]
    assert [(row["split"], row["layer"], row["time"]) for row in rows] == [("train", "features", t) for t in (0, 1)]
    assert rows[1]["value"] == trace.scalars[1, "train"]["classifier_stationarity"]


@pytest.mark.parametrize("held", [{"layer1"}, set()], ids=["one layer held", "no layer held"])
def test_features_beyond_the_memory_budget_take_a_second_forward_pass(trained, digits, monkeypatch, held):
    run, folder = trained
    extract_features(run, MeasureSpec(), digits, folder, CPU)
    whole = load_traces(folder / "statistics.safetensors")["run"]
    monkeypatch.setattr(features_module, "MEMORY_BUDGET", 0)
    monkeypatch.setattr(features_module, "EVALUATION_BATCH", 64)
    kept = MeasureSpec.model_validate({"keep": {"layers": sorted(held), "epochs": "all"}})
    forwards = Counter()
    forward = Network.features
    monkeypatch.setattr(Network, "features", lambda net, x: forwards.update([len(x)]) or forward(net, x))
    extract_features(run, kept if held else MeasureSpec(), digits, folder, CPU)
    train, test = len(digits.train.labels), len(digits.test.labels)
    assert sum(size * count for size, count in forwards.items()) == 2 * len(whole.times) * (train + test)
    parts = load_traces(folder / "statistics.safetensors")["run"]
    assert parts.scalars[6, "train"] == pytest.approx(whole.scalars[6, "train"], rel=1e-6)
    for moment, statistics in whole.statistics.items():
        for name, value in statistics.tensors().items():
            torch.testing.assert_close(parts.statistics[moment].tensors()[name], value, rtol=1e-5, atol=1e-6)


def test_the_smallest_layers_are_held(monkeypatch):
    monkeypatch.setattr(features_module, "MEMORY_BUDGET", 10)
    assert features_module.within_budget({"a": 6, "b": 5, "c": 3}, set()) == {"b", "c"}
    assert features_module.within_budget({"a": 6, "b": 5, "c": 3}, {"a"}) == {"a", "c"}
    assert features_module.within_budget({"a": 60, "b": 50}, {"a"}) == {"a"}


def test_a_damaged_checkpoint_is_named(trained, digits):
    run, folder = trained
    path = folder / "checkpoints/epoch000003.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="epoch000003"):
        extract_features(run, MeasureSpec(), digits, folder, CPU)


def test_train_mode_uses_the_statistics_of_each_batch(trained, digits):
    run, folder = trained
    measure = MeasureSpec.model_validate(
        {"splits": ["train", "test", "train_mode"], "keep": {"layers": ["features"]}}
    )
    extract_features(run, measure, digits, folder, CPU)
    trace = load_traces(folder / "statistics.safetensors")["run"]
    kept, _ = read_tensors(folder / "features.safetensors")
    network = new_network(run.spec, digits)
    network.load_state_dict(read_tensors(folder / "model.safetensors")[0])
    network.train()
    batches = open_batches(digits, "train", CPU.device).shuffled(
        run.spec.batch_size, run.spec.augment, [run.spec.seed], 0
    )
    with torch.no_grad():
        passes = [(network.features(images[0])[0]["features"], labels[0]) for images, labels in batches]
    features, labels = (torch.cat(parts) for parts in zip(*passes))
    torch.testing.assert_close(kept["6/features/train_mode"], features)
    assert torch.equal(kept["labels/train_mode"], labels)
    modes = {split: trace.statistics[Moment(6, "features", split)].means for split in ("train", "train_mode")}
    assert (modes["train"] - modes["train_mode"]).abs().max() > 1e-3
    weight, bias = trace.heads[6]
    stored = collapse_metrics(trace.statistics[Moment(6, "features", "train_mode")], weight, bias)
    direct = ncpipe.measure(features, labels, weight.float(), bias.float())
    assert direct == pytest.approx(stored, rel=1e-5, nan_ok=True)
    rows = [row for row in collapse_rows("net", "run", trace) if row["split"] == "train_mode"]
    assert {row["metric"] for row in rows} >= {"nc1_pinv", "loss"}
    # measured last, it leaves the other splits as they are without it
    extract_features(run, MeasureSpec(), digits, folder, CPU)
    alone = load_traces(folder / "statistics.safetensors")["run"]
    for moment, statistics in alone.statistics.items():
        assert torch.equal(statistics.means, trace.statistics[moment].means)


def test_a_missing_checkpoint_is_no_result(trained, digits):
    run, folder = trained
    (folder / "checkpoints/epoch000003.safetensors").unlink()
    with pytest.raises(UserError, match=r"no epoch000003.safetensors in .*; delete .* and run again"):
        extract_features(run, MeasureSpec(), digits, folder, CPU)
