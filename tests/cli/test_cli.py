"""The command line: help that helps, one line for mistakes, and the light library on its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

import ncpipe
from ncpipe.cli.main import app, main
from ncpipe.collapse import rows
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_tensors
from ncpipe.ufm import Problem, fit

ROOT = Path(__file__).resolve().parents[2]


def process(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as a shell starts it."""
    command = [sys.executable, "-m", "ncpipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def run(*arguments: str | Path) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    return {"features": np.eye(3, 4)[labels] + 0.1 * rng.standard_normal((15, 4)), "labels": labels}


def test_help_lists_the_commands():
    pages = (run(option).stdout.splitlines() for option in ("--help", "--help-all"))
    short, whole = ([line.split()[1:2] for line in page if line.startswith("│ ")] for page in pages)
    for command in ("plan", "measure", "ufm", "ui", "doctor"):
        assert [command] in short
    for command in ("train", "fit", "collapse"):
        assert [command] in whole
        assert [command] not in short
    assert "Id of the network" in run("train", "--help").stdout


def test_a_mistake_is_one_line_and_a_traceback_only_on_demand(tmp_path, monkeypatch):
    missing = tmp_path / "missing.npz"
    done = process("measure", missing)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    monkeypatch.setenv("NCPIPE_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["ncpipe", "measure", str(missing)])
    with pytest.raises(UserError, match=r"missing\.npz"):  # which Python shows with a traceback
        main()


def test_plan_prints_what_would_run():
    done = run("plan", ROOT / "config.yaml", "--no-estimate")
    assert done.exit_code == 0
    assert "digits-resnet18w8-ce-bias-s1" in done.stdout
    assert "to do" in done.stdout


def write_npy(arrays: dict[str, np.ndarray], folder: Path) -> None:
    folder.mkdir()
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


def write_parquet(arrays: dict[str, np.ndarray], path: Path) -> None:
    parquet.write_table(pa.table({name: values.tolist() for name, values in arrays.items()}), path, row_group_size=4)


WRITERS = {
    "features.npz": lambda arrays, path: np.savez(path, **arrays),
    "packed.npz": lambda arrays, path: np.savez_compressed(path, **arrays),
    "features.safetensors": save_file,
    "folder": write_npy,
    "features.parquet": write_parquet,
}


@pytest.mark.parametrize("piece", [1, 100, 1 << 26])
@pytest.mark.parametrize("name", WRITERS)
def test_measure_prints_the_metrics_of_a_file(name, piece, arrays, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "PIECE", piece)
    path = tmp_path / name
    WRITERS[name](arrays, path)
    printed = json.loads(run("measure", path, "--json").stdout)
    expected = ncpipe.measure(**arrays)
    assert printed == pytest.approx(expected)
    assert f"{expected['nc1_pinv']:.6g}" in run("measure", path).stdout


def test_measure_tells_how_far_it_is_in_files_of_several_pieces(arrays, tmp_path, monkeypatch):
    save_file(arrays, tmp_path / "x.safetensors")
    assert run("measure", tmp_path / "x.safetensors").stderr == ""
    monkeypatch.setattr(rows, "PIECE", 1)
    assert "x.safetensors, pass 2 of 2 15/15 rows" in run("measure", tmp_path / "x.safetensors").stderr


def test_measure_refuses_what_is_altered_or_cut_between_its_passes(arrays, tmp_path):
    path = tmp_path / "x.safetensors"
    write_tensors(path, {name: torch.from_numpy(values) for name, values in arrays.items()})
    content = path.read_bytes()
    place = content.index(arrays["features"].tobytes())
    path.write_bytes(content[: place + 8] + b"abcd" + content[place + 12 :])
    with pytest.raises(UserError, match="altered"):
        run("measure", path)
    write_npy(arrays, tmp_path / "folder")
    cut = tmp_path / "folder" / "features.npy"
    cut.write_bytes(cut.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"features\.npy: it is truncated"):
        run("measure", tmp_path / "folder")
    np.savez(tmp_path / "x.npz", **arrays)
    content = (tmp_path / "x.npz").read_bytes()
    place = content.index(arrays["features"].tobytes())
    (tmp_path / "x.npz").write_bytes(content[: place + 8] + b"abcd" + content[place + 12 :])
    with pytest.raises(UserError, match="Bad CRC-32"):
        run("measure", tmp_path / "x.npz")
    table = pa.table({"features": [[1.0, 2.0], [3.0]], "labels": [0, 1]})
    parquet.write_table(table, tmp_path / "uneven.parquet")
    with pytest.raises(UserError, match="features must be lists of numbers of one length"):
        run("measure", tmp_path / "uneven.parquet")


def test_measure_splits_the_loss_breaks_down_by_class_and_explains(arrays, tmp_path):
    labels = np.where(arrays["labels"] == 2, 3, arrays["labels"])
    np.savez(tmp_path / "a.npz", **arrays | {"labels": labels, "weight": np.eye(4), "bias": np.ones(4) / 4})
    done = run("measure", tmp_path / "a.npz", "--per-class")
    line = next(x for x in done.stdout.splitlines() if x.startswith("nc1_pinv"))
    assert line.split(maxsplit=1)[1] == "nan  (no sample of class 2)"
    assert "per class samples            5 5 0 5" in done.stdout
    assert (
        json.loads(run("measure", tmp_path / "a.npz", "--json").stdout)["undefined"]["cdnv"] == "no sample of class 2"
    )
    np.savez(tmp_path / "b.npz", **arrays, weight=np.eye(3, 4), bias=np.ones(3) / 3)
    row = json.loads(run("measure", tmp_path / "b.npz", "--json", "--ridge", "0.01", "--bias-decay", "0").stdout)
    assert row["loss_nc1"] > 0
    features, labels = np.eye(2)[[0, 0, 0, 0, 1, 1]], [0, 0, 1, 1, 2, 2]
    np.savez(tmp_path / "c.npz", features=features, labels=labels, weights=np.eye(3))
    done = run("measure", tmp_path / "c.npz", "--json", "--num-classes", "3")
    assert "not read: weights; known are features, labels, weight" in done.stderr
    infinite = json.loads(done.stdout, parse_constant=pytest.fail)["infinite"]
    assert infinite == ["gnc2_log", "gnc2_riesz_1", "gnc2_riesz_2"]
    with pytest.raises(UserError, match=r"at least 0, got -1\.0"):
        run("measure", tmp_path / "b.npz", "--ridge", "-1")


def test_measure_reads_the_features_that_a_study_has_kept(tmp_path):
    random = torch.Generator().manual_seed(0)
    labels = {"labels/train": torch.arange(12) % 3, "labels/test": torch.arange(6) % 3}
    names = [f"{epoch}/{layer}/{split}" for epoch in (2, 10) for layer in ("layer1", "features")
             for split in ("train", "test")]  # fmt: skip
    kept = {name: torch.randn(len(labels[f"labels/{name.split('/')[2]}"]), 4, generator=random) for name in names}
    path = tmp_path / "features.safetensors"
    write_tensors(path, kept | labels)
    done = run("measure", path, "--json")
    assert json.loads(done.stdout) == pytest.approx(ncpipe.measure(kept["10/features/train"], labels["labels/train"]))
    assert done.stderr == f"{path}: 10/features/train, of 8 kept; --of names another\n"
    means = torch.stack([kept["2/layer1/train"][labels["labels/train"] == k].double().mean(0) for k in range(3)])
    expected = ncpipe.measure(kept["2/layer1/test"], labels["labels/test"], train_means=means)
    found = json.loads(run("measure", path, "--json", "--of", "2/layer1/test").stdout)
    assert found == pytest.approx(expected, nan_ok=True)

    def refused(*arguments: str | Path) -> str:
        with pytest.raises(UserError) as error:
            run("measure", *arguments)
        return str(error.value)

    for wrong in ("3/features/train", "features", "labels/train"):
        assert f"holds no kept features {wrong!r}; it holds 10/features/test" in refused(path, "--of", wrong)
    several = tmp_path / "several.safetensors"
    write_tensors(several, {f"1/{layer}/train": kept["2/layer1/train"] for layer in ("a", "b")} | labels)
    assert "several layers: name one with --of, of 1/a/train, 1/b/train" in refused(several)
    write_tensors(several, kept)  # features alone
    assert "holds no features and no labels" in refused(several)
    path.write_bytes(path.read_bytes()[:200])
    assert "missing, truncated or not a safetensors file" in refused(path)


def solved(*arguments: str | Path) -> dict:
    """What ``ncpipe ufm --json`` prints, which may hold no NaN."""
    return json.loads(run("ufm", *arguments, "--json").stdout, parse_constant=pytest.fail)


def test_ufm_needs_the_classes_only():
    printed = run("ufm", "--classes", "4").stdout
    optimum = Problem(4, 50, 20).optimum()
    assert printed.splitlines()[0].startswith(
        "problem      classes 4, samples 50, dim 20, loss mse, weight_decay 0.005,"
    )
    assert f"optimum      {optimum.value:.10g}, the global optimum: soft-thresholded" in printed
    assert f"zero becomes optimal at {optimum.zero_threshold:.4g} times these penalties" in printed
    assert "fit          reached the optimum" in printed
    of, etf = (float(re.search(rf"{name} +(\S+)", printed)[1]) for name in ("nc2_weights_of", "nc2_weights_etf"))
    assert (of, etf) == (pytest.approx(0, abs=1e-6), pytest.approx(0.51763809, abs=1e-5))


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--weight-decay", "5e-3", "--weight-decay", "2e-3", "--activation", "relu"],
         Problem(4, 50, 20, weight_decay=(5e-3, 2e-3), activation="relu")),
        (["--samples", "20,10,5,5", "--dim", "9", "--feature-decay", "2e-3"],
         Problem(4, [20, 10, 5, 5], 9, feature_decay=2e-3)),
        (["--samples", "3", "--loss", "label_smoothing", "--smoothing", "0.1"],
         Problem(4, 3, 20, loss="label_smoothing", smoothing=0.1)),
        (["--samples", "3", "--loss", "focal", "--gamma", "2"], Problem(4, 3, 20, loss="focal", gamma=2)),
        (["--rescale", "5", "2"], Problem(4, 50, 20, rescale=(5, 2))),
        (["--bias", "0.1"], Problem(4, 50, 20, bias=0.1)),
        (["--bias", "free"], Problem(4, 50, 20, bias="free")),
        (["--loss", "ce", "--temperature", "5"], Problem(4, 50, 20, loss="ce", temperature=5)),
        (["--classifier", "etf"], Problem(4, 50, 20, classifier="etf")),
        (["--nonnegative", "--bias", "free"], Problem(4, 50, 20, bias="free", nonnegative=True)),
        (["--classifier", "etf", "--weight-decay", "1e-3", "--dim", "7,5"],
         Problem(4, 50, (7, 5), classifier="etf", weight_decay=1e-3)),
        (["--loss", "pick_all_labels", "--samples", "1:3,2:1"], Problem(4, {1: 3, 2: 1}, 20, loss="pick_all_labels")),
        (["--feature-decay", "1", "--weight-decay", "1"], Problem(4, 50, 20, weight_decay=1, feature_decay=1)),
    ],
)  # fmt: skip
def test_ufm_prints_the_optimum_of_the_problem_of_its_options(arguments, problem):
    printed, optimum = solved("--classes", 4, *arguments, "--starts", 4), problem.optimum()
    assert printed["optimum"]["value"] == pytest.approx(optimum.value, rel=1e-12)
    assert printed["optimum"]["singular_values"] == pytest.approx(optimum.singular_values.tolist())
    assert printed["optimum"]["margins"] == {str(tags): margin for tags, margin in optimum.margins.items()}
    assert printed["fit"]["value"] == pytest.approx(optimum.value, rel=1e-7)
    assert not printed["fit"]["missed"]
    assert printed["fit"]["norms"] == pytest.approx(optimum.norms(), rel=1e-3, abs=1e-5)
    assert list(printed["layers"]) == ([] if optimum.is_zero else list(problem.layer_names))
    lines = CliRunner().invoke(app, ["ufm", "--classes", "4", *arguments, "--optimum-only"]).stdout
    assert f"{optimum.value:.10g}" in lines
    assert "\nfit  " not in lines


