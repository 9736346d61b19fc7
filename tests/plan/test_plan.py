"""The plan: costs measured once and kept, what cannot fit refused, and where the time of a run went."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ncpipe.data import nominal_shape
from ncpipe.data.settings import DatasetSpec
from ncpipe.data.source import NominalShape
from ncpipe.plan import calibration, estimates, memory, table
from ncpipe.plan.calibration import Calibration, Costs, Line, TrainingStep
from ncpipe.plan.live_memory import peak_of_live_tensors
from ncpipe.plan.profile import Profile, covered, print_profile
from ncpipe.plan.table import print_plan
from ncpipe.plan.workflow import record_path, workflow_ends, workflow_starts
from ncpipe.settings.sweep import laid_over
from ncpipe.study.config import KeepSpec
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system import stopwatch
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_text
from ncpipe.training.computation import Computation

CPU = torch.device("cpu")
CONFIG = {
    "study": {"name": "x"},
    "datasets": {"base": {"name": "digits"}},
    "networks": {
        "base": {
            "model": {"name": "mlp", "depth": 2, "width": 32},
            "loss": {"name": "ce"},
            "optimizer": {"lr": 0.1},
            "epochs": 10,
            "precision": "float32",
        },
        "sweep": {"grid": {"seed": [0, 1]}},
    },
    "ufm": {"matched": ["plain"]},
}


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(calibration, "DURATION", 0.01)
    return configured(tmp_path, {})


def configured(folder: Path, changes: dict) -> Study:
    return Study(laid_over(CONFIG, {"study.results": str(folder / "results"), **changes}))


def costs_of(study: Study) -> Costs:
    run = next(iter(study.networks.values()))
    return Calibration(CPU, 1e12).costs(run.spec, nominal_shape(run.spec.dataset))


# --- the table -----------------------------------------------------------------------------------


def test_plan_tells_time_and_memory_of_what_is_to_do(study, capsys):
    first, second = study.networks
    for name in ("spec.json", "collapse.parquet"):
        write_text(study.layout.run(first) / name, "{}")
    print_plan(study)
    rows = {tuple(line.split()[:2]): line for line in capsys.readouterr().out.splitlines()}
    assert rows["train", first].split()[2:] == ["done"]
    assert rows["train", second].split()[-1] == rows["features", second].split()[-1] == "MiB"
    assert rows["match", second].split()[-1] == "s"


def test_plan_of_a_large_study_counts_by_stage(study, capsys, monkeypatch):
    monkeypatch.setattr(table, "LISTED", 5)
    write_text(study.layout.run(next(iter(study.networks))) / "spec.json", "{}")
    print_plan(study)
    printed = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line.strip()}
    assert rows["train"][:3] == ["2", "1", "1"]
    assert rows["train"][-1] == "MiB"
    assert rows["match"] == ["2", "0", "2", "5", "s"]
    assert not any(run in printed for run in study.networks)
    print_plan(study, estimate=False, every=True)
    printed = capsys.readouterr().out
    assert all(run in printed for run in study.networks)


def test_plan_without_estimates_loads_no_torch(study, tmp_path):
    write_text(tmp_path / "study.json", study.config.model_dump_json())
    command = (
        "import sys; from pathlib import Path; from ncpipe.cli.studies import plan;"
        f" plan(Path({str(tmp_path / 'study.json')!r}), estimate=False, profile=False, every=False);"
        " sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "to do" in done.stdout


def test_what_cannot_fit_is_refused_after_the_table(study, capsys, monkeypatch):
    monkeypatch.setattr(estimates, "available_memory", lambda device: 300 * 2**20)
    with pytest.raises(
        UserError, match=r"needs about 4\d\d MiB of memory, but this machine has 300 MiB: .*width"
    ) as error:
        print_plan(study)
    assert any(run in str(error.value) for run in study.networks)
    assert "(and 3 more)" in str(error.value)
    assert "to do" in capsys.readouterr().out


def test_a_step_that_cannot_fit_is_not_tried(study, monkeypatch):
    monkeypatch.setattr(calibration, "seconds_per_image", lambda *args: pytest.fail("tried"))
    run = next(iter(study.networks.values()))
    found = calibration.measured(run.spec, nominal_shape(run.spec.dataset), CPU, available=1.0)
    assert found.seconds_per_image is None
    assert estimates.training_time(run.spec, nominal_shape(run.spec.dataset), found) is None


# --- calibration ---------------------------------------------------------------------------------


def test_costs_are_measured_once(study, monkeypatch):
    costs = costs_of(study)
    assert costs.seconds_per_image > 0
    cached = json.loads(calibration.cache_path().read_text())
    assert list(cached.values()) == [json.loads(costs.model_dump_json())]
    monkeypatch.setattr(calibration, "measured", lambda *args: pytest.fail("measured again"))
    assert costs_of(study) == costs


def test_what_did_not_fit_is_timed_once_there_is_memory(study):
    run = next(iter(study.networks.values()))
    shape = nominal_shape(run.spec.dataset)
    short = Calibration(CPU, 1.0)
    assert short.costs(run.spec, shape).seconds_per_image is None
    assert short.known(run.spec, shape) is not None
    assert Calibration(CPU, 1e12).costs(run.spec, shape).seconds_per_image > 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": {"weights": "many"}}', "\x00"])
def test_a_damaged_cache_is_made_anew(study, content):
    write_text(calibration.cache_path(), content)
    costs = costs_of(study)
    assert list(json.loads(calibration.cache_path().read_text()).values()) == [json.loads(costs.model_dump_json())]


def test_a_cache_that_cannot_be_written_is_done_without(study, tmp_path, monkeypatch):
    write_text(tmp_path / "file", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert costs_of(study).weights > 0


def test_kinds_are_told_apart_and_seeds_are_not(study, tmp_path):
    def keys(changes: dict) -> set[str]:
        runs = configured(tmp_path, changes).networks.values()
        return {Calibration(CPU, 1e12).key(run.spec, nominal_shape(run.spec.dataset)) for run in runs}

    same = keys({})
    assert len(same) == 1
    assert keys({"networks.base.epochs": 20, "networks.base.optimizer.lr": 0.2}) == same
    for key, value in {
        "model.width": 33, "head.hidden": 1, "batch_size": 64, "gpus": 2, "precision": "bf16",
        "optimizer.name": "adam",
    }.items():  # fmt: skip
        assert keys({f"networks.base.{key}": value}).isdisjoint(same), key
    assert keys({"networks.base.optimizer.momentum": 0.0}).isdisjoint(same)


def test_live_tensors_are_counted_at_their_peak():
    weight = torch.randn(1000, 100, requires_grad=True)  # 0.4 MB

    def loop() -> None:
        values = torch.zeros(250_000)  # 1 MB
        for _ in range(5):
            values = values + 1  # two at once

    def step() -> None:
        (torch.ones(250, 1000) @ weight).relu().sum().backward()

    assert peak_of_live_tensors(loop) == 2_000_000
    parts = {"weight": 400_000, "inputs": 1_000_000, "slopes": 100_000, "gradient": 400_000}
    assert peak_of_live_tensors(step, [weight]) == pytest.approx(sum(parts.values()), abs=100)


def test_memory_of_a_step_is_that_of_the_whole_batch(study):
    """What is measured at two small batches is what a full one takes."""
    spec, shape = next(iter(study.networks.values())).spec, NominalShape((1, 8, 8), 10, 1437, 360)
    step = TrainingStep(spec, shape, Computation(CPU), spec.batch_size)
    assert costs_of(study).step.at(spec.batch_size) == pytest.approx(peak_of_live_tensors(step, step.held()), rel=0.1)


def test_memory_of_weights_and_optimiser(study, tmp_path):
    weights = 4 * (64 * 32 + 32 * 32 + 4 * 32 + 4 * 32 + 330) + 2 * 8
    sgd, plain, adam = (
        costs_of(configured(tmp_path, {f"networks.base.optimizer.{key}": value}))
        for key, value in (("momentum", 0.9), ("momentum", 0.0), ("name", "adam"))
    )
    assert plain.weights == sgd.weights == pytest.approx(weights, rel=0.05)
    assert plain.state == plain.weights
    assert sgd.state == pytest.approx(2 * weights, rel=0.06)
    assert adam.state == pytest.approx(3 * weights, rel=0.06)
    assert sgd.step.fixed > 3 * weights - weights / 10  # the gradient too


# --- memory and time -----------------------------------------------------------------------------

COSTS = Costs(
    seconds_per_image=1e-3, weights=1000, state=2000, step=Line(4000, 100), evaluation=Line(1000, 50),
    layers=Line(1000, 80), widths={"layer1": (4, 64), "features": (8, 8)},
)  # fmt: skip
SHAPE = NominalShape((3, 32, 32), 10, 50_000, 10_000)
IMAGES = 60_000 * 3 * 32 * 32


def test_training_memory_by_its_parts(tmp_path):
    def needed(changes: dict, device: str = "cpu") -> float:
        run = next(iter(configured(tmp_path, changes).networks.values()))
        return memory.training_memory(run, COSTS, SHAPE, torch.device(device))

    evaluation = 2000 + 1000 + memory.SLACK * 50 * 512  # more than the step of 128 images
    assert needed({}) == memory.PROCESS + IMAGES + evaluation
    assert needed({}, "cuda") == memory.CONTEXT + IMAGES + evaluation
    large = needed({"networks.base.batch_size": 1024})
    assert large == memory.PROCESS + IMAGES + 4000 + memory.SLACK * 100 * 1024
    shared = needed({"networks.base.batch_size": 1024, "networks.base.gpus": 2}, "cuda")
    assert shared == memory.CONTEXT + IMAGES + 4000 + 1000 + memory.SLACK * 100 * 512


def test_costs_of_vectors(study, tmp_path):
    mixture = {"classes": 4, "dimension": 300, "separation": 2.0}
    drawn = {"name": "gaussians", "samples_per_class": 50, "test_samples_per_class": 10, "mixture": mixture}
    changed = configured(tmp_path, {"datasets.base": drawn})
    run, costs = next(iter(changed.networks.values())), costs_of(changed)
    assert costs.weights == 4 * (300 * 32 + 32 * 32 + 2 * 4 * 32 + 32 * 4 + 4) + 2 * 8
    assert costs.seconds_per_image > 0
    assert memory.data_memory(run.spec, nominal_shape(run.spec.dataset)) == 4 * 300 * 240


def test_features_memory_holds_what_fits_the_budget(study, monkeypatch):
    run, device = next(iter(study.networks.values())), torch.device("cpu")
    base = memory.PROCESS + IMAGES + 3000 + memory.SLACK * 80 * 512
    assert run.layers == ("layer1", "features")
    measure = study.config.measure
    assert memory.features_memory(run, measure, COSTS, SHAPE, device) == base + 4 * 50_000 * (4 + 8)
    flat = measure.model_copy(update={"pool": "flatten"})
    monkeypatch.setattr("ncpipe.features.extraction.MEMORY_BUDGET", 4 * 50_000 * 10)
    assert memory.features_memory(run, flat, COSTS, SHAPE, device) == base + 4 * 50_000 * 8


def test_the_zero_error_epoch_is_reckoned_with(study):
    run = replace(next(iter(study.networks.values())), epochs=(0, 10))
    images = 3 * (SHAPE.train_samples + SHAPE.test_samples)
    seconds = estimates.measuring_time(run, SHAPE, COSTS) - estimates.STARTUP
    assert seconds == pytest.approx(images * 1e-3 * estimates.FORWARD * estimates.MEASURING)
    kept = KeepSpec(layers=("features",), epochs="all")
    both = [
        memory.features_memory(run, study.config.measure.model_copy(update={"keep": keep}), COSTS, SHAPE, CPU)
        for keep in (kept, kept.model_copy(update={"epochs": "last"}))
    ]
    assert both[0] == both[1] + 2 * 4 * 8 * (SHAPE.train_samples + SHAPE.test_samples)


def test_a_limit_of_the_control_group_counts(tmp_path):
    write_text(tmp_path / "self", "0::/a/b\n")
    write_text(tmp_path / "groups/a/b/memory.max", "max\n")
    write_text(tmp_path / "groups/a/memory.max", "1000\n")
    assert min(memory.group_limits(tmp_path / "groups", tmp_path / "self")) == 1000
    write_text(tmp_path / "self", "5:cpu:/a\n4:memory:/job\n")
    write_text(tmp_path / "groups/memory/job/memory.limit_in_bytes", "77\n")
    assert min(memory.group_limits(tmp_path / "groups", tmp_path / "self")) == 77
    assert memory.group_limits(tmp_path, tmp_path / "none") == [float("inf")]
    assert 0 < memory.available_memory(CPU) <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_time_is_divided_by_the_gpus(tmp_path):
    one, two = (
        estimates.training_time(run.spec, SHAPE._replace(test_samples=0), COSTS)
        for gpus in (1, 2)
        for run in list(configured(tmp_path, {"networks.base.gpus": gpus}).networks.values())[:1]
    )
    assert one - estimates.STARTUP == pytest.approx(10 * 50_000 * 1e-3)
    assert two - estimates.STARTUP == pytest.approx((one - estimates.STARTUP) / 2)


@pytest.mark.parametrize(
    ("changes", "test_samples"),
    [
        ({}, 360),
        ({"test_samples_per_class": 7}, 70),
        ({"test_samples_per_class": 7, "pairs": 3, "test_pairs": 2}, 160),
    ],
)
def test_samples_of_the_test_split(changes, test_samples):
    assert nominal_shape(DatasetSpec(name="digits", **changes)).test_samples == test_samples


# --- where the time went -------------------------------------------------------------------------


def job(results: Path, name: str, end: float, seconds: float, log: str = "") -> None:
    write_text(results / f"benchmarks/{name}.tsv", f"s\th:m:s\n{seconds}\t0:00:01\n")
    os.utime(results / f"benchmarks/{name}.tsv", (end, end))
    write_text(results / f"logs/{name}.log", log)


def workflow(results: Path, **record: float) -> Layout:
    layout = Layout(results)
    write_text(record_path(layout), json.dumps(record))
    return layout


def test_profile_adds_up(tmp_path, capsys):
    layout = workflow(tmp_path, started=1000.0, finished=1100.0, cores=2)
    job(tmp_path, "train/a", 1050, 40, "epoch 1\nncpipe: start-up 2.00 s, work 38.00 s\n")
    job(tmp_path, "train/b", 1060, 40, "ncpipe: start-up 3.00 s, work 37.00 s\n")
    job(tmp_path, "ufm/matched-a", 1090, 10, "no line")
    job(tmp_path, "tables", 900, 10, "ncpipe: start-up 9.00 s, work 1.00 s\n")  # of a run before
    profile = Profile.read(layout)
    assert sorted(profile.jobs["stage"]) == ["match", "train", "train"]
    print_profile(layout)
    printed = capsys.readouterr().out
    # no job ran from 0 to 10, 60 to 80 and 90 to 100
    for part in ("wall time 1 min 40 s on 2 cores", "40.0 s, 40.0%", "5.0 s, 2.5%", "overhead: 42.5%", "of 1 job"):
        assert part in printed


def test_union_of_intervals():
    assert covered(np.array([5, 0, 1, 5.5]), np.array([6, 2, 3, 5.6])) == 4
    assert covered(np.array([]), np.array([])) == 0


def test_profile_without_a_finished_workflow_says_so(tmp_path):
    with pytest.raises(UserError, match="run the study first"):
        Profile.read(Layout(tmp_path))
    workflow_starts(Layout(tmp_path), 2)
    with pytest.raises(UserError, match="still runs or was killed"):
        Profile.read(Layout(tmp_path))
    before = time.time()
    workflow_ends(Layout(tmp_path))
    profile = Profile.read(Layout(tmp_path))
    assert profile.cores == 2
    assert profile.started < before <= profile.finished


def test_a_job_tells_its_start_up_in_its_last_line(capsys):
    with stopwatch.work():
        pass
    assert stopwatch.LINE.fullmatch(capsys.readouterr().out.strip())
    with pytest.raises(UserError), stopwatch.work():
        raise UserError("failed")
    assert capsys.readouterr().out == ""
    assert stopwatch.start_up("ncpipe: start-up 2.50 s, work 1.00 s\n") == 2.5
    assert stopwatch.start_up("else") is None


def test_age_of_a_process():
    command = "import time; time.sleep(0.3); from ncpipe.system.process import process_age; print(process_age())"
    start = time.time()
    printed = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    assert 0.3 < float(printed) < time.time() - start + 0.05
