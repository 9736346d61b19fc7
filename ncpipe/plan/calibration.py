"""What a step of training and a forward pass cost: measured on a few images, and kept for the next time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import BaseModel, TypeAdapter, ValidationError
from torch import Tensor

from ncpipe.data.source import NominalShape
from ncpipe.networks import Network, as_vectors, build_network
from ncpipe.plan.live_memory import peak_of_live_tensors
from ncpipe.settings.identity import STAGE_VERSIONS, digest
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_text
from ncpipe.system.provenance import processor
from ncpipe.training.computation import Computation, device_kind, laid_out, training_flops
from ncpipe.training.losses import feature_penalty
from ncpipe.training.optimization import build_optimizer
from ncpipe.training.settings import NetworkSpec

DURATION = 0.5
"""Seconds of steps that are timed, after a first one; at least two steps, or a first one of four times that long."""
OPERATIONS = 1e11
"""Floating-point operations of the steps in which memory is counted, about: they decide on the batch."""


class Line(NamedTuple):
    """Bytes against the size of a batch."""

    fixed: float
    per_image: float

    def at(self, batch: int) -> float:
        return self.fixed + self.per_image * batch


class Costs(BaseModel):
    """Costs of one kind of network on one kind of machine."""

    seconds_per_image: float | None
    """Time of training; None where a step did not fit into memory and was not tried."""
    weights: int
    """Bytes of weights and buffers."""
    state: int
    """Bytes of weights, buffers and optimiser."""
    step: Line
    """Peak of a step of training: weights, gradients, optimiser, activations."""
    evaluation: Line
    """Peak of a forward pass, with the weights."""
    layers: Line
    """Peak of a forward pass that keeps the outputs of all layers, with the weights."""
    widths: dict[str, tuple[int, int]]
    """Values of a layer's feature vector by layer: averaged over positions, and flattened."""


class Calibration:
    """Costs by kind, from the user's cache or measured now and put there."""

    def __init__(self, device: torch.device, available: float) -> None:
        self.device, self.available = device, available
        self.path = cache_path()

    def known(self, spec: NetworkSpec, shape: NominalShape) -> Costs | None:
        """The costs that are kept, but of a step that is not timed yet and fits into the memory of now."""
        kept = self._read().get(self.key(spec, shape))
        if kept is None or kept.seconds_per_image is not None:
            return kept
        return None if kept.step.at(own_batch(spec, shape)) < self.available else kept

    def costs(self, spec: NetworkSpec, shape: NominalShape) -> Costs:
        """Raises ``UserError`` where the network cannot be built."""
        costs = self.known(spec, shape)
        if costs is None:
            costs = measured(spec, shape, self.device, self.available)
            # Read again: another process may have written since.
            self._write({**self._read(), self.key(spec, shape): costs})
        return costs

    def key(self, spec: NetworkSpec, shape: NominalShape) -> str:
        """Name of a kind of network on this machine: what its costs depend on."""
        name = device_kind(self.device) if self.device.type == "cuda" else processor()
        machine = [name, torch.__version__, torch.get_num_threads(), STAGE_VERSIONS["train"]]
        precision = Computation.choose(spec, self.device).precision
        kind = [spec.model, spec.head, spec.loss, spec.optimizer.name, spec.optimizer.momentum > 0]
        return digest([machine, kind, [shape.image, shape.classes], own_batch(spec, shape), precision])

    def _read(self) -> dict[str, Costs]:
        try:
            return TypeAdapter(dict[str, Costs]).validate_json(self.path.read_bytes())
        except (OSError, ValidationError):  # none yet, or not ours: measured anew
            return {}

    def _write(self, entries: dict[str, Costs]) -> None:
        with suppress(UserError):  # a home that cannot be written costs the next plan some seconds
            write_text(self.path, TypeAdapter(dict[str, Costs]).dump_json(entries, indent=1).decode())


def cache_path() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ncpipe" / "calibration.json"