def test_ufm_lists_critical_points():
    arguments = ("--classes", 3, "--samples", 2, "--dim", 4, "--optimum-only", "--landscape", 24)
    printed = solved(*arguments)
    assert [point["live_directions"] for point in printed["landscape"]] == [3, 2, 1, 0]
    assert [point["index"] for point in printed["landscape"]] == [0, 2, 6, 12]
    text = CliRunner().invoke(app, ["ufm", *map(str, arguments)]).stdout.splitlines()
    assert text[-4].endswith("the optimum")
    assert [row.split()[1:5] for row in text[-4:]][-1] == ["0", "12", "of", "24"]


def test_ufm_measures_hidden_levels_against_the_next_weight():
    levels = solved("--classes", 3, "--samples", 5, "--weight-decay", "5e-3", "--weight-decay", "5e-3")["layers"]
    assert levels["H1"]["subspace_alignment"] == pytest.approx(1, abs=1e-6)
    assert levels["H1"]["nc3_rows"] > 0.1, "W_1 H_1 of a linear model need not follow the rows of W_1"


def test_ufm_hands_its_options_to_the_solver():
    printed = solved(
        "--classes", 3, "--samples", 2, "--solver", "gradient_descent", "--steps", 200, "--step-size", 0.2,
        "--momentum", 0.5, "--init-scale", 0.3, "--seed", 7,
    )  # fmt: skip
    direct = fit(
        Problem(3, 2, 20), "gradient_descent", seed=7, steps=200, step_size=0.2, momentum=0.5, init_scale=0.3
    )
    assert printed["fit"]["value"] == direct.value
    assert printed["fit"]["message"] == direct.message
    assert solved("--classes", 3, "--starts", 2, "--max-iterations", 3)["fit"]["starts"] == 2
    diverged = solved("--classes", 3, "--solver", "gradient_descent", "--steps", 2000, "--step-size", 1e3)
    assert (diverged["fit"]["status"], diverged["fit"]["value"]) == ("diverged", None)


