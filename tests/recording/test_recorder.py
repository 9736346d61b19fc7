"""``ncpipe.Recorder``: tables of a study from any loop, and what is made of them."""

from __future__ import annotations

import json
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import ncpipe
from ncpipe import Recorder
from ncpipe.cli.main import app
from ncpipe.recording.folder import FIGURES
from ncpipe.records.reading import read_tables
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

LABELS = torch.arange(24) % 3


class MyNet(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.top = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), nn.Linear(8, 8)
        self.fc = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.top(self.body(x))


def batches(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(24, 4, generator=random)
    return [(images[:16], LABELS[:16]), (images[16:], LABELS[16:])]


LOADERS = {"train": batches(0), "test": batches(1)}


def frames(results: Path) -> dict[str, pd.DataFrame]:
    tables = read_tables(results / "tables")
    tables.check_whole()
    return {
        name: tables[name].astype(dict.fromkeys(tables[name].select_dtypes("category"), object)) for name in tables
    }


def test_tables_are_those_of_measure(tmp_path):
    net = MyNet()
    net.train()
    with Recorder(tmp_path, "one", loss=nn.functional.cross_entropy, settings={"weight_decay": 0.1}) as recorder:
        found = recorder.measure(net, LOADERS, 3, learning_rate=0.5, train_loss=7.0)
    assert net.training
    tables = frames(tmp_path)
    with torch.no_grad():
        features, labels = torch.cat([net.features(x) for x, _ in LOADERS["test"]]), LABELS
        own = torch.cat([net.features(x) for x, _ in LOADERS["train"]])
    means = torch.stack([own[labels == c].double().mean(0) for c in range(3)])
    row = ncpipe.measure(features, labels, net.fc.weight, net.fc.bias, train_means=means)
    collapse = tables["collapse"].query("layer == 'features' and split == 'test'").set_index("metric")["value"]
    for name in ("nc1_pinv", "nc3_duality", "ncc_accuracy", "accuracy", "nc1_pinv_train_means"):
        assert collapse[name] == pytest.approx(row[name], rel=1e-9)
        assert found["test"][name] == collapse[name]
    loss = nn.functional.cross_entropy(net.fc(features).double(), labels).item()
    assert collapse["loss"] == pytest.approx(loss, rel=1e-6)
    history = tables["history"].set_index("quantity")["value"]
    assert history.loc[["train_loss", "learning_rate"]].tolist() == [7.0, 0.5]
    assert history["test_loss"] == collapse["loss"]
    [run] = tables["runs"].to_dict("records")
    assert (run["label"], run["model"], run["bias"], run["status"]) == ("one", "MyNet", "yes", "done")
    assert (run["classes"], run["train_samples"], run["final_epoch"], run["epochs"]) == (3, 24, 3, 3)
    assert run["final_test_loss"] == collapse["loss"]
    assert list(run["weight_decay"]) == [0.1]
    assert run["parameters"] == 4 * 8 + 8 + 8 * 8 + 8 + 8 * 3 + 3
    grams = tables["grams"].query("gram == 'weights'")["value"].to_numpy().reshape(3, 3)
    weight = net.fc.weight.detach().double()
    assert grams == pytest.approx((weight @ weight.T).numpy())


def test_a_run_goes_on_and_a_repeated_epoch_is_replaced(tmp_path):
    settings = {"seed": 1, "path": Path("/x")}
    for epoch in (0, 2):
        Recorder(tmp_path, "one", settings=settings).measure(MyNet(epoch), LOADERS, epoch)
    before = frames(tmp_path)
    other = Recorder(tmp_path, "one", settings=settings)
    other.measure(MyNet(5), LOADERS, 0)
    after = frames(tmp_path)
    for name in ("collapse", "history", "timings"):
        assert len(after[name]) == len(before[name])
        assert sorted(after[name]["time"].unique()) == [0, 2]
    pd.testing.assert_frame_equal(after["grams"], before["grams"])  # of the last epoch
    changed = (after["collapse"]["value"] != before["collapse"]["value"]) & after["collapse"]["value"].notna()
    assert set(after["collapse"]["time"][changed]) == {0}
    other.measure(MyNet(5), LOADERS, 2)
    assert (frames(tmp_path)["grams"]["value"] != before["grams"]["value"]).all()


def test_many_runs_write_into_one_folder_at_once(tmp_path):
    def run(number: int) -> None:
        recorder = Recorder(tmp_path, f"r{number}", label="net", settings={"lr": number // 2, "seed": number % 2})
        for epoch in range(2):
            recorder.measure(MyNet(number), LOADERS, epoch)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, range(4)))
    tables = frames(tmp_path)
    assert tables["runs"]["label"].tolist() == ["net lr=0", "net lr=0", "net lr=1", "net lr=1"]
    assert tables["runs"]["seed"].tolist() == [0, 1, 0, 1]
    assert tables["runs"]["final_epoch"].tolist() == [1, 1, 1, 1]
    counts = tables["collapse"].groupby("run_id")["time"].nunique()
    assert counts.to_dict() == {f"r{number}": 2 for number in range(4)}


@pytest.mark.every(3)
@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (lambda at: Recorder(at, "a b"), "may hold letters"),
        (lambda at: Recorder(at, "study-x"), "must not be called 'study-x'"),
        (lambda at: Recorder(at, "x", settings={"learning_rate": "big"}), "'learning_rate' fills a column of type"),
        (lambda at: Recorder(at, "x", loss="cee"), "did you mean 'ce'"),
        (lambda at: Recorder(at, "x", loss="pick_all_labels"), "is of several labels a sample"),
        (lambda at: Recorder(at, "one", settings={"lr": 2}), "recorded with the settings {'lr': 1}, not {'lr': 2}"),
        (lambda at: Recorder(at, "x").measure(MyNet(), {"test": batches()}, 0), "no 'train'"),
        (lambda at: Recorder(at, "x").measure(MyNet(), LOADERS | {"val": batches()}, 0), "loaders has 'val'"),
        (lambda at: Recorder(at, "x").measure(MyNet(), LOADERS, 0.5), "whole number"),
        (lambda at: Recorder(at, "x", classifier="fd").measure(MyNet(), LOADERS, 0), "epoch 0: .* did you mean 'fc'"),
        (lambda at: Recorder(at, "x", layers=["bod"]).measure(MyNet(), LOADERS, 0), "did you mean 'body'"),
        (lambda at: Recorder(at, "x").measure(MyNet(), {"train": [(batches()[0][0], LABELS[:16] + 1)]}, 0), "labels"),
        (lambda at: Recorder(at, "x").measure(MyNet(), {"train": []}, 0), "no batch"),
        (lambda at: Recorder(at, "x").measure(MyNet(), two_classes(), 0), "no training sample of class 2 of 3"),
        (lambda at: Recorder(at, "x").measure(diverged(), LOADERS, 4), "x, epoch 4: features .* non-finite"),
        (lambda at: layers_change(at), r"with the layers \['body', 'features'\], not \['body.0', 'features'\]"),
    ],
)  # fmt: skip
def test_mistakes_are_told_in_one_line(tmp_path, mistake, message):
    Recorder(tmp_path, "one", settings={"lr": 1}).measure(MyNet(), LOADERS, 0)
    before = frames(tmp_path)
    with pytest.raises(UserError, match=message):
        mistake(tmp_path)
    for name, frame in frames(tmp_path).items():
        pd.testing.assert_frame_equal(frame, before[name])


