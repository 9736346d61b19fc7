"""A network of another package: planned, estimated, trained and measured like ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from in_one_process import run_study
from plugins import install

from ncpipe.data.source import NominalShape
from ncpipe.networks.architectures import ARCHITECTURES
from ncpipe.plan import calibration
from ncpipe.plan.table import print_plan
from ncpipe.records.writing import read_table
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

OWL = '''
from typing import Literal
from torch import nn
from ncpipe.networks import Backbone
from ncpipe.networks.architecture import Architecture

class Owl(Architecture):
    """Two eyes."""
    name: Literal["owl", "barn_owl"]
    width: int = 8

    def layers(self):
        return ["eyes", "features"]

    def build(self, image_shape):
        eyes = nn.Sequential(nn.Conv2d(image_shape[0], self.width, 3), nn.Tanh())
        return Backbone({"eyes": eyes, LAST: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())}, self.width)
'''


@pytest.fixture
def owls(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    last = getattr(request, "param", "features")
    install(ARCHITECTURES, "owls", OWL.replace("LAST", repr(last)), tmp_path / "package", monkeypatch, ":Owl")


def study(folder: Path, **model: object) -> Study:
    network = {"model": {"name": "barn_owl", **model}, "loss": {"name": "mse"}, "optimizer": {"lr": 0.05}}
    return Study(
        {
            "study": {"name": "owls", "results": str(folder / "results")},
            "datasets": {"base": {"name": "digits", "samples_per_class": 5, "test_samples_per_class": 2}},
            "networks": {"base": network | {"epochs": 2}},
            "ufm": {"matched": ["plain"]},
            "tracking": {"enabled": False},
            "figures": ["collapse_curves"],
        }
    )


def test_it_is_planned_trained_and_measured(
    tmp_path: Path, owls: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(calibration, "DURATION", 0.01)
    owl = study(tmp_path)
    ((run_id, run),) = owl.networks.items()
    assert run_id.startswith("digits-barn_owl-mse-bias-s0-")
    print_plan(owl)
    (planned,) = (line for line in capsys.readouterr().out.splitlines() if line.split()[:2] == ["train", run_id])
    assert planned.split()[-1] == "MiB"
    run_study(owl)
    runs = read_table(owl.layout.tables / "runs.parquet").to_pandas().set_index("run_id")
    assert tuple(runs.loc[run_id, ["model", "width", "status"]]) == ("barn_owl", 8, "done")
    collapse = read_table(owl.layout.tables / "collapse.parquet").to_pandas()
    assert {*collapse.query("run_id == @run_id")["layer"]} == {*run.spec.layers()}
    assert (owl.layout.figures / "collapse_curves.svg").exists()


def test_mistakes_are_told_as_those_of_ours(tmp_path: Path, owls: None) -> None:
    with pytest.raises(UserError, match=r"networks\.base\.model: unknown key 'widht'; did you mean 'width'\?"):
        _ = study(tmp_path, widht=3).networks
    with pytest.raises(UserError, match=r"unknown value 'barn_owls'; did you mean 'barn_owl'\?"):
        _ = study(tmp_path, name="barn_owls").networks


@pytest.mark.parametrize("owls", ["beak"], indirect=True)
def test_stages_that_are_not_the_named_layers_are_refused(tmp_path: Path, owls: None) -> None:
    (run,) = study(tmp_path).networks.values()
    with pytest.raises(UserError, match=r"'barn_owl' builds the stages \['eyes', 'beak'\], but names \['eyes', 'f"):
        calibration._built(run.spec, NominalShape((1, 8, 8), 10, 60, 20))