def test_ufm_says_why_there_is_no_closed_form():
    arguments = [
        "--classes",
        3,
        "--weight-decay",
        0.01,
        "--weight-decay",
        0.01,
        "--activation",
        "relu",
        "--bias",
        "free",
    ]
    printed = solved(*arguments, "--optimum-only")
    assert printed["optimum"] is None
    assert printed["no_closed_form"].startswith("ReLU with a bias")
    assert "layers" not in printed
    lines = CliRunner().invoke(app, ["ufm", *map(str, arguments), "--starts", "1"]).stdout.splitlines()
    assert lines[1].startswith("optimum      no closed form: ReLU with a bias")


@pytest.mark.parametrize("arguments", [["--bias", "free"], ["--loss", "pick_all_labels", "--samples", "1:3,2:2"]])
def test_ufm_saves_what_measure_reads(arguments, tmp_path):
    printed = solved("--classes", 4, *arguments, "--save", tmp_path / "x.safetensors")
    measured = json.loads(run("measure", tmp_path / "x.safetensors", "--json").stdout)
    expected = {name: value for name, value in printed["layers"]["features"].items() if name in measured}
    assert measured["nc2_weights_etf"] == pytest.approx(expected["nc2_weights_etf"], abs=1e-12)
    assert measured["nc2_means_of"] == pytest.approx(expected["nc2_means_of"])
    assert measured["accuracy"] == 1


