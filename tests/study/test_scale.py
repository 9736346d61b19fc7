"""Scales of a study: what is laid over what, where the results lie, and what is said of mistakes."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ncpipe.cli.main import app
from ncpipe.settings.scale import at_scale
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {
    "study": {"name": "sized", "title": "Two sizes"},
    "scale": "small",
    "scales": {
        "small": {"networks": {"base": {"epochs": 2}}},
        "paper": {
            "datasets": {"base": {"name": "mnist", "samples_per_class": None}},
            "networks": {"base": {"model": {"width": 64}, "epochs": 7}, "sweep": {"grid": {"seed": [0, 1, 2]}}},
        },
    },
    "datasets": {"base": {"name": "digits", "samples_per_class": 20}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 8},
            "loss": {"name": "mse"},
            "epochs": 1,
            "optimizer": {"lr": 0.1, "weight_decay": 5e-3},
        },
        "sweep": {"grid": {"seed": [0], "batch_size": [32]}},
    },
}


def changed(scale: object = "small", **changes: object) -> dict:
    return copy.deepcopy(CONFIG) | {"scale": scale, **changes}


def test_a_scale_is_laid_over_the_rest_mapping_by_mapping():
    config = changed("paper")
    merged = at_scale(config)
    assert merged["networks"]["base"]["model"] == {"name": "mlp", "depth": 2, "width": 64}
    assert merged["networks"]["sweep"]["grid"] == {"seed": [0, 1, 2], "batch_size": [32]}  # lists are replaced
    assert merged["datasets"]["base"] == {"name": "mnist", "samples_per_class": None}  # null is a value
    assert merged["scale"] == "paper"
    assert "scales" not in merged
    assert config == changed("paper")  # nothing given is changed
    merged["networks"]["base"]["model"]["width"] = 1
    assert config["scales"]["paper"]["networks"]["base"]["model"]["width"] == 64


def test_a_study_runs_at_its_scale():
    small, paper = Study(changed("small")), Study(changed("paper"))
    assert [run.spec.epochs for run in small.networks.values()] == [2]
    assert [run.spec.epochs for run in paper.networks.values()] == [7, 7, 7]
    assert {spec.name for spec in paper.datasets.values()} == {"mnist"}
    assert paper.config.scale == "paper"


def test_results_of_a_scale_have_their_own_place_unless_the_study_names_one():
    assert Study(changed("small")).layout.results == Path("results/sized-small")
    assert Study(changed("paper")).layout.results == Path("results/sized-paper")
    named = changed(study={"name": "sized", "results": "elsewhere"})
    assert Study(named).layout.results == Path("elsewhere")
    by_scale = changed(scales={"small": {"study": {"results": "here"}}})
    assert Study(by_scale).layout.results == Path("here")


def test_a_resolved_study_is_the_same_when_read_again():
    study = Study(changed("paper"))
    again = Study(study.config.model_dump(mode="json"))
    assert again.config == study.config
    assert list(again.networks) == list(study.networks)
    assert again.layout == study.layout


def test_a_study_without_scales_is_left_alone():
    config = {key: value for key, value in CONFIG.items() if key not in ("scale", "scales")}
    assert at_scale(config) == config
    assert Study(config).layout.results == Path("results")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed("big"), r"no scale 'big'; set scale to one of small, paper"),
        (changed(None), r"no 'scale'; set scale to one of small, paper"),
        (changed(3), r"no scale 3; set scale to one of small, paper"),
        (changed(scales=["small"]), r"'scales' must map names to settings"),
        (changed(scales={"small": 3}), r"scales.small must be a mapping of settings"),
        (changed(scales={"small": {"scale": "paper"}}), r"scales.small cannot hold 'scale'"),
        (changed(scales={"small": {"network": {}}}), r"network.*networks.*\(at scale small\)"),
        (changed(scales={"small": {"networks": {"base": {"epochs": 0}}}}), r"epochs.*\(at scale small\)"),
        (changed(scales={"small": {"figures": ["frame"]}}), r"did you mean 'frames'\? \(at scale small\)"),
        (changed(scales={"small": {"ufm": {"base": {"classes": 3, "dim": "x"}}}}), r"ufm.*\(at scale small\)"),
    ],
)
def test_mistakes_are_one_line_that_names_the_scale(config, message):
    with pytest.raises(UserError, match=message) as told:
        Study(config)
    assert "\n" not in str(told.value)


def test_mistakes_without_scales_name_none():
    with pytest.raises(UserError) as told:
        Study({"study": {"name": "x"}, "networks": {}})
    assert "scale" not in str(told.value)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "sized.yaml"
    path.write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    return path


def test_a_file_is_read_at_another_scale(file):
    assert Study.read(file).config.scale == "small"
    assert Study.read(file, "paper").config.scale == "paper"
    with pytest.raises(UserError, match="no scale 'big'"):
        Study.read(file, "big")
    file.write_text(yaml.safe_dump({key: value for key, value in CONFIG.items() if key not in ("scale", "scales")}))
    with pytest.raises(UserError, match=r"sized.yaml has only one size; leave the scale 'paper' out"):
        Study.read(file, "paper")


def test_the_command_line_chooses_the_scale(file):
    def plan(*options: str) -> str:
        done = CliRunner().invoke(app, ["plan", "--no-estimate", str(file), *options])
        assert done.exit_code == 0, done.output
        return done.output

    assert plan().count(" train ") == 1
    assert plan("--scale", "paper").count(" train ") == 3
    assert "study sized: 3 networks" in CliRunner().invoke(app, ["doctor", str(file), "--scale", "paper"]).output


@pytest.mark.thorough
@pytest.mark.slow
def test_snakemake_runs_the_chosen_scale(file):
    def planned(*config: str) -> str:
        command = [sys.executable, "-m", "snakemake", "tables", "--dry-run", "--directory", str(file.parent)]
        command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(file), *config]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    small, paper = planned(), planned("--config", "scale=paper")
    assert "results/sized-small/tables/runs.parquet" in small
    assert "results/sized-paper/tables/runs.parquet" in paper
    assert (small.count("rule train:"), paper.count("rule train:")) == (1, 3)
    assert "ncpipe: config: no scale 'big'; set scale to one of small, paper" in planned("--config", "scale=big")
