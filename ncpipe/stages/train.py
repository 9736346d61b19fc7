"""Training of a network: from settings to history, checkpoints and final weights, resumable at any moment."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ncpipe.data import Dataset
from ncpipe.system.stopwatch import work
from ncpipe.training.computation import Computation
from ncpipe.training.preemption import stop_requests
from ncpipe.training.ranks import Ranks
from ncpipe.training.settings import NetworkRun
from ncpipe.training.trainer import Trainer, state_folder


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
