"""Learning of new classes by the classifier alone: rehearsal buffer, SGD, and what is recorded on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ncpipe.continual.initialisation import Head, Samples, new_rows
from ncpipe.continual.settings import ContinualSpec
from ncpipe.settings.base import log_spaced
from ncpipe.system.errors import UserError
from ncpipe.training.losses import correct, mean_loss
from ncpipe.training.settings import LossSpec

# One stream of random numbers per decision: ways that differ in the new rows only share buffer and batches.
BUFFER, ROWS, BATCHES = range(3)

Row = dict[str, Any]


@dataclass(frozen=True)
class Learnt:
    """What became of one way of learning."""

    status: str
    """done | diverged"""
    final_step: int
    """Last step with a finite loss."""
    train_samples: int
    """Buffer and new classes together."""
    history: list[Row]
    """Quantities of docs/metrics.md by ``time``, the step; 0 is before the first."""


def learn(spec: ContinualSpec, loss: LossSpec, old: Head, train: Samples, test: Samples, num_classes: int) -> Learnt:
    """Enlarge the classifier ``old`` to ``num_classes`` and train it by SGD, in float64 on the CPU.

    Args:
        spec: start of the new rows, buffer and optimiser.
        loss: the network's own, averaged over the samples; the weight decay falls on weight and bias alike.
        old: the trained classifier of the first classes, which keeps its rows at step 0.
        train: all training samples of all classes, of which the old ones are cut down to the buffer.
        test: test samples of all classes.
        num_classes: old and new classes together, K.

    Raises:
        UserError: an old class has fewer training samples than the buffer asks for.
    """
    rows = rehearsal_pool(train.labels, len(old.weight), spec.rehearsal, _random(spec, BUFFER))
    pool = Samples(train.features[rows], train.labels[rows])
    head = old.with_rows(new_rows(spec, old, pool, num_classes, _random(spec, ROWS)))
    start = before(loss, old, test, num_classes) | quantities(loss, head, len(old.weight), pool, test)
    history: list[Row] = [{"time": 0} | start]
    measured = set(measured_steps(spec))
    if not math.isfinite(start["train_loss"]):
        return Learnt("diverged", 0, len(rows), [])
    step = 0
    for step in sgd(spec, loss, head, pool):
        if step in measured:
            row = {"time": step} | quantities(loss, head, len(old.weight), pool, test)
            if not math.isfinite(row["train_loss"]):
                return Learnt("diverged", step - 1, len(rows), history)
            history.append(row)
    return Learnt("done" if step == spec.steps else "diverged", step, len(rows), history)


def measured_steps(spec: ContinualSpec) -> tuple[int, ...]:
    """Log-spaced steps with 0 and the last, and all powers of ten."""
    powers = (10**i for i in range(len(str(spec.steps))))
    return tuple(sorted({*log_spaced(spec.points, spec.steps), *powers}))


def rehearsal_pool(labels: Tensor, old_classes: int, rehearsal: int, random: np.random.Generator) -> Tensor:
    """Rows of the training samples at hand: ``rehearsal`` drawn of every old class, all of the new ones.

    Buffers are nested: with one seed a larger one holds the smaller.
    """
    chosen = [torch.nonzero(labels >= old_classes).flatten()]
    for label in range(old_classes):
        members = torch.nonzero(labels == label).flatten()
        if len(members) < rehearsal:
            raise UserError(f"class {label} has {len(members)} images: lower continual.rehearsal = {rehearsal}")
        chosen.append(members[torch.from_numpy(random.permutation(len(members))[:rehearsal])])
    return torch.cat(chosen).sort().values


def sgd(spec: ContinualSpec, loss: LossSpec, head: Head, pool: Samples) -> Iterator[int]:
    """Train ``head`` in place as ``torch.optim.SGD`` does, whose import takes longer than the steps.

    Yields the number of every step done, and ends before a loss that is not finite.
    """
    parameters = [tensor.requires_grad_() for tensor in head if tensor is not None]
    velocities = [torch.zeros_like(parameter) for parameter in parameters]
    order = shuffled(len(pool.labels), spec.batch_size, _random(spec, BATCHES))
    for step, rows in zip(range(1, spec.steps + 1), order):
        value = mean_loss(loss, head(pool.features[rows]), pool.labels[rows])
        if not value.isfinite():
            return
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            for parameter, velocity, gradient in zip(parameters, velocities, gradients):
                velocity.mul_(spec.momentum).add_(gradient).add_(parameter, alpha=spec.weight_decay)
                parameter.sub_(velocity, alpha=spec.lr)
        yield step


def shuffled(count: int, batch_size: int, random: np.random.Generator) -> Iterator[Tensor]:
    """Batches of rows, epoch after epoch without end; those of an epoch differ by at most one row in size."""
    while True:
        order = torch.from_numpy(random.permutation(count))
        yield from order.tensor_split(math.ceil(count / batch_size))


@torch.no_grad()
def before(loss: LossSpec, old: Head, test: Samples, num_classes: int) -> dict[str, float]:
    """Loss and accuracy of the old classifier on the old classes' test samples: what learning starts from."""
    is_old = test.labels < len(old.weight)
    logits, labels = old(test.features[is_old]), test.labels[is_old]
    decided = correct(logits, labels)
    if loss.name == "mse":  # logits of new classes at their target, 0: with scaling 'mean' all K classes count
        logits = functional.pad(logits, (0, num_classes - len(old.weight)))
    return {"before_old_loss": mean_loss(loss, logits, labels).item(), "before_old_accuracy": _share(decided)}


@torch.no_grad()
def quantities(loss: LossSpec, head: Head, old_classes: int, pool: Samples, test: Samples) -> dict[str, float]:
    """What is recorded at a step: losses and accuracies on the pool and on the test samples, decided among all K."""
    train_logits, test_logits = head(pool.features), head(test.features)
    right, is_old = correct(test_logits, test.labels), test.labels < old_classes
    return {
        "train_loss": mean_loss(loss, train_logits, pool.labels).item(),
        "train_accuracy": _share(correct(train_logits, pool.labels)),
        "test_loss": mean_loss(loss, test_logits, test.labels).item(),
        "test_accuracy": _share(right),
        "test_old_accuracy": _share(right[is_old]),
        "test_new_accuracy": _share(right[~is_old]),
        "old_loss": mean_loss(loss, test_logits[is_old], test.labels[is_old]).item(),
    }


def _share(right: Tensor) -> float:
    return right.double().mean().item()


def _random(spec: ContinualSpec, stream: int) -> np.random.Generator:
    return np.random.default_rng([spec.seed, stream])
