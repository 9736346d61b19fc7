"""Training: schedules, records, exact resumption at any step, signals, divergence, ensembles, several processes."""

from __future__ import annotations

import copy
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random

import pandas as pd
import psutil
import pytest
import torch
from networks_in_training import CPU, NETWORK, content, planned
from processes import Command
from safetensors import SafetensorError

from ncpipe.cli.main import app, main
from ncpipe.data import Dataset, load, prepare
from ncpipe.features.extraction import extract_features
from ncpipe.networks import build_network
from ncpipe.networks.architectures.resnet import ResNet
from ncpipe.networks.head_settings import HeadSpec
from ncpipe.records.traces import load_traces
from ncpipe.records.writing import read_table
from ncpipe.settings.sweep import laid_over
from ncpipe.stages.train import train, train_ensemble
from ncpipe.study.config import MeasureSpec
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, read_tensors, write_text
from ncpipe.tables.ends import zero_error_epochs
from ncpipe.training.computation import Computation, compiled_if_possible, repays_compiling, training_flops
from ncpipe.training.losses import mean_loss
from ncpipe.training.members import Stack
from ncpipe.training.optimization import learning_rate
from ncpipe.training.preemption import StopRequest
from ncpipe.training.settings import ScheduleSpec
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import Trainer, new_network, state_folder