def measured(spec: NetworkSpec, shape: NominalShape, device: torch.device, available: float) -> Costs:
    """Count the memory of a network on a few images, then time its steps where they fit into ``available`` bytes."""
    host = Computation(torch.device("cpu"), Computation.choose(spec, device).precision)
    affordable = OPERATIONS / max(1, training_flops(_built(spec, shape), shape.image))
    large = max(8, min(spec.batch_size, int(affordable)))
    steps = [TrainingStep(spec, shape, host, batch) for batch in (large // 2, large)]
    network = steps[0].network
    step_line = _line([(len(step.images), peak_of_live_tensors(step, step.held())) for step in steps])
    state = sum(_size(tensor) for tensor in steps[0].held(gradients=False))
    network.eval()
    evaluation, layers = (
        _line([(len(step.images), _pass_peak(forward, network, step.images)) for step in steps])
        for forward in (network, network.features)
    )
    with torch.no_grad():
        outputs, _ = network.features(steps[0].images)
    fits = step_line.at(own_batch(spec, shape)) < available
    return Costs(
        seconds_per_image=seconds_per_image(spec, shape, Computation.choose(spec, device)) if fits else None,
        weights=sum(map(_size, network.state_dict().values())),
        state=state,
        step=step_line,
        evaluation=evaluation,
        layers=layers,
        widths={
            layer: (as_vectors(output, "average").shape[1], as_vectors(output, "flatten").shape[1])
            for layer, output in outputs.items()
        },
    )


def _pass_peak(forward: Callable[[Tensor], object], network: Network, images: Tensor) -> int:
    with torch.no_grad():
        return peak_of_live_tensors(lambda: forward(images), network.state_dict().values())


class TrainingStep:
    """The step of training as a call, on random images of the data set's shape."""

    def __init__(self, spec: NetworkSpec, shape: NominalShape, computation: Computation, batch: int) -> None:
        self.spec, self.computation = spec, computation
        self.network = computation.place(_built(spec, shape))
        self.optimizer = build_optimizer(spec.optimizer, self.network)
        self.images = laid_out(torch.randn(batch, *shape.image, device=computation.device))
        labels = torch.arange(batch, device=computation.device) % shape.classes
        several = spec.dataset.multi_label
        self.targets = torch.eye(shape.classes, device=computation.device)[labels] if several else labels
        self.network.train()

    def __call__(self) -> None:
        with self.computation.autocast():
            output = self.network(self.images)
        losses = self.spec.loss.sample_loss.sample_losses(output.logits, self.targets)
        objective = losses.mean() + feature_penalty(self.spec.head, output.head_input).sum()
        self.optimizer.zero_grad(set_to_none=True)
        objective.backward()
        self.optimizer.step()

    def held(self, gradients: bool = True) -> list[Tensor]:
        """What lives between two steps: weights, buffers, the optimiser's state, and the gradients until the next."""
        if not self.optimizer.state:
            self()
        kept = [value for state in self.optimizer.state.values() for value in state.values()]
        slopes = [parameter.grad for parameter in self.network.parameters()] if gradients else []
        return [value for value in (*self.network.state_dict().values(), *kept, *slopes) if isinstance(value, Tensor)]


def seconds_per_image(spec: NetworkSpec, shape: NominalShape, computation: Computation) -> float:
    """Seconds of training per image of a batch as the run has them on one device."""
    batch = own_batch(spec, shape)
    step = TrainingStep(spec, shape, computation, batch)
    try:
        first = _timed(step, computation.device)
    except ValueError as error:  # BatchNorm has no statistics of a single image
        raise UserError(f"{spec.slug} cannot be trained in batches of {batch}: {error}") from None
    if first > 4 * DURATION:
        return first / batch
    count, spent = 0, 0.0
    while count < 2 or spent < DURATION:
        spent += _timed(step, computation.device)
        count += 1
    return spent / count / batch


def _timed(step: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _built(spec: NetworkSpec, shape: NominalShape) -> Network:
    try:
        return build_network(spec.model, spec.head, shape.image, shape.classes, 0)
    except (RuntimeError, MemoryError) as error:
        raise UserError(f"{spec.slug} cannot be built: {str(error).splitlines()[0]}; make it smaller") from None


def own_batch(spec: NetworkSpec, shape: NominalShape) -> int:
    """Images of a batch that one process computes on."""
    return -(-min(spec.batch_size, shape.train_samples) // spec.gpus)


def _line(peaks: list[tuple[int, int]]) -> Line:
    """Through two points (batch, bytes)."""
    (low, less), (high, more) = peaks
    slope = (more - less) / (high - low)
    return Line(max(0.0, less - slope * low), slope)


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
