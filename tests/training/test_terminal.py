"""The end phase: it reaches a stationary point, resumes bit for bit, and its times go on after the epochs."""

import math
from dataclasses import replace

import pytest
import torch
from networks_in_training import CPU, content, planned
from pydantic import ValidationError

from ncpipe.features.extraction import extract_features
from ncpipe.records.traces import load_traces
from ncpipe.records.writing import read_table
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.system.files import read_json, read_tensors
from ncpipe.training import terminal
from ncpipe.training.full_batch import FullBatch
from ncpipe.training.preemption import Preempted, StopRequest
from ncpipe.training.settings import measured_times
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import Trainer, new_network

MODEL = {"name": "mlp", "depth": 2, "width": 32}


def run_of(iterations: int, tolerance: float = 1e-3, **changes):
    settings = {"model": MODEL, "epochs": 4, "optimizer__weight_decay": 0.02, **changes}
    settings |= {"terminal": {"iterations": iterations, "tolerance": tolerance}}
    run = planned(**settings)
    return replace(run, epochs=measured_times((0, 4), run.spec))


def history(folder) -> dict[int, dict[str, float]]:
    rows = read_table(folder / "history.parquet").to_pandas()
    return {time: dict(zip(part["quantity"], part["value"])) for time, part in rows.groupby("time")}


@pytest.mark.parametrize("loss", ["mse", "ce"])
def test_the_end_is_stationary_and_near_the_optimum_of_the_non_negative_model(loss, digits, tmp_path) -> None:
    tolerance = {"mse": 0.05, "ce": 0.12}[loss]
    run = run_of(4000, tolerance, loss__name=loss, head__bias=False)
    train(run, digits, tmp_path, CPU)
    times = history(tmp_path)
    end = times[max(times)]
    assert read_json(tmp_path / "spec.json")["final_epoch"] == max(times) < 4004
    assert end["gradient_norm"] <= tolerance
    assert end["objective"] < times[5]["objective"]
    K, decay = 10, 0.02
    c = math.sqrt(K) * decay
    optimum = c - c**2 / 2
    if loss == "ce":
        c = decay / math.sqrt(K - 1)  # sqrt(n lW lH) sqrt(K/(K-1)), lH = wd/N
        optimum = -math.log(1 - (K - 1) * c) + (K - 1) * c * math.log(1 / c - (K - 1))
    assert end["objective"] == pytest.approx(optimum, rel=0.01)
    assert end["objective"] > optimum * (1 - 1e-4)  # BatchNorm's eps


