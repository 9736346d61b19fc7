"""``ncpipe record``: checkpoints of one's own network as a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from networks_in_training import CPU, planned
from safetensors.torch import save_file
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

from ncpipe import Recorder
from ncpipe.cli.main import app
from ncpipe.features.extraction import extract_features
from ncpipe.recording.checkpoints import (
    Normalisation,
    build,
    find_checkpoints,
    open_data,
    read_weights,
    record_checkpoints,
)
from ncpipe.stages.collapse import write_collapse
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.system.errors import UserError
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import new_network

CODE = """
from torch import nn


class MyNet(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Linear(4, width), nn.ReLU()), nn.Linear(width, 3)

    def forward(self, x):
        return self.fc(self.body(x) + 1)


def nothing():
    return 3


def leave():
    raise SystemExit(3)


def broken():
    raise RuntimeError("no\\nmore")
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a network, data and a checkpoint of width 8."""
    monkeypatch.chdir(tmp_path)
    Path("mynet.py").write_text(CODE)
    random, labels = np.random.default_rng(0), np.arange(12) % 3
    vectors = random.normal(size=(12, 4)).astype("float32")
    np.savez("x.npz", train_vectors=vectors, train_labels=labels, test_vectors=-vectors, test_labels=labels)
    np.savez("bytes.npz", images=random.integers(0, 256, (12, 1, 2, 2)).astype("uint8"), labels=labels)
    torch.manual_seed(0)
    torch.save(build("mynet.py:MyNet", {"width": 8}).state_dict(), "e1.pt")
    return tmp_path


def record(*words: str) -> object:
    return CliRunner().invoke(app, ["record", *words])


def test_checkpoints_of_a_study_give_its_tables(digits, tmp_path):
    run = planned(head__bias=True)
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(), digits, tmp_path, CPU)
    write_collapse(tmp_path / "statistics.safetensors", "net", tmp_path / "collapse.parquet")
    network, loaders = new_network(run.spec, digits), {}
    for split in ("train", "test"):
        data = open_batches(digits, split, CPU.device)
        loaders[split] = DataLoader(TensorDataset(data.finished(data.images), data.labels), 64)
    layers = [f"stages.{name}" for name in run.layers]
    recorder = Recorder(tmp_path / "mine", "run", loss="mse", layers=layers, classifier="head")
    found = find_checkpoints([str(tmp_path / "checkpoints/*.safetensors")])
    assert [*found] == [0, 3, 6]
    record_checkpoints(recorder, network, found, loaders, CPU.device)

    keys = ["run_id", "split", "layer", "time", "metric"]
    ordinary = pd.read_parquet(tmp_path / "collapse.parquet").set_index(keys)["value"]
    mine = pd.read_parquet(tmp_path / "mine/tables/collapse.parquet")
    mine = mine.assign(layer=mine["layer"].str.removeprefix("stages.")).set_index(keys)["value"]
    # what takes the loss' penalties or the next layer's matrix is the study's alone
    rest = ordinary.index.difference(mine.index).get_level_values("metric")
    assert set(rest) <= {"nc3_rows", "subspace_alignment", "loss_nc1", "loss_nc23", "loss_perp", "loss_penalised",
                         "snr_min", "snr_max", "vci", "classifier_stationarity"}  # fmt: skip
    assert not len(mine.index.difference(ordinary.index))
    np.testing.assert_allclose(mine, ordinary[mine.index], rtol=1e-5, atol=1e-9)
    grams = [pd.read_parquet(tmp_path / at / "grams.parquet")["value"] for at in ("", "mine/tables")]
    np.testing.assert_allclose(*grams, rtol=1e-9, atol=1e-12)


def test_a_wrapped_nested_state_dict_is_read_and_said(place):
    weights = {f"module.{name}": value for name, value in torch.load("e1.pt").items()}
    torch.save({"state_dict": weights, "epoch": 2}, "e2.pt")
    save_file(torch.load("e1.pt"), "e10.safetensors")
    done = record("mynet.py:MyNet", "e*", "--data", "x.npz", "--results", "r", "--arg", "width=8", "--loss", "ce",
                  "--setting", "learning_rate=0.1", "--classifier", "fc")  # fmt: skip
    assert done.exception is None
    assert "e2.pt: weights are those under 'state_dict'" in done.output
    assert "e2.pt: names are read without 'module.'" in done.output
    assert "recorded 3 checkpoints of MyNet in r" in done.output
    collapse = pd.read_parquet("r/tables/collapse.parquet").dropna(subset="value")
    assert set(collapse["layer"]) == {"body", "features"}
    values = collapse.set_index(["split", "layer", "metric", "time"])["value"].unstack()
    assert [*values] == [1, 2, 10]
    assert (values[1] == values[2]).all()
    assert (values[1] == values[10]).all()
    [run] = pd.read_parquet("r/tables/runs.parquet").to_dict("records")
    assert (run["run_id"], run["dataset"], run["learning_rate"], run["loss"]) == ("MyNet", "x", 0.1, "ce")


def test_nothing_is_recorded_where_one_checkpoint_does_not_fit(place):
    torch.save(build("mynet.py:MyNet", {"width": 9}).state_dict(), "other2.pt")
    done = record("mynet.py:MyNet", "e1.pt", "other2.pt", "--data", "x.npz", "--results", "r", "--arg", "width=8")
    assert "of another network than MyNet" in str(done.exception)
    assert not list(Path("r").rglob("*.parquet"))


def test_uint8_is_normalised_as_torchvision_does(place):
    with pytest.raises(UserError, match="images are uint8: give --mean and --std"):
        open_data(Path("bytes.npz"), None, 4)
    [[images, _], *_] = open_data(Path("bytes.npz"), Normalisation((0.5,), (0.25,)), 12)["train"]
    raw = torch.from_numpy(np.load("bytes.npz")["images"])
    torch.testing.assert_close(images, (raw / 255 - 0.5) / 0.25)
    with pytest.raises(UserError, match="--mean has 2 values, images have 1 channels"):
        open_data(Path("bytes.npz"), Normalisation((0.5, 0.5), (1, 1)), 4)


def test_epochs_are_read_from_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("net18_e2.pt", "net18_e11.pt", "a=1-s=20.pt", "a=2-s=40.pt", "e2.pt", "best.pt", "b/model_3.pt")
    Path("b").mkdir()
    for name in names:
        Path(name).touch()
    assert find_checkpoints(["net18*"]) == {2: Path("net18_e2.pt"), 11: Path("net18_e11.pt")}
    assert [*find_checkpoints(["a=*"], r"a=(\d+)")] == [1, 2]
    assert [*find_checkpoints(["b/*.pt", "e2.pt"])] == [3, 2]
    for patterns, message in (
        (["a=*"], "differ in several numbers"),
        (["net18*", "e2.pt"], "differ in several numbers"),
        (["e2.pt", "best.pt"], "best.pt: no epoch in the name"),
        (["*.xy"], r"no file matches '\*.xy'"),
    ):
        with pytest.raises(UserError, match=message):
            find_checkpoints(patterns)
    with pytest.raises(UserError, match="are both of epoch 2"):
        find_checkpoints(["e2.pt", "net18*"], r"e(\d+)\.pt")
    with pytest.raises(UserError, match="needs one group"):
        find_checkpoints(["e2.pt"], r"(e)(\d)")


def test_mistakes_are_told_in_one_line(place):
    torch.save({"epoch": 3}, "empty2.pt")
    torch.save(torch.nn.Linear(2, 2), "pickled3.pt")
    Path("damaged4.pt").write_bytes(b"abc")
    Path("noise7.pt").write_bytes(bytes(range(128, 256)) * 20)
    torch.save(build("mynet.py:MyNet", {"width": 9}).state_dict(), "other5.pt")
    torch.save({"body.0.weight": torch.zeros(8, 4), "x": torch.zeros(1)}, "part6.pt")
    for name, message in (
        ("empty2.pt", "holds no state_dict"),
        ("pickled3.pt", "objects beside plain data; save plain tensors"),
        ("damaged4.pt", "not written by torch.save"),
        ("noise7.pt", "not written by torch.save"),
    ):
        with pytest.raises(UserError, match=message):
            read_weights(Path(name))
    for target, message in (
        ("mynet.py:MyNat", "did you mean 'MyNet'"),
        ("mynet.py", "name a file and a class"),
        ("my.py:MyNet", "no file 'my.py'"),
        ("no_such_module:MyNet", "no_such_module"),
        ("mynet.py:nothing", "no torch.nn.Module"),
        ("mynet.py:broken", "RuntimeError: no more"),
        ("mynet.py:leave", "line \\d+: SystemExit: 3"),
    ):
        with pytest.raises(UserError, match=message):
            build(target, {})
    with pytest.raises(UserError, match="unexpected keyword argument 'widht'"):
        build("mynet.py:MyNet", {"widht": 8})
    given = ("--data", "x.npz", "--arg", "width=8", "--results", "r")
    for words, message in (
        (("other5.pt", *given), "other5.pt is of another network than MyNet: body.0.weight is (9, 4), not (8, 4)"),
        (("part6.pt", *given), "it lacks body.0.bias, fc.bias, fc.weight; it has x beside"),
        (("e1.pt", *given[2:], "--data", "y.npz"), "--data y.npz: there is no such file"),
        (("e1.pt", *given, "--arg", "width"), "--arg width: expected name=value"),
        (("e1.pt", *given, "--mean", "0"), "--mean and --std go together"),
        (("e1.pt", *given, "--mean", "0", "--std", "0"), "each std above 0"),
    ):
        assert message in str(record("mynet.py:MyNet", *words).exception)
    assert not Path("r").exists()