def diverged() -> nn.Module:
    net = MyNet()
    net.body[0].weight.data[:] = float("nan")
    return net


def two_classes() -> dict[str, list[tuple[torch.Tensor, torch.Tensor]]]:
    return {split: [(images, labels % 2) for images, labels in loader] for split, loader in LOADERS.items()}


def layers_change(results: Path) -> None:
    Recorder(results, "one", settings={"lr": 1}, layers=["body.0"]).measure(MyNet(), LOADERS, 1)


def test_the_folder_of_a_study_is_refused(tmp_path):
    (tmp_path / "tables").mkdir()
    with pytest.raises(UserError, match="results of a study"):
        Recorder(tmp_path, "one")


def test_what_is_made_of_tables_needs_no_study(tmp_path, monkeypatch, empty_store):
    results = tmp_path / "my results"
    for name in ("one", "two"):
        recorder = Recorder(results, name, loss="ce", settings={"dataset": "noise"})
        for epoch in (0, 2):
            recorder.measure(MyNet(epoch), LOADERS, epoch)
    recording = json.loads((results / "recording.json").read_text())
    assert (recording["study"]["name"], tuple(recording["figures"])) == ("my-results", FIGURES)
    assert list(Study.read(results).figures) == [*FIGURES]
    recording["figures"] = ["training_curves"]
    (results / "recording.json").write_text(json.dumps(recording))
    (results / "mlflow").mkdir()
    (results / "mlflow/mlflow.db").write_bytes(empty_store.read_bytes())
    monkeypatch.chdir(tmp_path)

    def call(*words: object) -> str:
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exception is None, done.output
        return done.output

    assert "2" in call("query", "SELECT count(*) FROM runs", results)
    assert "wrote x.svg" in call("figure", "frames", "--tables", results, "--output", "x.svg")
    call("report", results)
    page = (results / "report.html").read_text()
    assert "training_curves" in page
    assert "ncpipe reproduce" not in page
    assert "2 created" not in call("sync", results)
    assert "3 kept" in call("sync", results)
    assert "nc1_pinv" in call("compare", results / "one", results / "two")
    before = frames(results)
    call("tables", results)
    for name, frame in frames(results).items():
        pd.testing.assert_frame_equal(frame, before[name])
    shutil.rmtree(results / "runs/one")
    call("tables", results)
    assert all(set(frames(results)[name]["run_id"]) == {"two"} for name in ("runs", "collapse", "grams"))
    for words, message in (
        (("reproduce", results / "two"), ""),  # told on stderr
        (("report", tmp_path), "holds no results"),
    ):
        done = CliRunner().invoke(app, [*map(str, words)])
        assert done.exit_code
        assert message in str(done.exception)


def test_the_library_alone_says_what_to_install(monkeypatch):
    monkeypatch.delattr(ncpipe.recording, "folder")
    monkeypatch.setitem(sys.modules, "ncpipe.recording.folder", None)
    with pytest.raises(UserError, match=r"ncpipe.Recorder needs .*: pip install 'ncpipe\[pipeline\]'"):
        Recorder("r", "x")


def test_a_loss_with_weights_of_its_own_is_measured_in_their_precision(tmp_path: Path) -> None:
    weighted = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 3.0]))
    measured = Recorder(tmp_path, "weighted", loss=weighted).measure(MyNet(), LOADERS, epoch=1)
    assert measured["train"]["loss"] > 0