def test_checkpoints_and_features_are_those_of_the_measured_times_and_of_the_end(digits, tmp_path) -> None:
    run = run_of(30)
    train(run, digits, tmp_path, CPU)
    names = {int(path.stem.removeprefix("epoch")) for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {*run.epochs, read_json(tmp_path / "spec.json")["zero_error_epoch"]}
    assert max(run.epochs) == 34
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    assert trace.times == sorted(names)
    # evaluation mode is the objective
    assert trace.scalars[34, "train"]["loss"] == pytest.approx(history(tmp_path)[34]["train_loss"], rel=1e-4)
    weights = read_tensors(tmp_path / "model.safetensors")[0]
    last = read_tensors(tmp_path / "checkpoints/epoch000034.safetensors")[0]
    assert all(torch.equal(weights[name], value) for name, value in last.items())
    assert not (tmp_path / ".state").exists()


def test_an_early_end_is_measured(digits, tmp_path) -> None:
    run = run_of(4000, 0.3)
    train(run, digits, tmp_path, CPU)
    end = read_json(tmp_path / "spec.json")["final_epoch"]
    assert 4 < end < 4004
    assert end not in run.epochs
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    assert load_traces(tmp_path / "statistics.safetensors")["run"].times[-1] == end


@pytest.mark.parametrize("chunk", [None, 64])
def test_killed_and_resumed_it_is_the_same_bit_for_bit(chunk, digits, tmp_path, monkeypatch) -> None:
    if chunk is not None:
        monkeypatch.setattr(FullBatch, "_trace", lambda self, trace=FullBatch._trace: min(chunk, trace(self)))
    run = run_of(12 if chunk else 40)
    train(run, digits, tmp_path / "whole", CPU)
    monkeypatch.setattr("ncpipe.training.state.SAVE_INTERVAL", 0.0)
    monkeypatch.setattr("ncpipe.training.state.SAVE_SHARE", 0.0)
    rounds = []
    for kill in (3, 9, 10_000):

        def one_round(*state, kill=kill, once=terminal.__dict__["lbfgs_round"]):
            rounds.append(1)
            if len(rounds) == kill:
                raise KeyboardInterrupt
            return once(*state)

        with monkeypatch.context() as patched:
            patched.setattr(terminal, "lbfgs_round", one_round)
            if kill < 10_000:
                with pytest.raises(KeyboardInterrupt):
                    train(run, digits, tmp_path / "killed", CPU)
            else:
                train(run, digits, tmp_path / "killed", CPU)
    whole, killed = content(tmp_path / "whole"), content(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    different = [name for name in whole if whole[name] != killed[name] and name != "spec.json"]
    assert different == []


def test_an_end_where_no_step_descends_is_measured(digits, tmp_path, monkeypatch) -> None:
    rounds, once = [], terminal.__dict__["lbfgs_round"]

    def stuck_after_some(*state):
        rounds.append(1)
        return torch.ones(1, dtype=torch.bool) if len(rounds) > 12 else once(*state)

    monkeypatch.setattr(terminal, "lbfgs_round", stuck_after_some)
    run = run_of(400)
    train(run, digits, tmp_path, CPU)
    end = read_json(tmp_path / "spec.json")["final_epoch"]
    assert end not in run.epochs
    assert max(history(tmp_path)) == end
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    assert load_traces(tmp_path / "statistics.safetensors")["run"].times[-1] == end


def test_told_to_stop_it_saves(digits, tmp_path) -> None:
    run, stop = run_of(40), StopRequest()
    trainer = Trainer([run], [tmp_path], digits, CPU)
    trainer.fit(stop)
    stop.name = "SIGTERM"
    with pytest.raises(Preempted) as told:
        trainer.publish(stop)
    assert told.value.message.startswith("SIGTERM: saved at iteration 0;")
    assert (tmp_path / ".state/terminal.safetensors").exists()
    train(run, digits, tmp_path, CPU)
    assert read_json(tmp_path / "spec.json")["final_epoch"] == 44


def test_a_damaged_or_foreign_state_is_not_gone_on_from(digits, tmp_path, capsys) -> None:
    run, stop = run_of(6), StopRequest()
    trainer = Trainer([run], [tmp_path], digits, CPU)
    trainer.fit(stop)
    (tmp_path / ".state").mkdir(exist_ok=True)
    (tmp_path / ".state/terminal.safetensors").write_bytes(b"no such thing")
    trainer.publish(stop)
    assert "the end phase starts again" in capsys.readouterr().out
    assert read_json(tmp_path / "spec.json")["final_epoch"] == 10


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": {"name": "adamw", "lr": 0.1}}, "adamw"),
        ({"augment": {"flip": True}}, "augmentation"),
        ({"gpus": 2}, "one GPU"),
        ({"optimizer": {"lr": 0.1, "weight_decay": 0}}, "weight_decay"),
        ({"terminal": {"iterations": 0}}, "greater than"),
    ],
)
def test_what_it_does_not_go_with_is_told(changes, reason) -> None:
    with pytest.raises(ValidationError, match=reason):
        planned(**{"terminal": {"iterations": 5}} | changes)


def test_ids_of_runs_without_it_are_as_before() -> None:
    spec = planned().spec
    assert "terminal" not in spec.model_dump(exclude_defaults=True)
    assert measured_times((0, 3, 9), spec) == (0, 3, spec.epochs)


def test_networks_without_batch_norm_and_with_a_hidden_head_have_it_too(digits, tmp_path) -> None:
    for name, changes in {
        "nobn": {"model": MODEL | {"batch_norm": False}},
        "head": {"head": {"hidden": 1, "bias": False}},
        "convnet": {"model": {"name": "convnet", "depth": 2, "width": 4}},
    }.items():
        run = run_of(5, **changes)
        train(run, digits, tmp_path / name, CPU)
        values = [row["objective"] for time, row in history(tmp_path / name).items() if time > 4]
        assert values == sorted(values, reverse=True)
        assert len(values) >= 2


def test_the_objective_of_the_checkpoint_is_that_of_the_history(digits, tmp_path) -> None:
    run = run_of(10)
    train(run, digits, tmp_path, CPU)
    network = new_network(run.spec, digits)
    network.load_state_dict(read_tensors(tmp_path / "model.safetensors")[0])
    full = FullBatch(network, run.spec, open_batches(digits, "train", CPU.device), CPU.device)
    for mode in ("evaluation", "full_batch"):
        assert full.evaluate(mode).value == pytest.approx(history(tmp_path)[14]["objective"], rel=1e-5)
