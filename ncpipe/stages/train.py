"""The train stage: from settings to history, checkpoints and final weights, resumable at any moment, alone or with
others of its kind."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch
from filelock import BaseFileLock, FileLock, Timeout

from ncpipe.data import Dataset, load
from ncpipe.stages.devices import computation_of, memory_of, on_device
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.gpus import claimed_gpus
from ncpipe.system.stopwatch import waiting, work
from ncpipe.training.computation import Computation, choose_device, training_flops
from ncpipe.training.preemption import Preempted, stop_requests
from ncpipe.training.ranks import Ranks, is_rank, joined_ranks, launch
from ncpipe.training.settings import ComputeSpec, NetworkRun, NetworkSpec
from ncpipe.training.trainer import Trainer, new_network, state_folder


def train(run: NetworkRun, dataset: Dataset, folder: Path, computation: Computation, ranks: Ranks = Ranks()) -> None:  # noqa: B008
    """Train the network of ``run`` and write its records to ``folder``.

    Writes ``spec.json``, ``history.parquet``, ``timings.parquet``, ``model.safetensors`` and
    ``checkpoints/epoch*.safetensors`` at the measured epochs and the first without training error. A run whose loss
    stops being finite is a result with status ``diverged``. Killed at any moment, the next call goes on where the
    last state was saved; on a CPU with the same number of threads the result is the same bit for bit. On SIGTERM,
    SIGUSR1 and SIGINT the state is saved and ``Preempted`` raised, which ends the process with code 75.
    """
    with stop_requests() as stop:
        trainer = Trainer([run], [folder], dataset, computation, ranks)
        with work():
            trainer.fit(stop)
            if ranks.is_first:
                trainer.publish(stop)


def train_ensemble(
    run: NetworkRun, siblings: Mapping[Path, NetworkRun], dataset: Dataset, folder: Path, computation: Computation
) -> None:
    """Train the network of ``run``, and with it as one stack those siblings that stand where it stands.

    Siblings differ from it in the seed only. Their finished states are left in their folders, where their own jobs
    find them; only ``run`` is published. One job at a time trains an ensemble: the others wait for it.
    """
    here = _position(run, folder, dataset)
    with ExitStack() as held, stop_requests() as stop:
        runs = {folder: run}
        for place, sibling in siblings.items() if here[0] < run.spec.epochs else ():
            with suppress(Timeout):  # trained by a job that knows of no ensemble
                held.enter_context(run_lock(place).acquire(timeout=0))
                if not (place / "spec.json").exists() and _position(sibling, place, dataset) == here:
                    runs[place] = sibling
        trainer = Trainer(list(runs.values()), list(runs), dataset, computation)
        with work():
            trainer.fit(stop)
            trainer.publish(stop)


def run_lock(folder: Path) -> BaseFileLock:
    """Held by the job that trains a network; the system frees it when the job ends or dies."""
    return FileLock(folder.with_name(f".{folder.name}.lock"))


def ensemble_lock(folder: Path, siblings: Mapping[Path, NetworkRun]) -> BaseFileLock:
    """Held by the job that trains an ensemble: its other jobs wait for it."""
    first = min([folder, *siblings], key=lambda place: place.name)
    return FileLock(first.with_name(f".{first.name}.ensemble.lock"))


def _position(run: NetworkRun, folder: Path, dataset: Dataset) -> tuple[int, int]:
    progress = state_folder(run, folder, dataset).load().progress
    return progress.epoch, progress.step


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
    with on_device(device_name, options) as device, joined_ranks(device) as ranks, memory_of(run):
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


def _siblings(study: Study, run: NetworkRun, device: torch.device) -> dict[Path, NetworkRun]:
    """Other seeds of the network that are trained with it as one stack, by folder."""
    limit = study.config.compute.ensemble
    if run.spec.gpus > 1 or run.spec.dataset.stream:
        return {}
    if limit == "auto":
        if run.spec.model.vmap:
            return {}
        # Under SLURM jobs that wait for the one that trains would hold GPUs of their own.
        if device.type != "cuda" or "SLURM_JOB_ID" in os.environ:
            return {}
        data = load(study.layout.dataset(run.dataset_id))
        step = run.spec.batch_size * training_flops(new_network(run.spec, data), data.image_shape)
        limit = ENSEMBLE if step < NARROW else 1
    members = study.seeds_of(run, limit)
    return {study.layout.run(other.id): other for other in members if other.id != run.id}