def test_mistakes_are_one_line(arrays, tmp_path):
    np.savez(tmp_path / "short.npz", features=arrays["features"], labels=arrays["labels"][:3])
    np.savez(tmp_path / "empty.npz", other=arrays["labels"])
    np.savez(tmp_path / "pickled.npz", features=np.array([{}], dtype=object), labels=arrays["labels"])
    (tmp_path / "broken.safetensors").write_bytes(b"\x00")
    for arguments, message in [
        (("measure", tmp_path / "short.npz"), "one per row of features"),
        (("measure", tmp_path / "empty.npz"), "holds no features and no labels"),
        (("measure", tmp_path / "pickled.npz"), "holds Python objects"),
        (("measure", tmp_path / "broken.safetensors"), "cannot read"),
        (("measure", tmp_path / "missing.npz"), "cannot read"),
        (("measure", tmp_path / "features.pt"), "expected a .safetensors, .npz or .parquet file"),
        (("plan", tmp_path / "missing.yaml"), "cannot read"),
        (("train", "config.yaml", "no-such-run"), "no network 'no-such-run'"),
        (("fit", "config.yaml", "../evil"), "no UFM batch '../evil'"),
        (("train", "config.yaml", "no-such-run", "--device", "quantum"), "device must be auto, cpu, cuda or cuda:N"),
        (("train", "config.yaml", "no-such-run", "--device", "cuda:99"), "no device 'cuda:99'"),
        (("collapse", tmp_path / "x.safetensors", "neither", "y"), "source must be net or ufm"),
        (("collapse", tmp_path / "broken.safetensors", "net", tmp_path / "y"), "cannot read"),
        (("ufm", "--classes", 4, "--activation", "relu"), "'relu' with one weight layer"),
    ]:
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert isinstance(done.exception, UserError), arguments  # which `main` prints in one line
        assert message in str(done.exception), arguments
        assert "\n" not in str(done.exception), arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--classes 1", "classes: got 1"),
        ("--classes 4 --samples 0", "samples: got 0"),
        ("--classes 4 --samples many", "--samples: got 'many'"),
        ("--classes 4 --samples 1:2:3", "--samples: got '1:2:3'"),
        ("--classes 4 --samples 3,3", "samples: got 2 numbers for 4 classes"),
        ("--classes 4 --dim 0", "dim: got 0"),
        ("--classes 4 --dim wide", "--dim: got 'wide'"),
        ("--classes 4 --feature-decay -1", "feature_decay: got -1.0"),
        ("--classes 4 --weight-decay nan", "weight_decay: got nan"),
        ("--classes 4 --bias some", "bias: got 'some'"),
        ("--classes 4 --loss hinge", "loss: got 'hinge'"),
        ("--classes 4 --gamma 2", "gamma: got 2.0 with loss 'mse'"),
        ("--classes 4 --loss ce --temperature 5 --weight-decay 0.1", "norms are fixed, leave it out"),
        ("--classes 4 --solver annealing", "solver: got 'annealing'"),
        ("--classes 4 --steps 5", "solver 'lbfgs' has no option 'steps'"),
        ("--classes 4 --starts 0", "starts: got 0"),
        ("--classes 4 --samples 1,2,3,4 --bias free --solver construction", "imbalanced classes"),
        ("--classes 4 --nonnegative --optimum-only --landscape 8", "nonnegative: a landscape with bounds"),
        ("--classes 4 --save x.npz", "ends in .safetensors"),
        ("--classes 4 --save x.safetensors --optimum-only", "nothing is fitted with --optimum-only"),
    ],
)
def test_mistakes_in_a_ufm_are_one_line(arguments, message):
    done = CliRunner().invoke(app, ["ufm", *arguments.split()])
    assert isinstance(done.exception, UserError)  # which `main` prints in one line
    assert message in str(done.exception)
    assert "\n" not in str(done.exception)
    assert done.stdout == ""


def test_the_light_library_needs_nothing_of_the_pipeline():
    code = """
import sys
for name in ("pandas", "pyarrow", "mlflow", "matplotlib", "typer", "yaml", "torchvision", "sklearn"):
    sys.modules[name] = None
import torch, ncpipe, ncpipe.collapse, ncpipe.ufm
labels = torch.arange(3).repeat(4)
assert ncpipe.measure(torch.randn(12, 5), labels)["rank"] == 2
p = ncpipe.ufm.Problem(classes=3, samples=4, dim=5, weight_decay=5e-3, feature_decay=1e-3)
assert abs(ncpipe.ufm.fit(p).gap) < 1e-10
import ncpipe.__main__
try:
    ncpipe.__main__.main()
except SystemExit as error:
    assert "pip install 'ncpipe[pipeline]'" in str(error)
else:
    raise AssertionError
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_version():
    assert CliRunner().invoke(app, ["--version"]).stdout.strip() == f"ncpipe {ncpipe.__version__}"
