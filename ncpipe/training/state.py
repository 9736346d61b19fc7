"""The state of an unfinished training run, written atomically outside the declared outputs."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ncpipe.records.writing import PERFECT
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors, replacing, write_tensors

SAVE_INTERVAL, SAVE_SHARE = 20.0, 20.0
"""Seconds of training that a kill can cost, and how many times as long as saving the work between takes at least."""


class SaveClock:
    """When a run is saved again."""

    def __init__(self) -> None:
        self._saved_at, self._takes = time.monotonic(), 0.0

    def is_time(self) -> bool:
        return time.monotonic() - self._saved_at > max(SAVE_INTERVAL, SAVE_SHARE * self._takes)

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around what saves."""
        start = time.monotonic()
        yield
        self._saved_at = time.monotonic()
        self._takes = self._saved_at - start


@dataclass
class Progress:
    """How far a run has come: everything but tensors. The data order follows from epoch and step."""

    epoch: int = 0
    """Whole epochs behind."""
    step: int = 0
    """Steps behind of the epoch after those."""
    history: list[dict[str, float]] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    diverged: bool = False

    @property
    def zero_error_epoch(self) -> int | None:
        """First time of the history without training error, as in the ``runs`` table; None before it."""
        return next((int(row["time"]) for row in self.history if row["train_accuracy"] >= PERFECT), None)

    def is_done(self, epochs: int) -> bool:
        return self.diverged or self.epoch >= epochs


@dataclass
class SavedState:
    """What a run goes on from."""

    progress: Progress = field(default_factory=Progress)
    network: dict[str, Tensor] = field(default_factory=dict)
    optimizer: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    """By parameter name, then by what the optimiser calls it."""
    totals: Tensor | None = None
    """Sums over the steps behind of the epoch in progress: loss and right decisions, (2,) float64."""
    random: dict[str, Tensor] = field(default_factory=dict)
    """States of torch's generators, by device type."""


TRAINING = "state.safetensors"


class StateFolder:
    """``<run>/.state``: Snakemake deletes the declared outputs of a failed job, but not this folder."""

    def __init__(self, run_folder: Path, digest: str, measured: Sequence[int]) -> None:
        self.folder = run_folder / ".state"
        self.digest, self.measured = digest, measured

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / checkpoint_name(epoch)

    def save(self, state: SavedState) -> None:
        tensors = {f"network/{name}": value for name, value in state.network.items()}
        for parameter, kept in state.optimizer.items():
            tensors |= {f"optimizer/{parameter}/{name}": value for name, value in kept.items()}
        tensors |= {f"random/{device}": value for device, value in state.random.items()}
        if state.totals is not None:
            tensors["totals"] = state.totals
        self.write(TRAINING, tensors, state.progress)

    def load(self) -> SavedState:
        """What was saved for the same settings and code; otherwise a new beginning. Changes nothing on disk."""
        found = self.read(TRAINING, "training")
        if found is None:
            return SavedState()
        tensors, progress, _ = found
        optimizer: dict[str, dict[str, Tensor]] = {}
        for key, value in below(tensors, "optimizer/").items():
            parameter, name = key.rsplit("/", 1)
            optimizer.setdefault(parameter, {})[name] = value
        network, random = below(tensors, "network/"), below(tensors, "random/")
        return SavedState(progress, network, optimizer, tensors.get("totals"), random)

    def write(self, file: str, tensors: Mapping[str, Tensor], progress: Progress, ended: str = "") -> None:
        """Write a file of the folder: what goes on from there, how far the run has come, and why it ended."""
        about = {"digest": self.digest, "progress": json.dumps(asdict(progress)), "ended": ended}
        write_tensors(self.folder / file, tensors, about)

    def read(self, file: str, what: str) -> tuple[dict[str, Tensor], Progress, str] | None:
        """What ``write`` wrote for the same settings and code; None without it, or without a checkpoint behind it."""
        path = self.folder / file
        if not path.exists():
            return None
        try:
            tensors, about = read_tensors(path)
        except UserError as error:
            print(f"{error}; {what} starts again", flush=True)
            return None
        if about.get("digest") != self.digest:
            return None
        progress = Progress(**json.loads(about["progress"]))
        whole = all(self.checkpoint(epoch).exists() for epoch in self.epochs_behind(progress))
        return (tensors, progress, about.get("ended", "")) if whole else None

    def epochs_behind(self, progress: Progress) -> list[int]:
        """Times that have a checkpoint: measured ones, the first without training error, and the end where the end
        phase stopped before its last iteration; the one in which a run diverged has none."""
        wanted = with_zero_error(self.measured, progress.zero_error_epoch)
        behind = [e for e in wanted if e < progress.epoch or (e == progress.epoch and not progress.diverged)]
        ends_between = progress.epoch < self.measured[-1] and self.checkpoint(progress.epoch).exists()
        return [*behind, progress.epoch] if ends_between and progress.epoch not in behind else behind

    def publish_checkpoints(self, target: Path, progress: Progress) -> None:
        """Give the checkpoints their declared place, keeping them here until the job has ended.

        Each is whole at every moment, also where a second job publishes the same ones: a job of a node that was
        lost may live. ``UserError`` where that one has removed them from here.
        """
        names = {checkpoint_name(epoch) for epoch in self.epochs_behind(progress)}
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = self.folder / "checkpoints" / name
            if source.exists():
                with replacing(target / name) as temporary:
                    _link(source, temporary)
        for other in target.glob("epoch*"):
            if other.name not in names:
                other.unlink(missing_ok=True)
        if missing := sorted(name for name in names if not (target / name).exists()):
            raise UserError(f"no {missing[0]} in {target}: another job trained this network; run again")

    def remove(self) -> None:
        (self.folder / TRAINING).unlink(missing_ok=True)  # first: without its checkpoints it is worth nothing
        shutil.rmtree(self.folder, ignore_errors=True)


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """States of torch's global generators that a step on the device may draw from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def restore_generators(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put back what ``generator_states`` gave; those of another device type are left out."""
    if "cpu" in states:
        torch.set_rng_state(states["cpu"])
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not on this file system
        shutil.copy2(source, target)


def with_zero_error(epochs: Sequence[int], zero_error_epoch: int | None) -> list[int]:
    """Declared times and the first without training error, where there is one, ascending."""
    return sorted({*epochs} if zero_error_epoch is None else {*epochs, zero_error_epoch})


def checkpoint_name(epoch: int) -> str:
    return f"epoch{epoch:06d}.safetensors"


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
