"""What a study would run, what is done, and how long the rest should take."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ncpipe.errors import UserError
from ncpipe.study.spec import GradientDescent, Lbfgs, NetworkSpec, UfmSpec
from ncpipe.study.study import NetworkRun, Study

STARTUP = 2.5
"""Seconds of interpreter and library start per job, on a usual CPU."""
CALIBRATION = 0.5
"""Seconds of training steps timed per network of a kind."""


@dataclass(frozen=True)
class Item:
    """One unit of work."""

    stage: str
    id: str
    done: bool
    seconds: float | None


def print_plan(study: Study, estimate: bool = True) -> None:
    """Print the expansion of a study as a table; times are for one job at a time on this machine."""
    items = list(plan_items(study, estimate))
    table = Table("stage", "id", "state", box=None)
    if estimate:
        table.add_column("estimate", justify="right")
    for item in items:
        state = "[green]done[/]" if item.done else "to do"
        table.add_row(item.stage, item.id, state, *([_clock(item.seconds)] if estimate else []))
    console = Console()
    console.print(table)
    missing = [item for item in items if not item.done]
    total = sum(item.seconds or 0 for item in missing)
    console.print(
        f"{len(items)} units, {len(items) - len(missing)} done, {len(missing)} to do"
        + (
            f": about {_clock(total)} of computing on one core; divide by the jobs that run at once"
            if estimate
            else ""
        )
    )


def plan_items(study: Study, estimate: bool) -> Iterator[Item]:
    """The units of a study in the order of their stages."""
    layout = study.layout
    rates = Rates(study.data_path)
    for dataset_id in study.datasets:
        yield Item("dataset", dataset_id, (layout.dataset(dataset_id) / "dataset.json").exists(), STARTUP)
    for run in study.networks.values():
        done = (layout.run(run.id) / "spec.json").exists()
        yield Item("train", run.id, done, rates.training(run) if estimate and not done else None)
        measured = (layout.run(run.id) / "collapse.parquet").exists()
        yield Item("features", run.id, measured, rates.features(run) if estimate and not measured else None)
    for batch in study.ufm_batches.values():
        done = (layout.ufm(batch.id) / "fits.parquet").exists()
        seconds = rates.ufm(list(batch.problems.values())) if estimate and not done else None
        yield Item(f"ufm x{len(batch.problems)}", batch.id, done, seconds)
    if study.networks and study.config.ufm.matched:
        for run in study.networks.values():
            done = (layout.ufm(run.matched_id) / "fits.parquet").exists()
            yield Item("match", run.id, done, STARTUP)
    for name in study.figures:
        yield Item("figure", name, (layout.figures / f"{name}.svg").exists(), STARTUP)


class Rates:
    """Seconds of work, from a few timed training steps of every kind of network."""

    def __init__(self, search_path: Sequence[Path]) -> None:
        self.search_path = search_path
        self._per_image: dict[str, float] = {}

    def training(self, run: NetworkRun) -> float:
        from ncpipe.data import nominal_shape

        samples = nominal_shape(run.spec.dataset, self.search_path).train_samples
        return STARTUP + run.spec.epochs * samples * self.per_image(run.spec)

    def features(self, run: NetworkRun) -> float:
        return STARTUP + len(run.epochs) * (self.training(run) - STARTUP) / run.spec.epochs / 2

    def per_image(self, spec: NetworkSpec) -> float:
        """Seconds per image of training with one thread."""
        key = f"{spec.model} {spec.dataset.name} {spec.dataset.image_size} {spec.batch_size}"
        if key not in self._per_image:
            self._per_image[key] = seconds_per_image(spec, self.search_path)
        return self._per_image[key]

    def ufm(self, specs: list[UfmSpec]) -> float:
        """A rough count: 4e10 multiplications a second on top of a cost per step."""
        spec = specs[0]
        width = max(spec.dim) if isinstance(spec.dim, tuple) else spec.dim
        work = 6 * spec.depth * width * spec.num_samples * (spec.classes + width * (spec.depth - 1))
        match spec.solver:
            case GradientDescent(steps=steps):
                return STARTUP + steps * (4e-5 * spec.depth + len(specs) * work / 4e10)
            case Lbfgs(starts=starts):
                return STARTUP + 1500 * (1e-3 * spec.depth + len(specs) * starts * work / 4e10)
        return STARTUP + len(specs) * 0.1


def seconds_per_image(spec: NetworkSpec, search_path: Sequence[Path] = ()) -> float:
    """Time training steps on random images of the data set's shape, with one thread."""
    import torch

    from ncpipe.data import nominal_shape
    from ncpipe.networks import build_network
    from ncpipe.training.losses import mean_loss
    from ncpipe.training.optimization import build_optimizer

    torch.set_num_threads(1)
    channels, side, classes, _ = nominal_shape(spec.dataset, search_path)
    try:
        network = build_network(spec.model, spec.head, (channels, side, side), classes, 0)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"{spec.slug} cannot be built: {str(error).splitlines()[0]}; make it smaller") from None
    optimizer = build_optimizer(spec.optimizer, network)
    images = torch.randn(spec.batch_size, channels, side, side)
    labels = torch.arange(spec.batch_size) % classes
    steps, start = -1, time.perf_counter()  # the first step warms up
    while steps < 2 or time.perf_counter() - start < CALIBRATION:
        mean_loss(spec.loss, network(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()
        steps += 1
        if steps == 0:
            start = time.perf_counter()
    return (time.perf_counter() - start) / steps / spec.batch_size


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
