"""The jobs that compute on networks: which device they get, and in what company they train."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from filelock import BaseFileLock, Timeout

from ncpipe.data import Dataset, load
from ncpipe.networks.settings import ConvNeXt, Timm, Vit
from ncpipe.stages.train import ensemble_lock, run_lock, train, train_ensemble
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.gpus import claimed_gpus, is_assigned
from ncpipe.system.stopwatch import waiting
from ncpipe.training.computation import Computation, choose_device, repays_compiling, training_flops
from ncpipe.training.preemption import Preempted
from ncpipe.training.ranks import is_rank, joined_ranks, launch, local_device
from ncpipe.training.settings import ComputeSpec, NetworkRun, NetworkSpec
from ncpipe.training.trainer import new_network

NARROW = 1e11
"""Operations of a training step below which a GPU mostly waits for launches."""
ENSEMBLE = 8
"""Networks of an ensemble where the study leaves the number to us."""


def train_job(study: Study, run: NetworkRun, study_file: Path, device_name: str, threads: int) -> None:
    """Train the network of ``run``, in several processes or with others of its kind where that is settled.

    One job at a time trains a network: another waits, and has nothing to do where the first has ended well.
    """
    if is_rank():
        _train(study, run, device_name, {})
        return
    folder, device = study.layout.run(run.id), choose_device(device_name)
    siblings = _siblings(study, run, device)
    with ExitStack() as held:
        if siblings:  # before the run's own lock, which the job that trains the ensemble takes too
            held.enter_context(_waiting_for(ensemble_lock(folder, siblings), f"the ensemble of {run.id}"))
        waited = held.enter_context(_waiting_for(run_lock(folder), run.id))
        if waited and (folder / "spec.json").exists():
            print(f"{run.id} was trained by another job", flush=True)
        elif run.spec.gpus == 1:
            _train(study, run, device_name, siblings)
        else:
            arguments = ["train", str(study_file), run.id, "--threads", str(threads), "--device", device_name]
            _train_on_several_gpus(run.spec, study.config.compute, device, arguments)
            if not (folder / "spec.json").exists():  # the job, or a process of it, was told to stop
                raise Preempted("told to stop; run again to go on")


def _train(study: Study, run: NetworkRun, device_name: str, siblings: dict[Path, NetworkRun]) -> None:
    spec, options, folder = run.spec, study.config.compute, study.layout.run(run.id)
    data = load(study.layout.dataset(run.dataset_id))
    with _on_device(device_name, options) as device, joined_ranks(device) as ranks, _memory_of(run):
        if siblings:
            one = Computation.choose(spec, device, options)
            train_ensemble(run, siblings, data, folder, replace(one, compiled=False))  # vmap traces it itself
            return
        images = spec.epochs * len(data.train.labels)
        train(run, data, folder, computation_of(spec, data, images, device, options), ranks)


@contextmanager
def _waiting_for(lock: BaseFileLock, what: str) -> Iterator[bool]:
    """Hold the lock, and say so where another job has it first; whether that was so."""
    waited = False
    Path(lock.lock_file).parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another job trains {what}: waiting for it", flush=True)
        waited = True
        with waiting():
            lock.acquire()
    try:
        yield waited
    finally:
        lock.release()


@contextmanager
def feature_job(study: Study, run: NetworkRun, device_name: str) -> Iterator[tuple[Dataset, Computation]]:
    """The data and the way to compute of the forward passes that measure a network: always float32."""
    data, options = load(study.layout.dataset(run.dataset_id)), study.config.compute
    # A forward pass is a third of a step of training.
    images = run.most_times * (len(data.train.labels) + len(data.test.labels)) / 3
    with _on_device(device_name, options) as device, _memory_of(run):
        yield data, replace(computation_of(run.spec, data, images, device, options), precision="float32")


def _train_on_several_gpus(
    spec: NetworkSpec, options: ComputeSpec, device: torch.device, arguments: list[str]
) -> None:
    if device.type == "cuda" and torch.cuda.device_count() < spec.gpus:
        raise UserError(
            f"gpus is {spec.gpus}, but this job sees {torch.cuda.device_count()}: lower it, or ask for more"
        )
    if device.type == "cpu":
        launch(arguments, spec.gpus, None)
        return
    with claimed_gpus(spec.gpus, options.jobs_per_gpu) as claimed:
        launch(arguments, spec.gpus, claimed)


@contextmanager
def _on_device(name: str, options: ComputeSpec) -> Iterator[torch.device]:
    """The device of the job: a GPU of which it holds a slot, or what ``name`` says."""
    if is_rank():
        yield local_device(choose_device(name))
        return
    if name != "auto":
        yield choose_device(name)
        return
    with claimed_gpus(1, options.jobs_per_gpu) as claimed:
        device = torch.device("cuda", claimed[0]) if claimed else choose_device()
        if device.type == "cpu":
            why = "none assigned" if is_assigned() else "none found"
            print(f"no GPU ({why}): computing on the CPU", flush=True)
        yield device


def computation_of(
    spec: NetworkSpec, data: Dataset, images: float, device: torch.device, options: ComputeSpec
) -> Computation:
    """How to train on so many images."""
    if options.compile == "auto":
        worth = device.type == "cuda" and repays_compiling(
            new_network(spec, data), data.image_shape, images, spec.batch_size
        )
        options = options.model_copy(update={"compile": worth})
    return Computation.choose(spec, device, options)


def _siblings(study: Study, run: NetworkRun, device: torch.device) -> dict[Path, NetworkRun]:
    """Other seeds of the network that are trained with it as one stack, by folder."""
    limit = study.config.compute.ensemble
    if run.spec.gpus > 1 or run.spec.dataset.stream:
        return {}
    if limit == "auto":
        if isinstance(run.spec.model, ConvNeXt | Vit | Timm):  # vmap has no rules for some of their operations
            return {}
        # Under SLURM jobs that wait for the one that trains would hold GPUs of their own.
        if device.type != "cuda" or "SLURM_JOB_ID" in os.environ:
            return {}
        data = load(study.layout.dataset(run.dataset_id))
        step = run.spec.batch_size * training_flops(new_network(run.spec, data), data.image_shape)
        limit = ENSEMBLE if step < NARROW else 1
    members = study.seeds_of(run, limit)
    return {study.layout.run(other.id): other for other in members if other.id != run.id}


@contextmanager
def _memory_of(run: NetworkRun) -> Iterator[None]:
    """Say in one line that the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{run.id} needs more memory than the GPU has ({str(error).split('. ')[0]}): lower batch_size or width,"
            " or raise gpus"
        ) from None
