"""The command line: help that helps, one line for mistakes, and the light library on its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ncpipe

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ncpipe", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), 5)
    return {"features": np.eye(3, 4)[labels] + 0.1 * rng.standard_normal((15, 4)), "labels": labels}


def test_help_lists_the_commands():
    text = run("--help").stdout
    for command in ("plan", "measure", "ui", "doctor", "train", "fit", "sync"):
        assert command in text
    assert "Id of the network" in run("train", "--help").stdout


def test_plan_prints_what_would_run():
    done = run("plan", "config.yaml", "--no-estimate")
    assert done.returncode == 0
    assert "digits-resnet18w8-ce-bias-s1" in done.stdout
    assert "to do" in done.stdout


def test_estimates_are_of_the_right_order(tmp_path):
    config = {
        "study": {"name": "x", "results": str(tmp_path)},
        "datasets": {"base": {"name": "digits"}},
        "networks": {
            "base": {
                "model": {"name": "mlp", "width": 16},
                "loss": {"name": "ce"},
                "optimizer": {"lr": 0.1},
                "epochs": 10,
            }
        },
    }
    (tmp_path / "study.json").write_text(json.dumps(config))
    line = next(x for x in run("plan", tmp_path / "study.json").stdout.splitlines() if x.startswith(" train"))
    assert 2 <= int(line.split()[-2]) <= 20
    assert line.split()[-1] == "s"


@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_measure_prints_the_metrics_of_a_file(suffix, arrays, tmp_path):
    path = tmp_path / f"features.{suffix}"
    np.savez(path, **arrays) if suffix == "npz" else save_file(arrays, path)
    printed = json.loads(run("measure", path, "--json").stdout)
    expected = ncpipe.measure(**arrays)
    assert printed == pytest.approx(expected)
    assert f"{expected['nc1_pinv']:.6g}" in run("measure", path).stdout


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
    assert "at least 0, got -1.0" in run("measure", tmp_path / "b.npz", "--ridge", "-1").stderr


def test_mistakes_are_one_line(arrays, tmp_path):
    np.savez(tmp_path / "short.npz", features=arrays["features"], labels=arrays["labels"][:3])
    np.savez(tmp_path / "empty.npz", other=arrays["labels"])
    np.savez(tmp_path / "pickled.npz", features=np.array([{}], dtype=object), labels=arrays["labels"])
    (tmp_path / "broken.safetensors").write_bytes(b"\x00")
    for arguments, message in [
        (("measure", tmp_path / "short.npz"), "one per row of features"),
        (("measure", tmp_path / "empty.npz"), "holds no features and no labels"),
        (("measure", tmp_path / "pickled.npz"), "cannot read"),
        (("measure", tmp_path / "broken.safetensors"), "cannot read"),
        (("measure", tmp_path / "missing.npz"), "cannot read"),
        (("measure", tmp_path / "features.pt"), "expected a .safetensors or .npz file"),
        (("plan", tmp_path / "missing.yaml"), "cannot read"),
        (("train", "config.yaml", "no-such-run"), "no network 'no-such-run'"),
        (("fit", "config.yaml", "../evil"), "no UFM batch '../evil'"),
        (("train", "config.yaml", "no-such-run", "--device", "quantum"), "device must be auto, cpu, cuda or cuda:N"),
        (("train", "config.yaml", "no-such-run", "--device", "cuda:99"), "no device 'cuda:99'"),
        (("collapse", tmp_path / "x.safetensors", "neither", "y"), "source must be net or ufm"),
        (("collapse", tmp_path / "broken.safetensors", "net", tmp_path / "y"), "cannot read"),
    ]:
        done = run(*arguments)
        assert done.returncode == 1, arguments
        assert message in done.stderr, (arguments, done.stderr)
        assert len(done.stderr.strip().splitlines()) == 1, (arguments, done.stderr)


def test_the_light_library_needs_nothing_of_the_pipeline():
    code = """
import sys
for name in ("pydantic", "pandas", "pyarrow", "mlflow", "matplotlib", "typer", "yaml", "torchvision", "sklearn"):
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
