"""Training: losses, decayed groups, schedules, batches, exact resumption, divergence, feature passes."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import nn

import ncpipe
from ncpipe.collapse import Moment, collapse_metrics, load_traces
from ncpipe.errors import UserError
from ncpipe.files import read_json, read_tensors, write_text
from ncpipe.networks import Network
from ncpipe.study.spec import AugmentSpec, LossSpec, MeasureSpec, NetworkSpec, OptimizerSpec, ScheduleSpec
from ncpipe.study.study import NetworkRun, Study
from ncpipe.study.sweep import laid_over
from ncpipe.tables.collapse import collapse_rows
from ncpipe.tables.records import read_table
from ncpipe.training import features as features_module
from ncpipe.training.batches import ImageBatches, augmented
from ncpipe.training.features import extract_features
from ncpipe.training.losses import (
    classifier_decay,
    classifier_stationarity,
    loss_slopes,
    mean_loss,
    squared_error_penalties,
)
from ncpipe.training.optimization import build_optimizer, learning_rate
from ncpipe.training.train import Trainer, new_network, train

CPU = torch.device("cpu")
NETWORK = {
    "dataset": {"name": "digits", "samples_per_class": 20, "test_samples_per_class": 10},
    "model": {"name": "mlp", "depth": 2, "width": 16},
    "loss": {"name": "mse"},
    "optimizer": {"lr": 0.05, "weight_decay": 1e-2},
    "epochs": 6,
    "batch_size": 32,
}


def planned(measured: tuple[int, ...] = (0, 3, 6), **changes: object) -> NetworkRun:
    spec = NetworkSpec.model_validate(laid_over(NETWORK, {k.replace("__", "."): v for k, v in changes.items()}))
    return NetworkRun("run", spec, "digits", measured, tuple(spec.layers()))


def content(folder: Path) -> dict[str, object]:
    """What a run wrote, without wall-clock times."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "timings.parquet")
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_losses_follow_their_definitions():
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 1, 0])
    one_hot = torch.eye(3, dtype=torch.float64)[labels]
    half = mean_loss(LossSpec(name="mse"), logits, labels)
    assert half == pytest.approx(float((logits - one_hot).square().sum()) / 10)
    mean = mean_loss(LossSpec(name="mse", scaling="mean"), logits, labels)
    assert mean == pytest.approx(float(nn.MSELoss()(logits, one_hot)))
    assert mean == pytest.approx(2 / 3 * float(half))  # 2/K, the factor of the matched penalties
    ce = mean_loss(LossSpec(name="ce"), logits, labels)
    assert ce == pytest.approx(float(-logits.log_softmax(1)[range(5), labels].mean()))


@pytest.mark.parametrize(
    ("group", "decayed"),
    [
        ("all", {"stages", "head.weight", "head.bias"}),
        ("weights", {"head.weight"}),
        ("head", {"head.weight", "head.bias"}),
    ],
)
def test_weight_decay_reaches_its_group_only(group, decayed, digits):
    network = new_network(planned(head__bias=True).spec, digits)
    optimizer = build_optimizer(OptimizerSpec(lr=0.1, weight_decay=0.5, decay=group), network)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in network.named_parameters():
        expected = name in decayed or (name.startswith("stages") and "stages" in decayed)
        expected = expected or (group == "weights" and parameter.ndim >= 2)
        assert decays[id(parameter)] == (0.5 if expected else 0.0), name


