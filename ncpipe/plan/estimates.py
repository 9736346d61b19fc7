"""Time and memory of the units of a study, from what a few steps cost on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch

from ncpipe.data.source import NominalShape, nominal_shape
from ncpipe.plan.calibration import Calibration, Costs
from ncpipe.plan.fitting_time import STARTUP, fitting_time
from ncpipe.plan.memory import available_memory, features_memory, training_memory
from ncpipe.plan.units import Unit
from ncpipe.study.runs import ContinualRun, UfmBatch
from ncpipe.study.study import Study
from ncpipe.system.progress import progress
from ncpipe.training.computation import choose_device
from ncpipe.training.settings import NetworkRun, NetworkSpec

FORWARD = 1 / 3
"""Share of a training step that a forward pass takes."""
MEASURING = 1.5
"""A forward pass that measures all layers takes so many times as long as one that does not."""

FLOAT64 = 2.5
"""An iteration of the end phase takes so many times as long, per image, as a step of training in float32."""

CLASSIFIER_STEP = 4e-4
"""Seconds of a step of SGD on the classifier alone, on a usual CPU."""


class Estimate(NamedTuple):
    """Seconds, and bytes at the peak; None where they are not estimated."""

    seconds: float | None
    memory: float | None = None


class Estimator:
    """Estimates for one job at a time on this machine: on its first GPU, or on one thread of its CPU."""

    def __init__(self, study: Study) -> None:
        torch.set_num_threads(1)
        self.study, self.device = study, choose_device()
        self.available = available_memory(self.device)
        self.calibration = Calibration(self.device, self.available)
        self._shapes: dict[str, NominalShape] = {}

    def calibrate(self, units: Iterable[Unit]) -> None:
        """Measure the networks of the units that have not been measured before, under a progress bar."""
        runs = [unit.of for unit in units if isinstance(unit.of, NetworkRun)]
        kinds = {self.calibration.key(run.spec, self._shape(run)): run for run in runs}
        unknown = [run for run in kinds.values() if self.calibration.known(run.spec, self._shape(run)) is None]
        if unknown:
            with progress("calibrating", len(unknown)) as report:
                for done, run in enumerate(unknown, start=1):
                    self._costs(run)
                    report(done, run.id)

    def estimate(self, unit: Unit) -> Estimate:
        if isinstance(unit.of, UfmBatch):
            return Estimate(fitting_time(list(unit.of.problems.values())))
        if isinstance(unit.of, ContinualRun):
            whole = nominal_shape(unit.of.dataset, self.study.data_path)
            return Estimate(continual_time(unit.of, whole, self._costs(unit.of.network)))
        if unit.of is None:
            return Estimate(STARTUP)
        run, shape, costs = unit.of, self._shape(unit.of), self._costs(unit.of)
        seconds, memory = (
            (training_time(run.spec, shape, costs), training_memory(run, costs, shape, self.device))
            if unit.stage == "train"
            else (
                measuring_time(run, shape, costs),
                features_memory(run, self.study.config.measure, costs, shape, self.device),
            )
        )
        return Estimate(seconds, memory)

    def _shape(self, run: NetworkRun) -> NominalShape:
        if run.dataset_id not in self._shapes:
            self._shapes[run.dataset_id] = nominal_shape(run.spec.dataset, self.study.data_path)
        return self._shapes[run.dataset_id]

    def _costs(self, run: NetworkRun) -> Costs:
        return self.calibration.costs(run.spec, self._shape(run))


def training_time(spec: NetworkSpec, shape: NominalShape, costs: Costs) -> float | None:
    """Seconds of all epochs with their evaluations, and of the end phase to its last iteration; without compilation
    and without reading a streamed set."""
    if costs.seconds_per_image is None:
        return None
    images = spec.epochs * (shape.train_samples / spec.gpus + FORWARD * shape.test_samples)
    if spec.terminal is not None:
        images += spec.terminal.iterations * shape.train_samples * FLOAT64
    return STARTUP + images * costs.seconds_per_image


def measuring_time(run: NetworkRun, shape: NominalShape, costs: Costs) -> float | None:
    """Seconds of the forward passes at the measured epochs."""
    if costs.seconds_per_image is None:
        return None
    images = run.most_times * (shape.train_samples + shape.test_samples)
    return STARTUP + images * costs.seconds_per_image * FORWARD * MEASURING


def continual_time(run: ContinualRun, whole: NominalShape, costs: Costs) -> float | None:
    """Seconds of a forward pass over all classes and of the steps of the classifier."""
    if costs.seconds_per_image is None:
        return None
    images = (whole.train_samples + whole.test_samples) * costs.seconds_per_image * FORWARD
    return STARTUP + images + CLASSIFIER_STEP * sum(spec.steps for spec in run.ways.values())
