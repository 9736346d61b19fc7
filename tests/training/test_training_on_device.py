"""Training and measuring on a stand-in accelerator: as on the CPU, with nothing mixed and no wait inside an epoch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks_in_training import CPU, planned, stored
from stand_in import NAME, stand_in

from ncpipe.features.extraction import extract_features
from ncpipe.records.traces import load_traces
from ncpipe.records.writing import read_table
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.system.files import read_json
from ncpipe.training.batches import ImageBatches
from ncpipe.training.computation import Computation
from ncpipe.training.preemption import StopRequest
from ncpipe.training.settings import AugmentSpec, measured_times
from ncpipe.training.streams import StreamedBatches
from ncpipe.training.trainer import Trainer

DEVICE = Computation(torch.device(NAME, 0))
NETS = {
    "mlp": {"model": {"name": "mlp", "depth": 2, "width": 16}},
    "convnet": {"model": {"name": "convnet", "depth": 2, "width": 4}},
    "resnet18": {"model": {"name": "resnet18", "width": 4}, "augment": {"flip": True, "crop": 1}},
    "feature penalty": {"loss": {"name": "ce"}, "head": {"feature_decay": 1e-3}, "optimizer.name": "adam"},
}


@pytest.fixture(autouse=True)
def device():
    with stand_in() as waits:
        yield waits


@pytest.mark.parametrize("changes", NETS.values(), ids=NETS)
def test_an_epoch_waits_for_the_device_at_its_end_alone(changes, digits, tmp_path, device):
    trainer = Trainer([planned(**changes)], [tmp_path], digits, DEVICE)
    trainer._train_steps(1, StopRequest(), lambda step: None)  # which makes the optimiser's buffers
    device.count = 0
    trainer._train_steps(2, StopRequest(), lambda step: None)
    assert device.count == 0
    trainer.epoch(StopRequest())
    assert 0 < device.count <= 3  # sums of the training and of the test data, and whether weights are finite


def test_an_ensemble_does_not_wait_either(digits, tmp_path, device):
    runs = [planned(seed=seed) for seed in range(3)]
    trainer = Trainer(runs, [tmp_path / str(run.spec.seed) for run in runs], digits, DEVICE)
    trainer._train_steps(1, StopRequest(), lambda step: None)
    device.count = 0
    trainer._train_steps(2, StopRequest(), lambda step: None)
    assert device.count == 0


def test_a_run_its_end_phase_and_its_measurement_are_those_of_the_cpu(digits, tmp_path):
    run = planned(
        model__batch_norm=True, optimizer__decay="effective", terminal={"iterations": 20, "tolerance": 1e-9}
    )
    run = replace(run, epochs=measured_times((0, 6), run.spec))
    measure = MeasureSpec(splits=["train", "test", "train_mode", "full_batch"], robustness=20)
    for computation, folder in ((CPU, tmp_path / "cpu"), (DEVICE, tmp_path / "device")):
        train(run, digits, folder, computation)
        extract_features(run, measure, digits, folder, computation)
    there, here = (read_table(tmp_path / name / "history.parquet").to_pandas() for name in ("cpu", "device"))
    assert here["value"].to_numpy() == pytest.approx(there["value"].to_numpy(), rel=1e-4, abs=1e-6)
    [theirs], [ours] = (
        load_traces(tmp_path / name / "statistics.safetensors").values() for name in ("cpu", "device")
    )
    assert ours.statistics.keys() == theirs.statistics.keys()
    for key, statistics in theirs.statistics.items():
        torch.testing.assert_close(ours.statistics[key].means, statistics.means, rtol=1e-3, atol=1e-4)
    assert ours.scalars[6, "test"]["robustness"] == pytest.approx(theirs.scalars[6, "test"]["robustness"], rel=1e-3)


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_images_reach_the_device(workers, digits, tmp_path):
    kept = stored(digits, tmp_path)
    streamed, memory = (
        StreamedBatches(kept, "train", DEVICE.device, workers),
        ImageBatches(digits, "train", CPU.device),
    )
    for (images, labels), (expected, expected_labels) in zip(
        streamed.shuffled(32, AugmentSpec(flip=True, crop=1), [3], 1),
        memory.shuffled(32, AugmentSpec(flip=True, crop=1), [3], 1),
        strict=True,
    ):
        torch.testing.assert_close(images.to("cpu"), expected)
        assert torch.equal(labels.to("cpu"), expected_labels)


def test_a_killed_run_goes_on_to_the_same_bytes(digits, tmp_path, monkeypatch):
    whole, cut = planned(), tmp_path / "cut"
    train(whole, digits, tmp_path / "whole", DEVICE)
    step, taken = Trainer._train_step, []

    def deadly(self, images, labels):
        taken.append(1)
        if len(taken) == 17:
            self.save()
            raise KeyboardInterrupt
        return step(self, images, labels)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_train_step", deadly)
        with pytest.raises(KeyboardInterrupt):
            train(whole, digits, cut, DEVICE)
    train(whole, digits, cut, DEVICE)
    for name in ("model.safetensors", "checkpoints/epoch000006.safetensors"):
        assert (cut / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_divergence_is_a_result(digits, tmp_path):
    train(planned(optimizer__lr=1e30), digits, tmp_path, DEVICE)
    assert read_json(tmp_path / "spec.json")["status"] == "diverged"


# --- mistakes that these tests must catch ------------------------------------------------------------


def test_a_tensor_left_on_the_cpu_is_caught(digits, tmp_path, monkeypatch):
    step = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda self, images, labels: step(self, images, labels.cpu()))
    with pytest.raises(RuntimeError, match=f"on {NAME} and on cpu"):
        Trainer([planned()], [tmp_path], digits, DEVICE).epoch(StopRequest())


def test_a_wait_in_a_step_is_caught(digits, tmp_path, monkeypatch, device):
    step = Trainer._train_step

    def waiting(self, images, labels):
        labels.sum().item()
        return step(self, images, labels)

    monkeypatch.setattr(Trainer, "_train_step", waiting)
    trainer = Trainer([planned()], [tmp_path], digits, DEVICE)
    device.count = 0
    trainer._train_steps(1, StopRequest(), lambda step: None)
    assert device.count >= trainer.train_data.steps(32)
