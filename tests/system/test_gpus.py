"""The pool of GPU slots, on a machine that is said to have GPUs: what is locked is real, the GPUs are not."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ncpipe.stages import devices
from ncpipe.stages.train import _train_on_several_gpus
from ncpipe.system import gpus
from ncpipe.system.errors import UserError
from ncpipe.system.gpus import claimed_gpus
from ncpipe.training.settings import ComputeSpec

HOLDER = """
import sys, time, torch
torch.cuda.device_count = lambda: 2
from ncpipe.system.gpus import (claimed_gpus)
with claimed_gpus(int(sys.argv[1]), int(sys.argv[2])) as claimed:
    print(claimed, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(gpus, "POLL", 0.05)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


def holder(count: int = 1, jobs_per_gpu: int = 1) -> subprocess.Popen[str]:
    """Another process that holds slots; its first line says which."""
    return subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(count), str(jobs_per_gpu)], stdout=subprocess.PIPE, text=True
    )


def test_jobs_get_different_gpus_and_the_emptier_one(two_gpus):
    with claimed_gpus() as first, claimed_gpus() as second:
        assert (first, second) == ([0], [1])
    with claimed_gpus(2) as both:
        assert both == [0, 1]
    with claimed_gpus(1, 2) as a, claimed_gpus(1, 2) as b, claimed_gpus(1, 2) as c, claimed_gpus(1, 2) as d:
        assert (a, b, c, d) == ([0], [1], [0], [1])


def test_a_killed_job_frees_its_slot(two_gpus, capsys):
    others = [holder(), holder()]
    assert sorted(other.stdout.readline() for other in others) == ["[0]\n", "[1]\n"]
    waiting = holder()  # waits until one of the two is gone
    assert waiting.stdout.readline() == "all GPUs are taken (2, 1 jobs each): waiting for one\n"
    assert waiting.poll() is None
    others[0].send_signal(signal.SIGKILL)
    others[0].wait()
    freed = waiting.stdout.readline()
    assert freed in ("[0]\n", "[1]\n")
    for process in (others[1], waiting):
        process.kill()
        process.wait()
    with claimed_gpus(2) as both:
        assert both == [0, 1]
    assert capsys.readouterr().out == ""


def test_several_gpus_are_taken_together(two_gpus):
    with claimed_gpus() as one:
        assert one == [0]
        both = holder(2)
        assert "waiting" in both.stdout.readline()
        # the waiting job holds nothing
        with claimed_gpus() as other:
            assert other == [1]
    assert both.stdout.readline() == "[0, 1]\n"
    both.kill()
    both.wait()


@pytest.mark.parametrize("variable", ["CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"])
def test_the_pool_steps_aside_where_gpus_are_assigned(variable, two_gpus, monkeypatch):
    monkeypatch.setenv(variable, "1")
    with claimed_gpus() as claimed, claimed_gpus() as again:
        assert claimed is None
        assert again is None
    assert not gpus.pool_folder().joinpath("gpu0.0.lock").exists()


def test_the_locks_are_closed_to_others(two_gpus):
    with claimed_gpus():
        assert gpus.pool_folder().stat().st_mode & 0o777 == 0o700


def test_without_a_gpu_a_job_says_once_that_it_computes_on_the_cpu(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with devices.on_device("auto", ComputeSpec()) as device:
        assert device == torch.device("cpu")
    assert capsys.readouterr().out.count("computing on the CPU") == 1
    with devices.on_device("cpu", ComputeSpec()) as device:
        assert device == torch.device("cpu")
    assert capsys.readouterr().out == ""  # it was asked for


def test_a_claimed_gpu_is_the_device(two_gpus, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with devices.on_device("auto", ComputeSpec()) as first, devices.on_device("auto", ComputeSpec()) as second:
        assert (first, second) == (torch.device("cuda", 0), torch.device("cuda", 1))


def test_more_gpus_than_there_are_is_a_mistake_of_the_user(two_gpus, tmp_path, monkeypatch):
    from networks_in_training import planned

    with pytest.raises(UserError, match="gpus is 3, but this job sees 2"):
        _train_on_several_gpus(planned(gpus=3).spec, ComputeSpec(), torch.device("cuda"), [])


def test_memory_that_does_not_suffice_is_one_line():
    from networks_in_training import planned

    with pytest.raises(UserError, match="run needs more memory than the GPU has"), devices.memory_of(planned()):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
