"""Config: expansion of sweeps, identity of runs, and the one line that every mistake gets."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from ncpipe.collapse.metrics import METRICS
from ncpipe.data.settings import DatasetSpec
from ncpipe.settings.base import log_spaced
from ncpipe.settings.identity import canonical, identify
from ncpipe.settings.sweep import Block, expand, laid_over
from ncpipe.study.config import Config
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.training.settings import measured_epochs
from ncpipe.ufm.settings import UfmSpec

ROOT = Path(__file__).resolve().parents[2]

CONFIG = {
    "study": {"name": "tiny"},
    "datasets": {"base": {"name": "digits"}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 8},
            "loss": {"name": "mse"},
            "optimizer": {"lr": 0.1, "weight_decay": 5e-3},
            "epochs": 3,
        },
        "sweep": {"grid": {"seed": [0, 1]}},
    },
    "ufm": {
        "base": {
            "classes": 3,
            "samples": 4,
            "dim": 5,
            "weight_decay": 5e-3,
            "feature_decay": 1e-3,
            "solver": {"name": "lbfgs"},
        },
        "sweep": {"grid": {"seed": [0, 1]}},
    },
}

PLAIN = {"classes": 3, "samples": 4, "dim": 5, "solver": {"name": "lbfgs"}}


def changed(key: str, value: object) -> dict:
    return laid_over(copy.deepcopy(CONFIG), {key: value})


def test_sweep_is_the_product_of_grids_and_zips_without_the_excluded_and_with_the_included():
    block = Block.model_validate(
        {
            "base": {"a": {"x": 0, "y": 0}, "b": 0},
            "sweep": {
                "grid": {"b": [1, 2]},
                "zip": [{"a.x": [1, 2], "a.y": [10, 20]}],
                "exclude": [{"a.x": 2, "b": [2, 3]}],
                "include": [{"b": 9}],
            },
        }
    )
    runs = expand(block, "networks")
    assert runs == [
        {"a": {"x": 1, "y": 10}, "b": 1},
        {"a": {"x": 2, "y": 20}, "b": 1},
        {"a": {"x": 1, "y": 10}, "b": 2},
        {"a": {"x": 0, "y": 0}, "b": 9},
    ]
    assert block.base == {"a": {"x": 0, "y": 0}, "b": 0}


def test_networks_are_crossed_with_data_sets_and_can_be_excluded_by_them():
    config = changed("datasets.sweep", {"grid": {"name": ["digits", "mnist"]}})
    assert len(Study(config).networks) == 4
    config = laid_over(config, {"networks.sweep.exclude": [{"dataset.name": "mnist", "seed": 1}]})
    assert [run.spec.dataset.name for run in Study(config).networks.values()] == ["digits", "digits", "mnist"]


def test_ids_depend_on_what_the_stage_reads_and_on_nothing_else():
    base = Study(CONFIG)
    for key, value in [
        ("figures", ["frames"]),
        ("study.title", "x"),
        ("study.results", "elsewhere"),
        ("networks.base.optimizer.momentum", 0.9),  # the default, written out
        ("networks.base.optimizer.weight_decay", 0.005),
        ("measure.layers", 2),
    ]:
        other = Study(changed(key, value))
        assert list(other.networks) == list(base.networks), key
        assert list(other.ufm_batches) == list(base.ufm_batches), key
    assert set(base.networks) < set(Study(changed("networks.sweep.grid.seed", [0, 1, 2])).networks)
    for key, value in [("networks.base.epochs", 4), ("datasets.base.seed", 1), ("measure.epochs", [1, 2])]:
        assert not set(Study(changed(key, value)).networks) & set(base.networks), key


def test_ids_leave_defaults_out_so_that_new_settings_change_none():
    assert canonical(DatasetSpec(name="digits", seed=0)) == {"name": "digits"}
    assert identify("digits", DatasetSpec(name="digits")) == "digits-efd7bdb5"
    any_sign, constrained = (UfmSpec.model_validate({**PLAIN, "nonnegative": given}) for given in (False, True))
    assert identify(any_sign.slug, any_sign) == "plain-mse-nobias-lbfgs-s0-b38b5f56"
    assert identify(constrained.slug, constrained).startswith("plain-nonnegative-mse-nobias-lbfgs-s0-")


def test_ids_are_safe_as_names_of_folders():
    config = laid_over(CONFIG, {"datasets.base": {"name": "imagefolder", "path": str(ROOT), "image_size": 8}})
    for name in (*Study(config).networks, *Study(config).datasets, *Study(config).ufm_batches):
        assert name == Path(name).name
        assert all(c.isalnum() or c in "-_" for c in name), name


def test_measured_epochs_are_log_spaced_with_both_ends():
    epochs = measured_epochs(12, 200)
    assert epochs[0] == 0
    assert epochs[-1] == 200
    assert 1 in epochs
    assert len(epochs) <= 12
    assert measured_epochs((5, 900), 200) == (5, 200)


@pytest.mark.parametrize(("last", "points"), [(1, 12), (100, 1), (100, 2), (100, 3), (10, 40), (100_000, 40)])
def test_log_spaced_numbers_are_no_more_than_asked_for(last: int, points: int) -> None:
    found = log_spaced(points, last)
    assert (found[0], found[-1]) == (0, last)
    assert found == tuple(sorted(set(found)))
    assert len(found) <= max(points, 2)


def test_batches_hold_problems_of_one_shape_and_solver():
    config = changed("ufm.sweep", {"grid": {"seed": [0, 1, 2], "feature_decay": [1e-3, 2e-3], "dim": [5, 6]}})
    study = Study(config)
    assert len(study.problems) == 12
    assert [len(batch.problems) for batch in study.ufm_batches.values()] == [6, 6]


MISTAKES = {
    "typo in a key": ("networks.base.optimizer.momentun", 0.9, "did you mean 'momentum'?"),
    "typo in a block": ("measur", {}, "did you mean 'measure'?"),
    "typo in a sweep key": ("networks.sweep.grid", {"optimiser.lr": [1]}, "did you mean 'optimizer'?"),
    "unknown network": ("networks.base.model.name", "resnet17", "'resnet17'; did you mean 'resnet18'?"),
    "network without a name": ("networks.base.model", {"width": 3}, "networks.model: needs a 'name'"),
    "unknown data set": (
        "datasets.base.name",
        "minst",
        "'minst'; did you mean 'mnist'?",
    ),
    "a name in place of a mapping": (
        "networks.base.loss",
        "mse",
        "networks.loss: must be a mapping",
    ),
    "words in place of a number": ("networks.base.epochs", "two", "must be a whole number, got 'two'"),
    "a number in place of a list": ("networks.sweep.grid.seed", 0, "networks.sweep.grid.seed: must be a list, got 0"),
    "no study": ("study", None, "study"),
    "negative decay": ("networks.base.optimizer.weight_decay", -1, "greater than or equal to 0, got -1"),
    "decay that is not a number": ("networks.base.optimizer.weight_decay", "much", "got 'much'"),
    "empty sweep": ("networks.sweep.grid.seed", [], "networks.sweep.grid.seed: is empty"),
    "zip of unequal lengths": ("networks.sweep.zip", {"epochs": [1, 2], "seed": [1]}, "must have one length"),
    "everything excluded": ("networks.sweep.exclude", [{"seed": [0, 1]}], "every run is excluded"),
    "exclude that matches nothing": ("networks.sweep.exclude", [{"seed": 7}], "matches no run"),
    "layer that does not exist": ("measure.layers", ["layer9"], "no network has a layer 'layer9'"),
    "data path that is missing": ("study.data_path", ["/no/such/folder"], "no folder '/no/such/folder'"),
    "image folder that is missing": (
        "datasets.base",
        {"name": "imagefolder", "path": "/no/such", "image_size": 8},
        "no file or folder '/no/such'",
    ),
    "study name with a slash": ("study.name", "../evil", "study.name"),
    "ReLU without a second layer": ("ufm.base.activation", "relu", "'relu' with one weight layer"),
    "smoothing without its loss": ("ufm.base.smoothing", 0.1, "it is in (0, 1) with 'label_smoothing', else 0"),
    "focal loss without gamma": ("ufm.base.loss", "focal", "gamma: got 0.0 with loss 'focal'; it is > 0"),
    "rescaling of one number": ("ufm.base.rescale", 3, "ufm.rescale: must be a list, got 3"),
    "spheres of non-negative features": (
        "ufm.base",
        {**PLAIN, "loss": "ce", "temperature": 2.0, "nonnegative": True},
        "nonnegative: got true with temperature 2.0; it goes with penalised features",
    ),
    "flow of non-negative features": (
        "ufm.base",
        {**PLAIN, "nonnegative": True, "solver": {"name": "gradient_flow"}},
        "solver 'gradient_flow': not of features that are constrained to be non-negative",
    ),
    "results that are no text": ("study.results", 3, "study.results: must be text"),
    "one class": ("ufm.base.classes", 1, "greater than or equal to 2"),
    "infinite penalty": ("ufm.base.feature_decay", float("inf"), "ufm"),
    "zero epochs": ("networks.base.epochs", 0, "greater than or equal to 1"),
    "warm-up longer than the run": ("networks.base.schedule", {"warmup_epochs": 3}, "must be below epochs"),
    "unknown figure": ("figures", ["colapse_depth"], "did you mean 'collapse_depth'?"),
    "unknown key of a figure": (
        "figures",
        [{"name": "frames", "witdh": 3.25}],
        "figures.0: unknown key 'witdh'; did you mean 'width'?",
    ),
    "unknown metric": (
        "figures",
        [{"name": "frames", "metrics": ["nc1"]}],
        "figures.0.metrics.0: unknown value 'nc1'",
    ),
    "one figure twice": ("figures", ["frames", "frames"], "give each a 'file'"),
    "matching without a second layer": ("measure.layers", 1, "measure another layer"),
    "no train split": ("measure.splits", ["test"], "'train' must be among the splits"),
    "data set under networks": ("networks.base.dataset", {"name": "digits"}, "declared in the 'datasets' block"),
    "batch size of zero": ("networks.base.batch_size", 0, "batch_size"),
    "a list in place of a block": ("networks", [1, 2], "networks"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_that_names_the_place(mistake):
    key, value, message = MISTAKES[mistake]
    with pytest.raises(UserError) as error:
        Study(changed(key, value))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


TRUTH = "cannot be true or false; YAML reads yes, no, on and off so, too: write a number, or the word in quotes"
YAML_TRAPS = {
    "true is no number": ("networks.base.optimizer.lr", "true", f"networks.optimizer: 'lr' {TRUTH}"),
    "yes is no whole number": ("networks.base.epochs", "yes", f"networks: 'epochs' {TRUTH}"),
    "on in a list": ("ufm.base.weight_decay", "[on, 1.0e-3]", f"ufm: 'weight_decay' {TRUTH}"),
    "off in a sweep": ("networks.sweep.grid.seed", "[off, 1]", f"networks: 'seed' {TRUTH}"),
    "no is no word": ("ufm.base.bias", "no", f"ufm: 'bias' {TRUTH}"),
    "no is no name": ("study.name", "no", f"study: 'name' {TRUTH}"),
    "no is no known name": ("networks.base.loss.name", "no", f"networks.loss: 'name' {TRUTH}"),
    "no chooses no model": ("networks.base.model.name", "no", TRUTH.partition("; ")[2]),
    "true among epochs": ("measure.epochs", "[0, true]", f"measure: 'epochs' {TRUTH}"),
    "minutes": ("networks.base.epochs", "1:30", "networks.base.epochs: YAML reads 1:30 to the base 60 (line "),
    "hours": ("networks.base.optimizer.lr", "1:30:00.5", "networks.base.optimizer.lr: YAML reads 1:30:00.5 to"),
    "minutes in a sweep": ("networks.sweep.grid.seed", "[0, 1:30]", "networks.sweep.grid.seed: YAML reads 1:30 to"),
    "minutes as text": ("study.title", "12:30", "study.title: YAML reads 12:30 to the base 60"),
    "minutes behind an alias": (
        "study",
        "{name: a, title: &t 1:30, description: *t}",
        "YAML reads 1:30 to the base 60",
    ),
    "a number of base 8": (
        "networks.base.batch_size",
        "010",
        "networks.base.batch_size: YAML reads 010 to the base 8",
    ),
    "a power of ten": (
        "networks.base.epochs",
        "1e1",
        "must be a whole number, got '1e1'; YAML reads it as text: write 10",
    ),
}


def as_yaml(folder: Path, key: str, written: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(changed(key, "WRITTEN")).replace("WRITTEN", written))
    return path


@pytest.mark.parametrize("trap", YAML_TRAPS)
def test_what_yaml_reads_as_something_else_is_one_line_that_names_the_key(trap, tmp_path):
    key, written, message = YAML_TRAPS[trap]
    with pytest.raises(UserError) as error:
        Study.read(as_yaml(tmp_path, key, written))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "written", "read"),
    [
        ("networks.base.optimizer.lr", "1e-3", lambda run: run.optimizer.lr == 0.001),
        ("networks.base.optimizer.lr", "1_000.5", lambda run: run.optimizer.lr == 1000.5),
        ("networks.base.batch_size", "0x1F", lambda run: run.batch_size == 31),
        ("networks.base.head.bias", "off", lambda run: run.head.bias is False),
        ("networks.base.model.batch_norm", "no", lambda run: run.model.batch_norm is False),
    ],
)
def test_what_yaml_reads_as_it_is_meant_is_taken(key, written, read, tmp_path):
    config = as_yaml(tmp_path, key, written)
    assert all(read(run.spec) for run in Study.read(config).networks.values())


def test_a_text_that_is_a_number_excludes_it():
    sweep = {"grid": {"optimizer.lr": ["1e-2", 1e-3]}, "exclude": [{"optimizer.lr": "1e-3"}]}
    (run,) = Study(changed("networks.sweep", sweep)).networks.values()
    assert run.spec.optimizer.lr == 0.01


@pytest.mark.parametrize(
    "text", ["study: [", "just text", "- a\n- b", "", "\x00", "study: !!python/object:os.system {}"]
)
def test_files_that_are_no_config_are_refused(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as error:
        Study.read(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="cannot read"):
        Study.read(tmp_path / "missing.yaml")


@pytest.mark.every(3)
@pytest.mark.parametrize("mistake", ["typo in a key", "layer that does not exist", "data path that is missing"])
def test_snakemake_ends_with_the_line_and_writes_nothing(mistake, tmp_path):
    key, value, message = MISTAKES[mistake]
    config = laid_over(changed(key, value), {"study.results": str(tmp_path / "results")})
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--directory", str(tmp_path)]
    command += ["--snakefile", str(ROOT / "Snakefile"), "--configfile", str(tmp_path / "study.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_schema_for_editors_is_current():
    written = json.loads((ROOT / "workflow/schemas/study.schema.json").read_text())
    assert written == Config.model_json_schema()


SHIPPED = [ROOT / "config.yaml", *sorted((ROOT / "studies").glob("*.yaml"))]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_studies_are_of_the_schema(path):
    text = re.sub(r"(?<![\w.])(\d+)(e-?\d+)", r"\1.0\2", path.read_text())  # editors read 1e-3 as a number
    jsonschema.validate(yaml.safe_load(text), Config.model_json_schema())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("networks.base.optimizer.momentun", 0.9),
        ("networks.base.model", {"name": "resnet17"}),
        ("networks.base.model", {"name": "resnet18", "depth": 3}),
        ("networks.base.dataset", {"name": "digits"}),
        ("datasets.base.name", "minst"),
        ("ufm.base.solver", {"name": "lbgfs"}),
        ("ufm.base.classes", "many"),
    ],
)
def test_editors_see_mistakes_in_a_base(key, value):
    schema = Config.model_json_schema()
    jsonschema.validate(CONFIG, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed(key, value), schema)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.name)
def test_shipped_studies_are_valid(path):
    study = Study.read(path)
    assert study.networks or study.problems


def test_metric_names_are_those_of_the_registry():
    with pytest.raises(UserError, match=r"unknown value 'vic'; did you mean 'vci'\?"):
        Study(laid_over(CONFIG, {"figures": [{"name": "collapse_curves", "metrics": ["vic"]}]}))
    schema = Config.model_json_schema()["$defs"]["FigureOptions"]["properties"]["metrics"]
    assert schema["anyOf"][0]["items"]["enum"] == [*METRICS]


def test_figures_are_those_that_apply():
    assert "ufm_trajectories" not in Study(CONFIG).figures
    assert "ufm_trajectories" in Study(changed("ufm.base.solver", {"name": "gradient_descent"})).figures
    assert list(Study(laid_over(CONFIG, {"networks": None, "ufm.base.solver.name": "gradient_descent"})).figures) == [
        "ufm_trajectories"
    ]
    assert "predictions" not in Study(CONFIG).figures
    assert "predictions" in Study(changed("ufm.matched", ["plain", "predicted_extended"])).figures
    swept = changed("ufm.sweep.grid.feature_decay", [1e-3, 1e-2])
    assert "ufm_phase" not in Study(swept).figures
    swept = changed("ufm.sweep.grid.feature_decay", [1e-3, 1e-2, 1e-1])
    assert "ufm_phase" in Study(swept).figures
    assert "ufm_phase" not in Study(laid_over(swept, {"ufm.base.solver.name": "gradient_descent"})).figures


@pytest.mark.parametrize("path", ["config.yaml", "studies/cifar10_small.yaml"])  # the second lists no figures
def test_study_loads_no_torch(path):
    code = "import sys, pathlib; from ncpipe.study.study import Study; Study.read(pathlib.Path(sys.argv[1])).figures;"
    code += "sys.exit(len({'torch', 'mlflow', 'pandas', 'matplotlib'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code, str(ROOT / path)], check=False).returncode == 0


@pytest.mark.parametrize(("bias", "stands_for"), [(0, "free"), (0.0, "free"), ("none", "none"), (0.5, 0.5)])
def test_a_zero_penalty_of_the_bias_is_free(bias, stands_for):
    spec = UfmSpec(classes=3, samples=4, dim=3, bias=bias, solver={"name": "lbfgs"})
    assert spec.bias == stands_for


def test_a_flag_is_no_bias():
    with pytest.raises(ValueError, match="'bias' cannot be true or false"):
        UfmSpec(classes=3, samples=4, dim=3, bias=False, solver={"name": "lbfgs"})


def with_networks(**networks: object) -> dict[str, object]:
    base = {"model": {"name": "mlp"}, "loss": {"name": "ce"}, "optimizer": {"lr": 0.1}, "epochs": 2}
    given = networks.pop("base", {})
    return {
        "study": {"name": "x"},
        "datasets": {"base": {"name": "digits"}},
        "networks": {"base": laid_over(base, given), **networks},
    }


def test_include_alone_is_no_product_for_networks_either():
    study = Study(with_networks(sweep={"include": [{"seed": 7}, {"epochs": 4}]}))
    assert sorted((run.spec.seed, run.spec.epochs) for run in study.networks.values()) == [(0, 4), (7, 2)]


@pytest.mark.parametrize(
    "networks",
    [
        {"sweep": {"grid": {"dataset.name": ["mnist"]}}},
        {"sweep": {"zip": {"dataset": [{"name": "mnist"}]}}},
        {"sweep": {"include": [{"dataset.seed": 1}]}},
        {"base": {"dataset": {"name": "mnist"}}},
    ],
)
def test_data_sets_are_not_swept_with_networks(networks):
    with pytest.raises(UserError, match="data sets are declared in the 'datasets' block"):
        Study(with_networks(**networks))


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"optimizer.nesterov": True, "optimizer.momentum": 0.0}, "'nesterov' needs a momentum"),
        ({"optimizer.name": "adam", "optimizer.nesterov": True}, "go with optimizer 'sgd' only"),
        ({"model": {"name": "resnet18", "depth_factor": 1e9}}, "networks.base.model.depth_factor: .*64"),
        ({"model": {"name": "vit_b", "width": 65}}, "networks.base.model.width: "),
        ({"model": {"name": "timm", "architecture": "a-b"}}, "letters, digits, and '_'"),
        ({"head.temperature": 10.0}, "goes without a bias"),
        ({"loss.name": "focal"}, "gamma: got 0.0 with loss 'focal'; it is > 0"),
        ({"loss.name": "pick_all_labels"}, "data of several labels"),
        ({"augment.resized_crop": 0.5}, "goes with a streamed data set"),
        ({"gpus": 200}, "must not be below gpus"),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(base, message):
    with pytest.raises(UserError, match=message) as mistake:
        Study(with_networks(base=base))
    assert "\n" not in str(mistake.value)


def test_kept_epochs_are_measured_ones():
    config = with_networks() | {"measure": {"epochs": [1], "keep": {"layers": ["*"], "epochs": [77]}}}
    with pytest.raises(UserError, match="77 is not measured"):
        Study(config)


def test_two_runs_of_one_id_are_refused_and_equal_ones_are_one(monkeypatch):
    twice = changed("ufm.sweep.grid", {"seed": [0, 0, 1]})
    assert len(Study(twice).problems) == 2
    monkeypatch.setattr("ncpipe.settings.identity.digest", lambda value: "00000000")
    assert len(Study(twice).problems) == 2
    with pytest.raises(UserError, match=r"the id plain-mse-nobias-lbfgs-s0-00000000, by chance"):
        Study(changed("ufm.sweep.grid", {"feature_decay": [1e-3, 2e-3]}))


def test_a_job_expands_only_what_it_asks_for():
    """The workflow has checked the study; 100,000 problems are not expanded to train one network."""
    broken = changed("ufm.base.classes", "many")
    with pytest.raises(UserError, match=r"ufm\.classes"):
        Study(broken)
    study = Study(broken, check=False)
    assert list(study.networks) == list(Study(CONFIG).networks)
    with pytest.raises(UserError, match=r"ufm\.classes"):
        _ = study.problems
