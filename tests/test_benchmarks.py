"""The benchmarks run, at sizes that measure nothing."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ncpipe.ufm import fit
from ncpipe.ufm.objective import Objective


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def benchmark(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module(request.param)


@pytest.mark.parametrize("benchmark", ["collapse"], indirect=True)
def test_collapse(benchmark: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(benchmark, "SIZES", ((200, 16, 3),))
    benchmark.main(["--repeats", "1", "--threads", "1"])
    printed = capsys.readouterr().out
    assert "N, d, K = 200, 16, 3" in printed
    assert "(b) covariances and pinv, float64" in printed


@pytest.mark.parametrize("benchmark", ["measuring_share"], indirect=True)
def test_measuring_share(benchmark: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--samples", "40", "--width", "4", "--repeats", "1", "--threads", "1"])
    assert "measuring / forward" in capsys.readouterr().out


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
