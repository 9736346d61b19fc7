"""The benchmarks run, at sizes that measure nothing."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ncpipe.system.errors import UserError
from ncpipe.ufm import fit
from ncpipe.ufm.objective import Objective


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module(request.param)


@pytest.mark.parametrize(
    ("benchmark", "words", "found"),
    [
        ("collapse_classes", ["5", "--width=8"], r"5 +25 +8( +[\d.]+){6}"),
        ("collapse_batches", ["4", "--width=8", "--classes=3", "--threads=1"], r"\n +4( +[\d.]+){8}"),
        ("collapse_file", ["--rows=50", "--width=8", "--format=npy"], "npy, 50 x 8, K = 10, .* peak memory"),
    ],
    indirect=["benchmark"],
)
def test_cost_of_classes_batches_and_files(
    benchmark: ModuleType, words: list[str], found: str, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.main(words)
    assert re.search(found, capsys.readouterr().out)


@pytest.mark.parametrize("benchmark", ["collapse"], indirect=True)
def test_collapse(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "SIZES", ((200, 16, 3),))
    benchmark.main(["--repeats", "1", "--threads", "1", "--busy", "1"])
    printed = capsys.readouterr().out
    assert "N, d, K = 200, 16, 3" in printed
    assert "The same beside 1 busy processes: N, d, K = 200, 16, 3" in printed
    for method in ("(b) covariances and pinv, float64", "CollapseMetrics, two passes", "CollapseMetrics, one pass"):
        assert method in printed


@pytest.mark.parametrize("benchmark", ["measuring_share"], indirect=True)
def test_measuring_share(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--samples", "40", "--width", "4", "--repeats", "1", "--threads", "1"])
    assert "measuring / forward" in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.parametrize("benchmark", ["ufm"], indirect=True)
def test_ufm(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--tiny", "--repeats", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    for part in ("SciPy loop", "ncpipe, tied", "extended, ReLU", "GiB"):
        assert part in printed


@pytest.mark.parametrize("benchmark", ["ufm"], indirect=True)
def test_ufm_plot(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--tiny", "--threads", "1", "--plot", str(tmp_path / "cost")])
    assert (tmp_path / "cost.svg").stat().st_size > 0
    assert (tmp_path / "cost.png").stat().st_size > 0
    assert "N d K" in capsys.readouterr().out


@pytest.mark.parametrize("benchmark", ["ufm"], indirect=True)
def test_the_loop_minimises_what_ncpipe_does(benchmark: ModuleType) -> None:
    problem = benchmark.grid(3)[0]
    vector = np.concatenate([part.ravel() for part in benchmark.start(problem, 5, 1, 1.0)])
    value, gradient = benchmark.ReluObjective(problem)(vector)
    expected, slope = Objective.of([problem]).evaluate(torch.from_numpy(vector)[None])
    assert value == pytest.approx(float(expected), rel=1e-13)
    np.testing.assert_allclose(gradient, slope[0].numpy(), rtol=1e-10, atol=1e-14)
    ours = fit(problem, starts=1, seed=5)
    assert ours.value == pytest.approx(benchmark.scipy_fit(problem, 5, 0).fun, rel=1e-8)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("benchmark", ["train"], indirect=True)
def test_train(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "figures.json"
    options = ["--device", "cpu", "--threads", "2", "--ensemble", "2", "--repeats", "1", "--peak", "1"]
    benchmark.main(["--tiny", *options, "--augment", "--json", str(target)])
    printed = capsys.readouterr().out
    for part in ("the field's script", "2 jobs of one thread at once", "2 runs as one stack", "`ncpipe train`"):
        assert part in printed
    figures = json.loads(target.read_text())
    one, ensemble = figures["tables"]
    assert [row["ratio"] for row in (one["rows"][0], ensemble["rows"][0])] == [1, 1]
    for row in (*one["rows"], *ensemble["rows"]):
        assert row["images_per_second"] > 0
        assert row["mfu"] == pytest.approx(row["flops_per_second"] / 1e12)
    assert figures["start_up"]["convnet"][0] > 0


@pytest.mark.parametrize("benchmark", ["train"], indirect=True)
def test_the_script_trains_what_ncpipe_does(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    benchmark.check_the_baseline(benchmark.TINY)
    smoothed = partial(torch.nn.CrossEntropyLoss, label_smoothing=0.1)
    monkeypatch.setattr(benchmark.nn, "CrossEntropyLoss", smoothed)
    with pytest.raises(SystemExit, match="the baseline has"):
        benchmark.check_the_baseline(benchmark.TINY)


@pytest.mark.parametrize("benchmark", ["agreement"], indirect=True)
def test_agreement(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "figures.json"
    options = ["--device", "cpu", "--seeds", "2", "--epochs", "2", "--processes", "1", "--json", str(target)]
    benchmark.main(["--tiny", *options])
    printed = capsys.readouterr().out
    assert "bf16 against float32" in printed
    assert "of 12 differ" in printed
    (rows,) = json.loads(target.read_text())["tables"].values()
    found = {(row["split"], row["metric"]): row for row in rows}
    assert tuple(found) == benchmark.QUANTITIES
    nc1 = found["train", "nc1_pinv"]
    assert nc1["float32"] != nc1["other"]
    assert nc1["float32"] == pytest.approx(nc1["other"], rel=0.2)


@pytest.mark.parametrize("benchmark", ["agreement"], indirect=True)
def test_agreement_is_judged_by_the_error_of_the_difference(benchmark: ModuleType) -> None:
    both = benchmark.Comparison((0.0, 1.0, 2.0), (1.0, 2.0, 3.0))  # variances of 1: error sqrt(2/3)
    assert both.score == pytest.approx(np.sqrt(3 / 2))
    assert both.agrees
    assert not benchmark.Comparison((0.0, 1.0, 2.0), (2.0, 3.0, 4.0)).agrees
    assert benchmark.Comparison((1.0, 1.0), (1.0, 1.0)).agrees
    assert not benchmark.Comparison((1.0, 1.0), (2.0, 2.0)).agrees
    assert benchmark.expected_by_chance(100, 5) == pytest.approx(8.05, abs=0.01)


@pytest.mark.parametrize("benchmark", ["agreement"], indirect=True)
def test_agreement_says_where_its_data_should_be(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise UserError("fashion_mnist is in no searched folder")

    monkeypatch.setattr(benchmark, "prepare", missing)
    with pytest.raises(SystemExit, match=r"^agreement: fashion_mnist is in no searched folder$"):
        benchmark.main(["--seeds", "2"])


@pytest.mark.thorough
@pytest.mark.parametrize("benchmark", ["planning"], indirect=True)
def test_planning(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """The study and its twin have as many jobs, or it fails."""
    benchmark.main(["--networks", "20"])
    printed = capsys.readouterr().out
    assert re.search(r"20 +\d+  snakemake -n, study", printed)
    assert "ratio: wall" in printed


STOP = """
import sys
for heavy in ("snakemake", "mlflow", "sklearn", "yaml", "typer", "rich", "duckdb"):
    sys.modules[heavy] = None