def test_schedules():
    step = [learning_rate(1.0, ScheduleSpec(name="step"), e, 9) for e in range(1, 10)]
    assert step == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    cosine = [learning_rate(1.0, ScheduleSpec(name="cosine"), e, 4) for e in range(1, 5)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)])
    warm = [learning_rate(1.0, ScheduleSpec(name="constant", warmup_epochs=3), e, 9) for e in range(1, 6)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own(digits):
    data = ImageBatches(digits.train.images, torch.arange(200), digits.mean, digits.std, CPU)
    orders = [torch.cat([labels for _, labels in data.shuffled(32, AugmentSpec(), 1, epoch)]) for epoch in (1, 1, 2)]
    assert all(sorted(order.tolist()) == list(range(200)) for order in orders)
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    sizes = [len(labels) for _, labels in data.shuffled(33, AugmentSpec(), 1, 1)]
    assert max(sizes) - min(sizes) <= 1


def test_images_are_normalised_by_the_training_set(digits):
    data = ImageBatches(digits.train.images, digits.train.labels, digits.mean, digits.std, CPU)
    images = torch.cat([batch for batch, _ in data.in_order(64)])
    assert float(images.mean()) == pytest.approx(0, abs=1e-5)
    assert float(images.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_augmentation_flips_and_shifts_whole_images():
    images = torch.arange(2 * 16, dtype=torch.uint8).reshape(2, 1, 4, 4).repeat(50, 1, 1, 1)
    generator = torch.Generator().manual_seed(0)
    flipped = augmented(images, AugmentSpec(flip=True), generator)
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 20 < int(same.sum()) < 80
    cropped = augmented(images + 1, AugmentSpec(crop=1), generator)
    shifts = [torch.roll(nn.functional.pad(images + 1, [1] * 4), (dy, dx), (2, 3))[..., 1:5, 1:5]
              for dy in (-1, 0, 1) for dx in (-1, 0, 1)]  # fmt: skip
    matches = torch.stack([(cropped == shifted).flatten(1).all(1) for shifted in shifts])
    assert matches.any(0).all()
    assert (matches.sum(1) > 0).all()


def test_training_writes_its_records_and_reaches_low_loss(digits, tmp_path):
    run = planned((0, 5, 40), epochs=40)
    train(run, digits, tmp_path, CPU)
    record = read_json(tmp_path / "spec.json")
    assert record["status"] == "done"
    assert record["final_epoch"] == 40
    assert record["parameters"] == 64 * 16 + 16 * 16 + 4 * 16 + 160 + 10
    history = read_table(tmp_path / "history.parquet").to_pandas()
    final = history.query("time == 40").set_index("quantity")["value"]
    assert final["train_accuracy"] > 0.97
    assert final["test_accuracy"] > 0.85
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == [
        f"epoch{e:06d}.safetensors" for e in (0, 5, 40)
    ]
    last, _ = read_tensors(tmp_path / "checkpoints/epoch000040.safetensors")
    model, _ = read_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(model[name], last[name]) for name in model)
    assert not (tmp_path / ".state").exists()


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it."""


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_killed_run_resumes_to_the_same_bytes(optimizer, digits, tmp_path, monkeypatch):
    run = planned(tuple(range(7)), optimizer__name=optimizer, optimizer__lr=0.01, augment__flip=True)
    train(run, digits, tmp_path / "whole", CPU)
    original = Trainer.epoch
    for deadly in (2, 5):

        def epoch(self, number, deadly=deadly):
            if number == deadly:
                raise Killed
            return original(self, number)

        monkeypatch.setattr(Trainer, "epoch", epoch)
        with pytest.raises(Killed):
            train(run, digits, tmp_path / "killed", CPU)
    monkeypatch.setattr(Trainer, "epoch", original)
    seen = []
    monkeypatch.setattr(Trainer, "epoch", lambda self, number: (seen.append(number), original(self, number))[1])
    train(run, digits, tmp_path / "killed", CPU)
    assert seen == [5, 6]
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_kill_between_the_last_epoch_and_the_outputs_costs_nothing(digits, tmp_path, monkeypatch):
    run = planned()
    train(run, digits, tmp_path / "whole", CPU)
    monkeypatch.setattr("ncpipe.training.train.write_json", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        train(run, digits, tmp_path / "killed", CPU)
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "epoch", lambda *_: pytest.fail("trained again"))
    train(run, digits, tmp_path / "killed", CPU)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_state_of_other_settings_or_damaged_state_is_not_resumed(digits, tmp_path, monkeypatch):
    def interrupted(run):
        monkeypatch.setattr(Trainer, "publish", lambda self: None)
        train(run, digits, tmp_path / "run", CPU)
        monkeypatch.undo()

    whole = planned()
    train(whole, digits, tmp_path / "whole", CPU)
    interrupted(planned(optimizer__lr=0.01))
    assert (tmp_path / "run/.state/state.safetensors").exists()
    train(whole, digits, tmp_path / "run", CPU)
    assert content(tmp_path / "run") == content(tmp_path / "whole")
    interrupted(whole)
    write_text(tmp_path / "run/.state/state.safetensors", "half-written")
    train(whole, digits, tmp_path / "run", CPU)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_sigkill_of_the_real_command_is_survived(tmp_path):
    study = {
        "study": {"name": "kill", "results": str(tmp_path / "results")},
        "datasets": {"base": NETWORK["dataset"]},
        "networks": {"base": {k: v for k, v in NETWORK.items() if k != "dataset"} | {"epochs": 400}},
        "measure": {"epochs": [0, 100, 200, 300]},
        "ufm": {"matched": []},
    }
    config = tmp_path / "study.json"
    config.write_text(json.dumps(study))
    planned_study = Study.read(config)
    run_id, dataset_id = next(iter(planned_study.networks)), next(iter(planned_study.datasets))
    command = [sys.executable, "-m", "ncpipe"]
    subprocess.run([*command, "dataset", str(config), dataset_id], check=True)
    folder = planned_study.layout.run(run_id)
    for epoch in (100, 200):
        process = subprocess.Popen([*command, "train", str(config), run_id], stderr=subprocess.DEVNULL)
        while not (folder / f".state/checkpoints/epoch{epoch:06d}.safetensors").exists():
            assert process.poll() is None
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    subprocess.run([*command, "train", str(config), run_id], check=True, stderr=subprocess.DEVNULL)
    resumed = content(folder)
    subprocess.run(["rm", "-r", str(folder)], check=True)
    subprocess.run([*command, "train", str(config), run_id], check=True, stderr=subprocess.DEVNULL)
    assert resumed == content(folder)


def test_divergence_is_a_result(digits, tmp_path):
    run = planned((0, 1, 2, 6), optimizer__lr=1e12, model__batch_norm=False)
    train(run, digits, tmp_path, CPU)
    record = read_json(tmp_path / "spec.json")
    assert record["status"] == "diverged"
    assert record["final_epoch"] < 6
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    assert trace.times == [0]


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
    data = ImageBatches(digits.test.images, digits.test.labels, digits.mean, digits.std, CPU)
    with torch.no_grad():
        logits = network(data.normalized(data.images))
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
        assert set(trace.scalars[epoch, "test"]) == {"loss"}
        assert trace.statistics[Moment(epoch, "features")].within_products is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (0.01, 0.01)),
        ({"loss__scaling": "mean"}, (0.05, 0.05)),
        ({"optimizer__decay": "weights"}, (0.01, 0.0)),
        ({"loss__name": "ce"}, None),
        ({"optimizer__name": "adamw"}, None),
        ({"head__fixed_etf": True, "head__bias": False}, None),
    ],
)
def test_penalties_of_the_split_follow_the_settings(changes, expected):
    spec = planned(optimizer__weight_decay=0.01, **changes).spec
    assert squared_error_penalties(spec, 10) == (None if expected is None else pytest.approx(expected))


LOSSES = [LossSpec(name="mse"), LossSpec(name="mse", scaling="mean"), LossSpec(name="ce")]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: f"{loss.name} {loss.scaling}")
def test_stationarity_of_the_classifier_is_the_gradient_of_the_penalised_loss(loss):
    torch.manual_seed(0)
    features, labels = torch.randn(30, 4, dtype=torch.float64), torch.arange(30) % 3
    weight = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    bias, decay = torch.randn(3, dtype=torch.float64), 0.1

    def penalised():
        return mean_loss(loss, features @ weight.T + bias, labels) + decay / 2 * weight.square().sum()

    def residual():
        slopes = loss_slopes(loss, features @ weight.detach().T + bias, labels)
        return classifier_stationarity(slopes.T @ features / 30, weight.detach(), decay)

    (gradient,) = torch.autograd.grad(penalised(), weight)
    assert residual() == pytest.approx(float(gradient.norm() / (decay * weight.detach().norm())), rel=1e-12)
    assert residual() > 0.1
    solver = torch.optim.LBFGS([weight], max_iter=500, tolerance_grad=1e-12, tolerance_change=0)

    def closure():
        solver.zero_grad()
        value = penalised()
        value.backward()
        return value

    solver.step(closure)
    assert residual() < 1e-6


def test_stationarity_is_undefined_at_zero_and_where_training_diverged():
    ones = torch.ones(2, 3, dtype=torch.float64)
    assert classifier_stationarity(-0.1 * ones, ones, 0.1) == 0
    assert classifier_stationarity(ones, 0 * ones, 0.1) is None
    assert classifier_stationarity(ones / 0, ones, 0.1) is None


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
    data = ImageBatches(digits.train.images, digits.train.labels, digits.mean, digits.std, CPU)
    loss = mean_loss(run.spec.loss, network(data.normalized(data.images)), data.labels)
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
