"""The first epoch without training error has a checkpoint of its own and is measured, declared or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from networks_in_training import CPU, NETWORK, content, planned

from ncpipe.claims.evidence.selectors import past_zero_error
from ncpipe.features.extraction import extract_features
from ncpipe.records.reading import read_tables
from ncpipe.records.traces import load_traces
from ncpipe.stages.collapse import write_collapse
from ncpipe.stages.tables import write_tables
from ncpipe.stages.train import train, train_ensemble
from ncpipe.study.config import MeasureSpec
from ncpipe.study.study import Study
from ncpipe.system.files import read_json, read_tensors
from ncpipe.tables.ends import zero_error_epochs
from ncpipe.training.full_batch import FullBatch
from ncpipe.training.settings import NetworkRun
from ncpipe.training.state import Progress, StateFolder
from ncpipe.training.streams import open_batches
from ncpipe.training.terminal import EndPhase
from ncpipe.training.trainer import Trainer, new_network, state_folder

REACHES = {"epochs": 20, "loss__name": "ce", "optimizer__lr": 0.2, "optimizer__weight_decay": 1e-3}
"""Zero error after 10 to 14 epochs, by seed."""


class Killed(BaseException):
    """Stands for SIGKILL."""


def times(folder: Path) -> list[int]:
    """Of the checkpoints."""
    return sorted(int(path.stem.removeprefix("epoch")) for path in (folder / "checkpoints").iterdir())


def zero_error(folder: Path) -> int:
    """By the training history, as the ``runs`` table has it."""
    return zero_error_epochs(folder / "history.parquet")["run"]


def assert_equal_checkpoints(one: Path, other: Path, time: int) -> None:
    (a, _), (b, _) = (read_tensors(folder / f"checkpoints/epoch{time:06d}.safetensors") for folder in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def without_settings(folder: Path) -> dict[str, object]:
    return {name: value for name, value in content(folder).items() if name != "spec.json"}


@pytest.mark.parametrize("seed", range(3))
def test_its_checkpoint_is_that_of_a_run_which_lists_it(seed, digits, tmp_path):
    run = planned((0, 20), seed=seed, **REACHES)
    train(run, digits, tmp_path / "run", CPU)
    zero = zero_error(tmp_path / "run")
    assert 0 < zero < 20
    assert times(tmp_path / "run") == [0, zero, 20]
    assert read_json(tmp_path / "run/spec.json")["zero_error_epoch"] == zero
    listed = replace(run, epochs=(0, zero, 20))
    train(listed, digits, tmp_path / "listed", CPU)
    assert content(tmp_path / "run") == content(tmp_path / "listed")  # nor is it doubled where it is declared
    for each, name in ((run, "run"), (listed, "listed")):
        extract_features(each, MeasureSpec(), digits, tmp_path / name, CPU)
    mine, theirs = (load_traces(tmp_path / name / "statistics.safetensors")["run"] for name in ("run", "listed"))
    assert mine.times == theirs.times == [0, zero, 20]
    assert mine.scalars == theirs.scalars


def test_a_run_that_never_reaches_it_has_none(digits, tmp_path):
    run = planned((0, 6))
    train(run, digits, tmp_path, CPU)
    assert times(tmp_path) == [0, 6]
    assert read_json(tmp_path / "spec.json")["zero_error_epoch"] is None
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    assert load_traces(tmp_path / "statistics.safetensors")["run"].times == [0, 6]


def test_it_may_be_the_last_epoch(digits, tmp_path):
    train(planned((0, 20), **REACHES), digits, tmp_path / "long", CPU)
    last = zero_error(tmp_path / "long")
    run = planned((0, last), **REACHES | {"epochs": last})
    train(run, digits, tmp_path / "short", CPU)
    assert times(tmp_path / "short") == [0, last]


def test_weights_that_broke_in_that_epoch_have_no_checkpoint(tmp_path):
    rows = [{"time": 1, "train_accuracy": 0.5}, {"time": 2, "train_accuracy": 1.0}]
    folder = StateFolder(tmp_path, "", (0, 9))
    assert folder.epochs_behind(Progress(2, history=rows)) == [0, 2]
    assert folder.epochs_behind(Progress(2, history=rows, diverged=True)) == [0]
    rows.append({"time": 3, "train_accuracy": float("nan")})
    assert folder.epochs_behind(Progress(3, history=rows, diverged=True)) == [0, 2]


def test_only_the_first_counts():
    accuracies = [0.9, 1.0, 0.99, 1.0]
    rows = [{"time": time, "train_accuracy": value} for time, value in enumerate(accuracies, 1)]
    assert Progress(4, history=rows).zero_error_epoch == 2
    assert Progress(4, history=[{"time": 1, "train_accuracy": float("nan")}]).zero_error_epoch is None


@pytest.mark.parametrize("when", ["before the state is saved", "after it"])
def test_killed_right_after_it_the_run_goes_on_to_the_same_bytes(when, digits, tmp_path, monkeypatch):
    run = planned((0, 20), **REACHES)
    train(run, digits, tmp_path / "whole", CPU)
    zero = zero_error(tmp_path / "whole")
    original = Trainer.save

    def deadly(self):
        if when == "after it":
            original(self)
        if self.epochs == zero:
            raise Killed
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save", deadly)
        with pytest.raises(Killed):
            train(run, digits, tmp_path / "killed", CPU)
    assert state_folder(run, tmp_path / "killed", digits).checkpoint(zero).exists()
    epochs, once = [], Trainer.epoch
    monkeypatch.setattr(Trainer, "epoch", lambda self, *a: (epochs.append(1), once(self, *a))[1])
    train(run, digits, tmp_path / "killed", CPU)
    assert len(epochs) == 20 - zero if when == "after it" else 20
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_state_without_its_checkpoint_is_worth_nothing(digits, tmp_path, monkeypatch):
    run = planned((0, 20), **REACHES)
    train(run, digits, tmp_path / "whole", CPU)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "publish", lambda self, stop: None)
        train(run, digits, tmp_path / "run", CPU)
    state = state_folder(run, tmp_path / "run", digits)
    assert state.load().progress.epoch == 20
    state.checkpoint(zero_error(tmp_path / "whole")).unlink()
    assert state.load().progress.epoch == 0
    train(run, digits, tmp_path / "run", CPU)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


# --- ensembles --------------------------------------------------------------------------------------


def trained_as_a_stack(digits, place: Path, measured: tuple[int, ...] = (0, 20)) -> dict[Path, NetworkRun]:
    """Three seeds by folder, each published by its own job."""
    runs = {place / str(seed): planned(measured, seed=seed, **REACHES) for seed in range(3)}
    first, *others = runs
    train_ensemble(runs[first], {folder: runs[folder] for folder in others}, digits, first, CPU)
    for folder in others:
        train_ensemble(runs[folder], {}, digits, folder, CPU)
    return runs


def test_every_member_of_a_stack_has_its_own(digits, tmp_path):
    folders = list(trained_as_a_stack(digits, tmp_path / "stack"))
    zeros = [zero_error(folder) for folder in folders]
    assert len(set(zeros)) > 1
    assert [times(folder) for folder in folders] == [[0, zero, 20] for zero in zeros]
    listed = trained_as_a_stack(digits, tmp_path / "listed", (0, *sorted(set(zeros)), 20))
    for folder, other, zero in zip(folders, listed, zeros, strict=True):
        assert_equal_checkpoints(folder, other, zero)
    for seed, folder in enumerate(folders):  # alone it is the same up to the order of sums
        run, alone = planned((0, 20), seed=seed, **REACHES), tmp_path / f"alone{seed}"
        train(run, digits, alone, CPU)
        assert times(alone) == times(folder)
        name = f"checkpoints/epoch{zeros[seed]:06d}.safetensors"
        for key, value in read_tensors(alone / name)[0].items():
            torch.testing.assert_close(read_tensors(folder / name)[0][key], value, rtol=1e-2, atol=1e-2)


def test_a_stack_killed_right_after_one_goes_on(digits, tmp_path, monkeypatch):
    whole = list(trained_as_a_stack(digits, tmp_path / "whole"))
    zeros = [zero_error(folder) for folder in whole]
    original, killed = Trainer.save, []

    def deadly(self):
        original(self)
        if self.epochs in zeros and self.epochs not in killed:
            killed.append(self.epochs)
            raise Killed

    monkeypatch.setattr(Trainer, "save", deadly)
    for _ in set(zeros):
        with pytest.raises(Killed):
            trained_as_a_stack(digits, tmp_path / "killed")
    again = list(trained_as_a_stack(digits, tmp_path / "killed"))
    assert [content(folder) for folder in again] == [content(folder) for folder in whole]


# --- the end phase ----------------------------------------------------------------------------------


def with_end_phase(epochs: int = 2, **changes: object) -> NetworkRun:
    """Measured at its last epoch and at two iterations only."""
    settings = {"epochs": epochs, "optimizer__weight_decay": 1e-3, "terminal": {"iterations": 60}}
    return planned((0, epochs, epochs + 1, epochs + 60), **settings | changes)


def test_reached_in_the_end_phase_it_is_an_iteration_of_its_own(digits, tmp_path):
    run = with_end_phase()
    train(run, digits, tmp_path / "run", CPU)
    zero = zero_error(tmp_path / "run")
    assert zero not in run.epochs
    assert times(tmp_path / "run") == [0, 2, 3, zero, 62]
    every = replace(run, epochs=tuple(range(63)))
    train(every, digits, tmp_path / "every", CPU)
    assert zero_error(tmp_path / "every") == zero  # no iteration before it is without error
    assert_equal_checkpoints(tmp_path / "run", tmp_path / "every", zero)
    assert_equal_checkpoints(tmp_path / "run", tmp_path / "every", 62)
    extract_features(run, MeasureSpec(), digits, tmp_path / "run", CPU)
    trace = load_traces(tmp_path / "run/statistics.safetensors")["run"]
    assert trace.times == [0, 2, 3, zero, 62]


def test_reached_before_the_end_phase_it_is_an_epoch(digits, tmp_path):
    run = with_end_phase(**REACHES)
    run = replace(run, epochs=(0, 20, 21, 80))
    train(run, digits, tmp_path, CPU)
    zero = zero_error(tmp_path)
    assert zero < 20
    assert times(tmp_path) == [0, zero, 20, 21, 80]


def test_killed_right_after_it_the_end_phase_goes_on(digits, tmp_path, monkeypatch):
    run = with_end_phase()
    train(run, digits, tmp_path / "whole", CPU)
    zero = zero_error(tmp_path / "whole")
    monkeypatch.setattr("ncpipe.training.state.SAVE_INTERVAL", 0.0)
    monkeypatch.setattr("ncpipe.training.state.SAVE_SHARE", 0.0)
    original = EndPhase.save

    def deadly(self):
        original(self)
        if self.progress.zero_error_epoch == zero:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(EndPhase, "save", deadly)
        with pytest.raises(Killed):
            train(run, digits, tmp_path / "killed", CPU)
    assert state_folder(run, tmp_path / "killed", digits).checkpoint(zero).exists()
    train(run, digits, tmp_path / "killed", CPU)
    assert without_settings(tmp_path / "killed") == without_settings(tmp_path / "whole")


@pytest.mark.parametrize("chunk", [None, 7, 49, 64])
def test_all_images_right_is_1_exactly_in_chunks_too(chunk, digits, monkeypatch):
    """Shares of chunks added up, as 0.7 + 0.2 + 0.1, may stay below."""
    monkeypatch.setattr("ncpipe.training.full_batch.correct", lambda logits, targets: targets >= 0)
    run = planned()
    data = open_batches(digits, "train", CPU.device)
    full = FullBatch(new_network(run.spec, digits), run.spec, data, CPU.device, chunk)
    assert full.evaluate().accuracy == 1


# --- what is made of it -----------------------------------------------------------------------------


def study_of(folder: Path, measured: list[int]) -> Study:
    network = {key: value for key, value in NETWORK.items() if key != "dataset"}
    network |= {"epochs": 20, "loss": {"name": "ce"}, "optimizer": {"lr": 0.2, "weight_decay": 1e-3}}
    return Study(
        {
            "study": {"name": "tiny", "results": str(folder)},
            "datasets": {"base": NETWORK["dataset"]},
            "networks": {"base": network, "sweep": {"grid": {"seed": [0, 1]}}},
            "measure": {"epochs": measured},
            "ufm": {"matched": []},
            "claims": ["papyan2020"],
        }
    )


def test_ids_name_the_declared_epochs_alone(tmp_path):
    ids = list(study_of(tmp_path, [0, 20]).networks)
    assert ids == ["digits-mlp2x16-ce-bias-s0-774585ea", "digits-mlp2x16-ce-bias-s1-647f2704"]


def test_the_tables_have_it_and_claims_start_at_it(digits, tmp_path):
    study = study_of(tmp_path, [0, 19, 20])
    for run in study.networks.values():
        folder = study.layout.run(run.id)
        train(run, digits, folder, CPU)
        extract_features(run, study.config.measure, digits, folder, CPU)
        write_collapse(folder / "statistics.safetensors", "net", folder / "collapse.parquet")
    write_tables(study)
    tables = read_tables(study.layout.tables)
    zeros = tables["runs"].set_index("run_id")["zero_error_epoch"]
    rows = tables["collapse"].query("metric == 'nc1_pinv' and layer == 'features' and split == 'train'")
    by_run = rows.groupby("run_id", observed=True)["time"].apply(list)
    assert {run_id: by_run[run_id] for run_id in zeros.index} == {i: [0, zeros[i], 19, 20] for i in zeros.index}
    assert zeros.nunique() == 2
    started = past_zero_error(tables, "nc1_pinv")["first"]
    values = rows.set_index(["run_id", "time"])["value"]
    assert {i: started[i] for i in zeros.index} == {i: values[i, zeros[i]] for i in zeros.index}
    assert tables["claims"].set_index("claim_id")["count"]["papyan2020-1"] == 2