def test_schedules():
    step = [learning_rate(1.0, ScheduleSpec(name="step"), e, 9) for e in range(1, 10)]
    assert step == pytest.approx([1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    cosine = [learning_rate(1.0, ScheduleSpec(name="cosine"), e, 4) for e in range(1, 5)]
    assert cosine == pytest.approx([(1 + math.cos(math.pi * i / 4)) / 2 for i in range(4)])
    warm = [learning_rate(1.0, ScheduleSpec(name="constant", warmup_epochs=3), e, 9) for e in range(1, 6)]
    assert warm == pytest.approx([0.25, 0.5, 0.75, 1, 1])


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
        f"epoch{e:06d}.safetensors" for e in (0, 5, record["zero_error_epoch"], 40)
    ]
    last, _ = read_tensors(tmp_path / "checkpoints/epoch000040.safetensors")
    model, _ = read_tensors(tmp_path / "model.safetensors")
    assert all(torch.equal(model[name], last[name]) for name in model)
    assert not (tmp_path / ".state").exists()


def test_test_data_are_evaluated_at_the_measured_epochs_alone_where_that_is_asked_for(digits, tmp_path):
    found = {}
    for every in (True, False):
        train(planned((0, 2, 4), epochs=4, test_every_epoch=every), digits, tmp_path / str(every), CPU)
        history = read_table(tmp_path / str(every) / "history.parquet").to_pandas()
        found[every] = history.pivot(index="time", columns="quantity", values="value")
    tests = ["test_loss", "test_accuracy"]
    assert found[True].notna().all(axis=None)
    assert list(found[False][tests].dropna().index) == [2, 4]
    pd.testing.assert_frame_equal(found[False][tests].dropna(), found[True].loc[[2, 4], tests])
    others = found[True].columns.difference(tests)
    pd.testing.assert_frame_equal(found[False][others], found[True][others])


class Killed(BaseException):
    """Stands for SIGKILL: nothing of ours may catch it."""


def killed_at(step: int, monkeypatch) -> None:
    """Kill the process, as it were, in the next run's step of this number, counted from its start."""
    original, steps = Trainer._train_step, []

    def deadly(self, images, labels):
        steps.append(1)
        if len(steps) == step:
            raise Killed
        return original(self, images, labels)

    monkeypatch.setattr(Trainer, "_train_step", deadly)


@pytest.mark.parametrize("model", ["mlp", "convnet"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_a_killed_run_resumes_to_the_same_bytes(optimizer, model, digits, tmp_path, monkeypatch):
    changes = {"optimizer__name": optimizer, "optimizer__lr": 0.01, "augment__flip": True, "augment__crop": 1}
    run = planned((0, 1, 3, 6), model={"name": model, "depth": 2, "width": 8}, precision="auto", **changes)
    train(run, digits, tmp_path / "whole", CPU)
    steps = []
    for step in (3, 9, 12):  # of 7 an epoch, counted from where the run goes on
        with monkeypatch.context() as patch:
            patch.setattr("ncpipe.training.state.SAVE_INTERVAL", 0.0)
            patch.setattr("ncpipe.training.state.SAVE_SHARE", 0.0)
            killed_at(step, patch)
            with pytest.raises(Killed):
                train(run, digits, tmp_path / "killed", CPU)
    original = Trainer._train_step
    monkeypatch.setattr(Trainer, "_train_step", lambda *a: (steps.append(1), original(*a))[1])
    train(run, digits, tmp_path / "killed", CPU)
    assert len(steps) == 6 * 7 - (2 + 8 + 11)  # every step was saved
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_kill_between_the_last_epoch_and_the_outputs_costs_nothing(digits, tmp_path, monkeypatch):
    run = planned()
    train(run, digits, tmp_path / "whole", CPU)
    monkeypatch.setattr("ncpipe.training.trainer.write_json", lambda *_: (_ for _ in ()).throw(Killed()))
    with pytest.raises(Killed):
        train(run, digits, tmp_path / "killed", CPU)
    monkeypatch.undo()
    monkeypatch.setattr(Trainer, "epoch", lambda *_: pytest.fail("trained again"))
    train(run, digits, tmp_path / "killed", CPU)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_state_of_other_settings_or_damaged_state_is_not_resumed(digits, tmp_path, monkeypatch):
    def interrupted(run):
        monkeypatch.setattr(Trainer, "publish", lambda self, stop: None)
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


def test_divergence_is_a_result(digits, tmp_path):
    run = planned((0, 1, 2, 6), optimizer__lr=1e12, model__batch_norm=False)
    train(run, digits, tmp_path, CPU)
    record = read_json(tmp_path / "spec.json")
    assert record["status"] == "diverged"
    assert record["final_epoch"] < 6
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    assert trace.times == [0]


def study_file(folder: Path, measured: tuple[int, ...] = (0, 100, 200, 300), **changes: object) -> tuple[Path, Study]:
    """A study of one small network, its data set prepared."""
    network = laid_over({k: v for k, v in NETWORK.items() if k != "dataset"}, {"epochs": 400} | changes)
    study = {
        "study": {"name": "signals", "results": str(folder / "results")},
        "datasets": {"base": NETWORK["dataset"]},
        "networks": {"base": network},
        "measure": {"epochs": measured},
        "ufm": {"matched": []},
    }
    config = folder / "study.json"
    config.write_text(json.dumps(study))
    planned_study = Study.read(config)
    (dataset_id,) = planned_study.datasets
    prepare(planned_study.datasets[dataset_id], planned_study.layout.dataset(dataset_id))
    return config, planned_study


def data_of(study: Study) -> Dataset:
    (dataset_id,) = study.datasets
    return load(study.layout.dataset(dataset_id))


def command(config: Path, run_id: str, *options: str) -> list[str]:
    return [sys.executable, "-m", "ncpipe", "train", str(config), run_id, *options]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_saves_and_ends_with_a_code_of_its_own(name, tmp_path, monkeypatch, capsys):
    config, study = study_file(tmp_path, measured=(0, 5))
    (run_id,) = study.networks
    folder, original = study.layout.run(run_id), Trainer.epoch
    at_work = folder / ".state/checkpoints/epoch000005.safetensors"

    def signalled(self, *arguments):
        if at_work.exists():
            signal.raise_signal(getattr(signal, name))
        return original(self, *arguments)

    if name == "SIGTERM":
        process = Command(tmp_path / "log", "train", config, run_id)
        process.wait_for(at_work)
        process.signal(signal.SIGTERM)
        code, errors = process.ended()
    else:  # in this process
        monkeypatch.setattr(Trainer, "epoch", signalled)
        monkeypatch.setattr(sys, "argv", ["ncpipe", "train", str(config), run_id])
        with pytest.raises(SystemExit) as stopped:
            main()
        code, errors = stopped.value.code, capsys.readouterr().err
    assert code == 75
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"ncpipe: {name}: saved at epoch ")
    assert last.endswith("run again to go on")
    progress = state_folder(study.networks[run_id], folder, data_of(study)).load().progress
    assert progress.epoch >= 4
    assert f"epoch {progress.epoch + 1}, step {progress.step};" in last
    assert not (folder / "spec.json").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_kills_at_random_moments_change_nothing(tmp_path):
    """SIGKILL and SIGTERM at random moments of the real command, from its start-up to its last epoch."""
    changes = {
        "epochs": 600,
        "augment": {"flip": True, "crop": 1},
        "model": {"name": "convnet", "depth": 2, "width": 4},
    }
    config, study = study_file(tmp_path, **changes)
    (run_id,) = study.networks
    folder, random, kills = study.layout.run(run_id), Random(0), 0
    quiet = {"stderr": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    while kills < 3:
        process = subprocess.Popen(command(config, run_id), **quiet)
        try:
            code = process.wait(timeout=random.uniform(1.0, 4.5))
        except subprocess.TimeoutExpired:
            process.send_signal(random.choice([signal.SIGKILL, signal.SIGTERM]))
            code = process.wait()
            kills += 1
        assert code in (0, 75, -signal.SIGKILL, -signal.SIGTERM), code
        if code == 0:
            break
    assert kills >= 2
    subprocess.run(command(config, run_id), check=True, **quiet)
    resumed = content(folder)
    shutil.rmtree(folder)
    subprocess.run(command(config, run_id), check=True, **quiet)
    assert resumed == content(folder)


SEEDS = {"model": {"name": "convnet", "depth": 2, "width": 4}, "optimizer__lr": 0.01}


def test_an_ensemble_equals_separate_training_to_float_tolerance(digits, tmp_path):
    runs = {tmp_path / str(seed): planned(seed=seed, augment__flip=True, **SEEDS) for seed in range(3)}
    for folder, run in runs.items():
        train(run, digits, folder.with_suffix(".alone"), CPU)
    first, *others = runs
    train_ensemble(runs[first], {folder: runs[folder] for folder in others}, digits, first, CPU)
    assert not any((folder / "spec.json").exists() for folder in others)
    for folder, run in runs.items():
        if folder != first:  # its own job finds it trained
            train(run, digits, folder, CPU)
        alone = folder.with_suffix(".alone")
        assert sorted(content(folder)) == sorted(content(alone))
        for name in ("model.safetensors", "checkpoints/epoch000003.safetensors"):
            (mine, _), (theirs, _) = read_tensors(folder / name), read_tensors(alone / name)
            for key, value in theirs.items():
                torch.testing.assert_close(mine[key], value, rtol=1e-3, atol=2e-3)
        mine, theirs = (read_table(f / "history.parquet").to_pandas()["value"] for f in (folder, alone))
        assert mine.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-2, abs=1e-2)


def test_members_of_an_ensemble_are_exact_in_double_precision():
    model = ResNet(name="resnet18", width=4)
    networks = [build_network(model, HeadSpec(), (1, 8, 8), 10, seed).double() for seed in range(3)]
    stack = Stack(copy.deepcopy(networks))
    images = torch.randn(3, 16, 1, 8, 8, dtype=torch.float64)
    for step in range(2):
        stack.train(step == 0)
        outputs = stack(images)
        for member, network in enumerate(networks):
            network.train(step == 0)
            torch.testing.assert_close(outputs.logits[member], network(images[member]).logits)
    outputs.logits.square().sum().backward()
    for member, network in enumerate(networks):
        network(images[member]).logits.square().sum().backward()
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(stack.parameters[name].grad[member], parameter.grad)
        for name, value in network.state_dict().items():
            torch.testing.assert_close(stack.state(member)[name], value)


def test_an_ensemble_in_bf16_is_near_separate_training(digits, tmp_path):
    half = replace(CPU, precision="bf16")
    runs = {tmp_path / str(seed): replace(planned(seed=seed, epochs=1, **SEEDS), epochs=(0, 1)) for seed in (0, 1)}
    first, second = runs
    train_ensemble(runs[first], {second: runs[second]}, digits, first, half)
    train(runs[second], digits, second, half)
    for folder, run in runs.items():
        train(run, digits, folder.with_suffix(".alone"), half)
        train(run, digits, folder.with_suffix(".exact"), CPU)
        states = [read_tensors(folder.with_suffix(end) / "model.safetensors")[0] for end in ("", ".alone", ".exact")]
        stacked, alone, exact = (state["stages.layer1.0.weight"] for state in states)
        torch.testing.assert_close(stacked, alone, rtol=5e-2, atol=5e-3)
        assert not torch.equal(stacked, exact)


def test_decay_of_the_features_is_part_of_what_is_minimised(digits, tmp_path):
    """One step of plain gradient descent on all images, against the gradient of the written objective."""
    changes = {"optimizer__momentum": 0.0, "optimizer__weight_decay": 0.0, "batch_size": 200, "epochs": 1}
    run = replace(planned(head__feature_decay=0.3, head__hidden=1, model__batch_norm=False, **changes), epochs=(0, 1))
    train(run, digits, tmp_path, CPU)
    network = new_network(run.spec, digits)
    data = open_batches(digits, "train", CPU.device)
    output = network(data.finished(data.images))
    penalty = 0.3 / 2 * output.head_input.square().sum(dim=1).mean()
    (mean_loss(run.spec.loss, output.logits, data.labels) + penalty).backward()
    trained, _ = read_tensors(tmp_path / "model.safetensors")
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(trained[name], parameter.detach() - 0.05 * parameter.grad, rtol=1e-4, atol=1e-6)
    assert float(penalty) > 0.1


def test_a_diverged_member_keeps_its_state_while_the_others_train_on(digits, tmp_path, monkeypatch):
    runs = {tmp_path / str(seed): planned((0, 6), seed=seed, **SEEDS) for seed in range(2)}
    first, second = runs
    original, steps = Trainer._train_step, []

    def step(self, images, labels):
        steps.append(1)
        if len(steps) == 3:
            with torch.no_grad():
                self.members.parameters["head.weight"][1].fill_(math.nan)
        return original(self, images, labels)

    monkeypatch.setattr(Trainer, "_train_step", step)
    monkeypatch.setattr("ncpipe.training.state.SAVE_INTERVAL", 0.0)
    monkeypatch.setattr("ncpipe.training.state.SAVE_SHARE", 0.0)
    train_ensemble(runs[first], {second: runs[second]}, digits, first, CPU)
    state = state_folder(runs[second], second, digits).load()
    assert state.progress.diverged
    assert (state.progress.epoch, state.progress.step) == (1, 0)
    assert int(state.network["stages.layer1.1.num_batches_tracked"]) == 7
    assert read_json(first / "spec.json")["status"] == "done"


def test_a_killed_ensemble_goes_on_and_a_diverged_member_leaves_the_others_alone(digits, tmp_path, monkeypatch):
    runs = {tmp_path / str(seed): planned(seed=seed, **SEEDS) for seed in range(3)}
    first, second, third = runs
    siblings = {second: runs[second], third: runs[third]}
    with monkeypatch.context() as patch:
        patch.setattr("ncpipe.training.state.SAVE_INTERVAL", 0.0)
        patch.setattr("ncpipe.training.state.SAVE_SHARE", 0.0)
        killed_at(10, patch)
        with pytest.raises(Killed):
            train_ensemble(runs[first], siblings, digits, first, CPU)
    assert state_folder(runs[third], third, digits).load().progress.step == 2
    state = state_folder(runs[second], second, digits).load()
    state.network["head.weight"].fill_(math.nan)
    state_folder(runs[second], second, digits).save(state)
    train_ensemble(runs[first], siblings, digits, first, CPU)
    train(runs[third], digits, third, CPU)
    for folder in (first, third):
        train(runs[folder], digits, folder.with_suffix(".alone"), CPU)
        mine, theirs = (read_tensors(f / "model.safetensors")[0] for f in (folder, folder.with_suffix(".alone")))
        torch.testing.assert_close(mine["head.weight"], theirs["head.weight"], rtol=1e-3, atol=2e-3)
    train(runs[second], digits, second, CPU)
    assert read_json(second / "spec.json")["status"] == "diverged"
    published, _ = read_tensors(second / "model.safetensors")
    assert int(published["stages.features.0.1.num_batches_tracked"]) == 2 * 7  # steps of two epochs, not of six
    assert read_json(second / "spec.json")["final_epoch"] == 2


def test_the_ensemble_of_a_study_is_its_seeds_alone(tmp_path):
    config, _ = study_file(tmp_path)
    settings = json.loads(config.read_text())
    settings["networks"]["sweep"] = {"grid": {"seed": [0, 1, 2, 3, 4], "optimizer.lr": [0.1, 0.2]}}
    study = Study(settings)
    groups = {tuple(r.spec.seed for r in study.seeds_of(run, 2)) for run in study.networks.values()}
    assert groups == {(0, 1), (2, 3), (4,)}
    for run in study.networks.values():
        assert {r.spec.optimizer.lr for r in study.seeds_of(run, 8)} == {run.spec.optimizer.lr}
        assert study.seeds_of(run, 1) == [run]


def test_jobs_of_an_ensemble_train_it_once(tmp_path):
    config, _ = study_file(tmp_path, epochs=30)
    settings = json.loads(config.read_text())
    settings["networks"]["sweep"] = {"grid": {"seed": [0, 1, 2]}}
    settings["compute"] = {"ensemble": 3}
    config.write_text(json.dumps(settings))
    study = Study.read(config)
    jobs = [Command(tmp_path / run_id, "train", config, run_id) for run_id in study.networks]
    codes, logs = zip(*(job.ended() for job in jobs))
    assert codes == (0, 0, 0), logs
    assert sum("and 2 more" in log for log in logs) == 1
    assert all((study.layout.run(run_id) / "spec.json").exists() for run_id in study.networks)
    assert not any(study.layout.run(run_id).joinpath(".state").exists() for run_id in study.networks)


@pytest.mark.thorough
def test_two_processes_train_one_network_as_one_does(tmp_path):
    changes = {"epochs": 5, "model.batch_norm": False, "batch_size": 33, "precision": "float32"}
    config, study = study_file(tmp_path, **changes)
    (run_id,) = study.networks
    app(["train", str(config), run_id], standalone_mode=False)
    alone = study.layout.run(run_id)
    shared_config, shared = study_file(tmp_path, gpus=2, **changes)
    (shared_id,) = shared.networks
    done = subprocess.run(command(shared_config, shared_id, "--device", "cpu"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("epoch 5") == 1  # one process speaks
    folder = shared.layout.run(shared_id)
    assert sorted(content(folder)) == sorted(content(alone))
    for name in ("model.safetensors", "checkpoints/epoch000000.safetensors"):
        (mine, _), (theirs, _) = read_tensors(folder / name), read_tensors(alone / name)
        assert list(mine) == list(theirs)
        for key, value in theirs.items():
            torch.testing.assert_close(mine[key], value, rtol=1e-4, atol=1e-5)
    mine, theirs = (read_table(f / "history.parquet").to_pandas()["value"] for f in (folder, alone))
    assert mine.to_numpy() == pytest.approx(theirs.to_numpy(), rel=1e-4)


@pytest.mark.thorough
def test_two_processes_agree_on_the_zero_error_epoch(tmp_path):
    adam = {"optimizer": {"name": "adam", "lr": 0.03}, "loss": {"name": "ce"}}
    changes = {"epochs": 20, "batch_size": 200, "model.width": 64}  # a step an epoch: few that wait for each other
    config, study = study_file(tmp_path, gpus=2, **adam, **changes)
    (run_id,) = study.networks
    done = subprocess.run(command(config, run_id, "--device", "cpu"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    folder = study.layout.run(run_id)
    zero = zero_error_epochs(folder / "history.parquet")[run_id]
    assert read_json(folder / "spec.json")["zero_error_epoch"] == zero < 20
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == [f"epoch{epoch:06d}.safetensors" for epoch in (0, zero, 20)]


@pytest.mark.thorough
def test_two_processes_told_to_stop_save_and_go_on(tmp_path):
    config, study = study_file(tmp_path, (0, 20), gpus=2, epochs=3000)
    (run_id,) = study.networks
    folder = study.layout.run(run_id)
    process = subprocess.Popen(command(config, run_id, "--device", "cpu"), stderr=subprocess.PIPE, text=True)
    while not (folder / ".state/checkpoints/epoch000020.safetensors").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 75, errors
    progress = state_folder(study.networks[run_id], folder, data_of(study)).load().progress
    assert 20 <= progress.epoch < 3000


def test_kernels_compiled_for_another_instruction_set_are_not_read(monkeypatch, tmp_path):
    """torch's cache would hand them out, and training end in NaN: see test_compiled_training_agrees_with_eager under
    ATEN_CPU_CAPABILITY=avx2 after avx512."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    for capability in ("AVX512", "AVX2", "AVX2"):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda name=capability: name)
        replace(CPU, compiled=True).configure()
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", os.environ["TORCHINDUCTOR_CACHE_DIR"])
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"].endswith(f"/{capability}")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "AVX512" / "AVX2")


COMPILERS = {
    "missing": None,
    "broken": "exit 1",
    "of no use": 'case "$*" in *version*) echo g++ 13.2.0;; *) echo wrong >&2; exit 1;; esac',
}


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(("compiler", "stage"), [*((name, "train") for name in COMPILERS), ("broken", "features")])
def test_a_network_is_not_compiled_where_the_compiler_does_not_work(compiler, stage, tmp_path):
    (tmp_path / "bin").mkdir()
    for name in ("g++", "c++", "clang++", "gcc", "cc", "clang") if COMPILERS[compiler] else ():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{COMPILERS[compiler]}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    config, study = study_file(tmp_path, epochs=2)
    (run_id,) = study.networks
    if stage == "features":
        app(["train", str(config), run_id, "--device", "cpu"], standalone_mode=False)
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"compute": {"compile": True}}))
    surroundings = {"PATH": str(tmp_path / "bin"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "kernels")}
    arguments = [*command(config, run_id), "--device", "cpu"]
    arguments[arguments.index("train")] = stage
    done = subprocess.run(arguments, env=os.environ | surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (told,) = [line for line in (done.stdout + done.stderr).splitlines() if "compile" in line]
    assert told.startswith("torch.compile does not work: the network is not compiled (")
    assert "Traceback" not in done.stdout + done.stderr


def test_what_fails_compiled_or_not_is_no_fault_of_compiling(monkeypatch, capsys):
    def compiled(function):
        return lambda *arguments: function(*arguments) + function(None)

    monkeypatch.setattr(torch, "compile", compiled)
    double = compiled_if_possible(lambda value: 2 * value)
    with pytest.raises(TypeError):
        double(None)
    assert capsys.readouterr().out == ""
    assert [double(2), double(3)] == [4, 6]
    assert capsys.readouterr().out.count("torch.compile does not work") == 1


@pytest.mark.thorough
def test_compiled_training_agrees_with_eager(digits, tmp_path):
    run = planned(optimizer__lr=0.01, epochs=2)
    run = replace(run, epochs=(0, 2))
    train(run, digits, tmp_path / "eager", CPU)
    train(run, digits, tmp_path / "compiled", replace(CPU, compiled=True))
    mine, theirs = (read_tensors(tmp_path / name / "model.safetensors")[0] for name in ("compiled", "eager"))
    assert list(mine) == list(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-4, atol=1e-5)
    extract_features(run, MeasureSpec(), digits, tmp_path / "compiled", replace(CPU, compiled=True))
    extract_features(run, MeasureSpec(), digits, tmp_path / "eager", CPU)
    traces = [load_traces(tmp_path / name / "statistics.safetensors")["run"] for name in ("compiled", "eager")]
    for moment, statistics in traces[1].statistics.items():
        torch.testing.assert_close(traces[0].statistics[moment].means, statistics.means, rtol=1e-3, atol=1e-4)


def test_bf16_keeps_weights_head_and_measurement_in_float32(digits, tmp_path):
    run = planned(model={"name": "convnet", "depth": 2, "width": 8}, epochs=30)
    run = replace(run, epochs=(0, 30))
    half = replace(CPU, precision="bf16")
    train(run, digits, tmp_path / "bf16", half)
    train(run, digits, tmp_path / "float32", CPU)
    record = read_json(tmp_path / "bf16/spec.json")
    assert record["precision"] == "bf16"
    model, _ = read_tensors(tmp_path / "bf16/model.safetensors")
    assert all(value.dtype == torch.float32 for name, value in model.items() if "num_batches" not in name)
    losses = {}
    for name in ("bf16", "float32"):
        history = read_table(tmp_path / name / "history.parquet").to_pandas().query("time == 30")
        losses[name] = history.set_index("quantity")["value"]
    assert losses["bf16"]["train_loss"] != losses["float32"]["train_loss"]
    assert losses["bf16"]["train_loss"] == pytest.approx(losses["float32"]["train_loss"], rel=0.2)
    assert losses["bf16"]["test_accuracy"] == pytest.approx(losses["float32"]["test_accuracy"], abs=0.06)


@pytest.mark.parametrize(
    ("precision", "native", "expected"),
    [("auto", True, "bf16"), ("auto", False, "float32"), ("bf16", False, "bf16"), ("tf32", True, "float32")],
)
def test_precision_is_what_the_device_has(precision, native, expected, monkeypatch):
    monkeypatch.setattr("ncpipe.training.computation.computes_bf16", lambda device: native)
    assert Computation.choose(planned(precision=precision).spec, torch.device("cpu")).precision == expected


def test_compilation_is_chosen_by_the_length_of_the_run():
    network = build_network(ResNet(name="resnet18"), HeadSpec(), (3, 32, 32), 10, 0)
    shape = (3, 32, 32)
    flops = training_flops(network, shape)
    assert flops == pytest.approx(3 * 2 * 0.5557e9, rel=0.01)  # 0.56 G multiplications are published
    assert repays_compiling(network, shape, 200 * 50_000, 128)
    assert not repays_compiling(network, shape, 1_000, 128)


@pytest.mark.thorough
def test_ranks_stop_and_save_when_their_launcher_is_killed(tmp_path):
    config, study = study_file(tmp_path, (0, 20), gpus=2, epochs=100_000)
    (run_id,) = study.networks
    folder = study.layout.run(run_id)
    process = subprocess.Popen(command(config, run_id, "--device", "cpu"), stderr=subprocess.DEVNULL)
    while not (folder / ".state/checkpoints/epoch000020.safetensors").exists():
        assert process.poll() is None
        time.sleep(0.01)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 3  # torchrun and two ranks
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    progress = state_folder(study.networks[run_id], folder, data_of(study)).load().progress
    assert progress.epoch >= 20


def test_two_jobs_of_one_run_train_it_once(tmp_path):
    config, study = study_file(tmp_path, epochs=300)
    (run_id,) = study.networks
    folder = study.layout.run(run_id)
    first = Command(tmp_path / "first", "train", config, run_id)
    first.wait_for(folder / ".state/state.safetensors")
    code, said = Command(tmp_path / "second", "train", config, run_id).ended()
    assert (code, first.ended()[0]) == (0, 0)
    assert "another job trains" in said
    assert "was trained by another job" in said
    epochs = sorted({0, 100, 200, 300, read_json(folder / "spec.json")["zero_error_epoch"]})
    assert [path.name for path in sorted((folder / "checkpoints").iterdir())] == [
        f"epoch{epoch:06d}.safetensors" for epoch in epochs
    ]


def test_batches_of_one_image_are_told_before_batchnorm_fails(digits, tmp_path):
    with pytest.raises(UserError, match=r"batches of 1 images .* raise batch_size"):
        train(planned(batch_size=1), digits, tmp_path, CPU)
    train(planned((0, 1), batch_size=1, epochs=1, model__batch_norm=False), digits, tmp_path, CPU)


def test_a_full_disk_is_one_line_and_costs_no_state(digits, tmp_path, monkeypatch):
    import safetensors.torch

    run = planned((0, 1, 6))
    original, written = safetensors.torch.save_file, []

    def full(tensors, path, metadata):
        written.append(path)
        if len(written) > 3:
            raise SafetensorError("I/O error: No space left on device (os error 28)")
        original(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", full)
        with pytest.raises(UserError, match=r"cannot write .*No space left on device.*; make room"):
            train(run, digits, tmp_path / "full", CPU)
    assert state_folder(run, tmp_path / "full", digits).load().progress.epoch == 1
    assert not list((tmp_path / "full").rglob("*.tmp"))
    train(run, digits, tmp_path / "full", CPU)
    train(run, digits, tmp_path / "whole", CPU)
    assert content(tmp_path / "full") == content(tmp_path / "whole")


def test_a_state_of_other_data_is_worth_nothing(digits, tmp_path, monkeypatch):
    run = planned()
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "publish", lambda self, stop: None)
        train(run, digits, tmp_path / "run", CPU)
    assert state_folder(run, tmp_path / "run", digits).load().progress.epoch == run.spec.epochs
    other = replace(digits, digest="other", train=replace(digits.train, labels=digits.train.labels.flip(0)))
    assert state_folder(run, tmp_path / "run", other).load().progress.epoch == 0
    train(run, other, tmp_path / "run", CPU)
    train(run, other, tmp_path / "whole", CPU)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_a_state_without_its_checkpoints_is_worth_nothing(digits, tmp_path, monkeypatch):
    run = planned()
    monkeypatch.setattr(Trainer, "publish", lambda self, stop: None)
    train(run, digits, tmp_path / "run", CPU)
    monkeypatch.undo()
    (tmp_path / "run/.state/checkpoints/epoch000003.safetensors").unlink()
    assert state_folder(run, tmp_path / "run", digits).load().progress.epoch == 0
    train(run, digits, tmp_path / "run", CPU)
    train(run, digits, tmp_path / "whole", CPU)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_two_jobs_that_train_one_network_leave_it_whole(digits, tmp_path):
    """As where the job of a lost node lives on beside its successor, and no lock reaches both."""
    run = planned()
    train(run, digits, tmp_path / "whole", CPU)
    jobs = [Trainer([run], [tmp_path / "run"], digits, CPU) for _ in range(3)]
    for job in jobs:
        job.fit(StopRequest())
    for job in jobs[:2]:
        job.publish()
        assert content(tmp_path / "run") == content(tmp_path / "whole")
    shutil.rmtree(tmp_path / "run")  # as Snakemake does with outputs before it runs a job again
    with pytest.raises(UserError, match=r"no epoch000000\.safetensors in .*: another job trained this network"):
        jobs[2].publish()
    assert not (tmp_path / "run/spec.json").exists()


def test_what_killed_writers_left_is_removed(tmp_path):
    target, fresh = tmp_path / "a.json", tmp_path / ".a.json.11111111.tmp"
    old = tmp_path / ".a.json.00000000.tmp"
    for path in (old, fresh):
        path.write_text("half")
    os.utime(old, (0, 0))
    write_text(target, "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, target.name]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["bf16", "tf32", "float32"])
def test_on_a_gpu_a_killed_run_resumes_to_the_same_bytes_in_deterministic_mode(
    precision, digits, tmp_path, monkeypatch
):
    gpu = Computation(torch.device("cuda"), precision, deterministic=True)
    run = planned((0, 3, 6), augment__flip=True, augment__crop=1, **SEEDS)
    train(run, digits, tmp_path / "whole", gpu)
    with monkeypatch.context() as patch:
        patch.setattr("ncpipe.training.state.SAVE_INTERVAL", 0.0)
        patch.setattr("ncpipe.training.state.SAVE_SHARE", 0.0)
        killed_at(9, patch)
        with pytest.raises(Killed):
            train(run, digits, tmp_path / "killed", gpu)
    train(run, digits, tmp_path / "killed", gpu)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_trains_as_the_cpu_does(digits, tmp_path):
    runs = {tmp_path / str(seed): planned(seed=seed, epochs=2, **SEEDS) for seed in range(2)}
    runs = {folder: replace(run, epochs=(0, 2)) for folder, run in runs.items()}
    first, second = runs
    gpu = Computation(torch.device("cuda"))
    train_ensemble(runs[first], {second: runs[second]}, digits, first, gpu)
    train(runs[second], digits, second, replace(gpu, compiled=True))
    for folder, run in runs.items():
        train(run, digits, folder.with_suffix(".cpu"), CPU)
        mine, theirs = (read_tensors(f / "model.safetensors")[0] for f in (folder, folder.with_suffix(".cpu")))
        torch.testing.assert_close(mine["head.weight"], theirs["head.weight"], rtol=1e-2, atol=1e-3)
        extract_features(run, MeasureSpec(), digits, folder, gpu)