"""


@pytest.mark.thorough
def test_gpu_needs_little_and_keeps_what_it_has(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = f"{STOP}from benchmarks.gpu import main; main(sys.argv[1:])"
    options = ["--toy", "--device", "cpu", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-c", code, *options], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert set(steps) == {"checks", "training", "ensembles", "metrics", "ufm", "cifar10", "terminal"}
    assert not [found["error"] for found in steps.values() if "error" in found]
    assert steps["checks"]["resumed bit for bit"] is True
    assert steps["ufm"]["missed"] == 0
    assert "| training | images per second: ncpipe, float32 |" in done.stdout


@pytest.mark.parametrize("benchmark", ["gpu"], indirect=True)
def test_gpu_goes_on_after_a_failure_and_stops_in_time(
    benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(setting: object) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(benchmark.STEPS, "checks", broken)
    benchmark.main([str(tmp_path), "--toy", "--device", "cpu", "--steps", "checks,metrics"])
    steps = json.loads((tmp_path / "gpu.json").read_text())["steps"]
    assert steps["checks"]["error"] == "RuntimeError: no such kernel"
    found = steps["metrics"]["N, d, K = 500, 16, 3"]
    ways = {"measure, plain", "first pass, plain", "second pass, plain"}  # Triton's kernels need a GPU
    assert found["seconds"].keys() == found["reads"].keys() == ways
    benchmark.main([str(tmp_path), "--toy", "--device", "cpu", "--steps", "metrics", "--minutes", "0"])
    assert "minutes were over" in json.loads((tmp_path / "gpu.json").read_text())["steps"]["metrics"]["left out"]
