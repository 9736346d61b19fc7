"""The objective of training over all images at once, float64: its value, its gradient and BatchNorm's statistics.

BatchNorm's statistics are those of all N images, through which the gradient goes too, or those of evaluation mode.
Where N images do not fit in memory they are streamed in chunks, one pass for every BatchNorm forward and backward.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ncpipe.networks import Network
from ncpipe.networks.hooked import watching
from ncpipe.training.batches import Batches
from ncpipe.training.losses import correct, feature_penalty, mean_loss
from ncpipe.training.optimization import parameter_decays
from ncpipe.training.settings import NetworkSpec

Mode = Literal["full_batch", "evaluation"]
"""Which statistics BatchNorm has: those of all training images, or its running ones."""
MEMORY_BUDGET = 2 * 1024**3
"""Bytes of activations held at once; larger data are streamed."""
COPIES = 3
"""Activations that a layer leaves for the backward pass, in float64, at most."""
Norm = nn.BatchNorm1d | nn.BatchNorm2d
Statistics = dict[str, tuple[Tensor, Tensor]]
"""Mean and variance (c,) of the inputs of BatchNorms, by name."""


@dataclass
class Evaluation:
    """What one evaluation of the objective leaves."""

    value: float
    """Mean loss and all penalties."""
    gradient: Tensor
    """(P,) float64."""
    loss: float
    """Mean loss without penalties."""
    accuracy: float
    statistics: Statistics
    """What BatchNorms had."""


@dataclass
class _Pass:
    """What one pass over the data leaves of the mean loss and the features' penalty."""

    objective: float
    gradients: list[Tensor]
    """In the parameters."""
    slopes: list[Tensor]
    """In the statistics of BatchNorms that were asked for."""
    loss: float
    hits: int
    """Images that are decided right."""


class _Reached(Exception):  # noqa: N818
    """The forward pass has come to the layer whose input was asked for."""


class FullBatch:
    """The mean loss over the training images plus every penalty that training has, of a network in float64.

    The decay of parameters whose scale a BatchNorm takes away is left out: with it there is no minimum, only ever
    smaller weights of the same function. ``parameters`` are the trainable ones as one vector (P,).
    """

    def __init__(
        self, network: Network, spec: NetworkSpec, data: Batches, device: torch.device, chunk: int | None = None
    ) -> None:
        """``network`` is changed to float64 on the device; ``chunk``: images at once, by default as many as fit."""
        self.network, self.spec, self.data, self.device = network.double().to(device).eval(), spec, data, device
        decays = parameter_decays(spec.optimizer, network, effective=True)
        named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        self._trained = [parameter for _, parameter in named]
        sizes = torch.tensor([parameter.numel() for parameter in self._trained])
        each = torch.tensor([decays[name] for name, _ in named], dtype=torch.float64)
        self.decay = each.repeat_interleave(sizes).to(device)
        self.norms: dict[str, Norm] = {}
        self._given: Statistics = {}
        self._own_batch = False
        fitting = self._trace()
        self.chunk = chunk or fitting
        self._held: list[tuple[Tensor, Tensor]] = []
        if self.chunk >= len(data):
            self._held = [*self._chunks()]

    # --- parameters -----------------------------------------------------------------------------------

    @property
    def parameters(self) -> Tensor:
        return torch.cat([parameter.detach().flatten() for parameter in self._trained])

    @torch.no_grad()
    def load(self, vector: Tensor) -> None:
        """Give the network the parameters (P,)."""
        for parameter, part in zip(self._trained, vector.split([p.numel() for p in self._trained]), strict=True):
            parameter.copy_(part.view_as(parameter))

    def relative_gradient(self, gradient: Tensor) -> float:
        r"""|grad f| / |Lambda theta|, Lambda theta the gradient of the weight decay: 0 at a stationary point."""
        return float(gradient.norm() / (self.decay * self.parameters).norm())

    # --- evaluation -----------------------------------------------------------------------------------

    def evaluate(self, mode: Mode = "full_batch") -> Evaluation:
        """Objective and gradient at the network's parameters."""
        with self._own_norms():
            if mode == "evaluation":
                self._given = {name: _running(norm) for name, norm in self.norms.items()}
                return self._penalised(self._through_all([]))
            self._own_batch = bool(self._held)
            whole = self._own_batch or not self.norms
            return self._penalised(self._through_all([]) if whole else self._streamed())

    @torch.no_grad()
    def set_statistics(self, statistics: Statistics) -> None:
        """Give BatchNorms running statistics: with those of the full batch evaluation mode is the objective."""
        for name, (mean, variance) in statistics.items():
            cast(Tensor, self.norms[name].running_mean).copy_(mean)
            cast(Tensor, self.norms[name].running_var).copy_(variance)

    def _through_all(self, statistics: list[Tensor]) -> _Pass:
        """One pass over the data, with the gradient in the parameters and in ``statistics``."""
        leaves = [*self._trained, *statistics]
        sums = [torch.zeros_like(leaf) for leaf in leaves]
        done = _Pass(0.0, sums[: len(self._trained)], sums[len(self._trained) :], 0.0, 0)
        for images, labels in self._chunks():
            logits, head_input = self.network.forward(images)
            targets, share = self.data.targets(labels), len(labels) / len(self.data)
            loss = mean_loss(self.spec.loss, logits, targets)
            objective = loss + feature_penalty(self.spec.head, head_input)
            for total, part in zip(sums, _gradients(objective * share, leaves), strict=True):
                total += part
            done.objective += float(objective.detach()) * share
            done.loss += float(loss.detach()) * share
            done.hits += int(correct(logits, targets).sum())
        return done

    def _penalised(self, done: _Pass) -> Evaluation:
        theta = self.parameters
        gradient = torch.cat([part.flatten() for part in done.gradients]) + self.decay * theta
        value = done.objective + float((self.decay * theta).dot(theta)) / 2
        statistics = {name: (mean.detach(), variance.detach()) for name, (mean, variance) in self._given.items()}
        return Evaluation(value, gradient, done.loss, done.hits / len(self.data), statistics)

    def _streamed(self) -> _Pass:
        """A pass by chunks: the mean and variance of every BatchNorm are variables of their own, from the last to
        the first of which the gradient is handed down."""
        self._find_statistics()
        statistics = [tensor.requires_grad_() for name in self.norms for tensor in self._given[name]]
        done = self._through_all(statistics)
        for number, name in reversed([*enumerate(self.norms)]):
            leaves = [*self._trained, *statistics[: 2 * number]]
            sums = [*done.gradients, *done.slopes[: 2 * number]]
            in_mean, in_variance = done.slopes[2 * number : 2 * number + 2]
            mean = statistics[2 * number].detach()
            for inputs, count in self._inputs_of(name):
                rows = _by_channel(inputs)
                carried = (rows @ in_mean + (rows - mean).square() @ in_variance).sum() / count
                for total, part in zip(sums, _gradients(carried, leaves), strict=True):
                    total += part
        return done

    @torch.no_grad()
    def _find_statistics(self) -> None:
        """Mean and variance of all BatchNorms over all images, each from passes up to it."""
        self._given = {}
        for name, norm in self.norms.items():
            mean, variance = torch.zeros_like(norm.weight), torch.zeros_like(norm.weight)
            for inputs, count in self._inputs_of(name):
                mean += _by_channel(inputs).sum(dim=0) / count
            for inputs, count in self._inputs_of(name):
                variance += (_by_channel(inputs) - mean).square().sum(dim=0) / count
            self._given[name] = mean, variance

    def _inputs_of(self, norm: str) -> Iterator[tuple[Tensor, int]]:
        """Inputs of a BatchNorm chunk by chunk, and how many values a channel has over all of them."""
        for images, labels in self._chunks():
            seen: list[Tensor] = []

            def take(name: str, inputs: Tensor, seen: list[Tensor] = seen) -> None:
                seen.append(inputs)
                raise _Reached

            with suppress(_Reached), watching(self.network, inputs_of=[norm], entered=take):
                self.network.forward(images)
            yield seen[0], _by_channel(seen[0]).shape[0] // len(labels) * len(self.data)

    def _chunks(self) -> Iterable[tuple[Tensor, Tensor]]:
        return self._held or ((images.double(), labels) for images, labels in self.data.in_order(self.chunk))

    # --- BatchNorm ------------------------------------------------------------------------------------

    @contextmanager
    def _own_norms(self) -> Iterator[None]:
        """BatchNorms with the statistics of this object in place of their own."""
        for name, norm in self.norms.items():
            norm.forward = lambda inputs, name=name: self._normalised(name, inputs)  # type: ignore[method-assign, misc]
        try:
            yield
        finally:
            self._given, self._own_batch = {}, False
            for norm in self.norms.values():
                del norm.forward

    def _normalised(self, name: str, inputs: Tensor) -> Tensor:
        norm = self.norms[name]
        if self._own_batch:
            mean, unbiased = torch.zeros_like(norm.weight), torch.zeros_like(norm.weight)
            outputs = F.batch_norm(inputs, mean, unbiased, norm.weight, norm.bias, True, 1.0, norm.eps)
            count = inputs.numel() // len(mean)
            self._given[name] = mean, unbiased * ((count - 1) / count)
            return outputs
        mean, variance = self._given[name]
        shape = (1, -1, *[1] * (inputs.ndim - 2))
        scale = norm.weight / (variance + norm.eps).sqrt()
        return (inputs - mean.view(shape)) * scale.view(shape) + norm.bias.view(shape)

    @torch.no_grad()
    def _trace(self) -> int:
        """Find the BatchNorms in the order in which they compute; returns how many images fit in memory at once."""
        elements = 0
        leaves = {name: module for name, module in self.network.named_modules() if not list(module.children())}

        def left(name: str, output: Tensor) -> None:
            nonlocal elements
            elements += output.numel()
            if isinstance(leaves[name], Norm):
                self.norms[name] = leaves[name]

        images, _ = next(self.data.in_order(1))
        with watching(self.network, leaves, left):
            self.network.forward(images.double())
        return max(1, MEMORY_BUDGET // (COPIES * 8 * elements))


def _running(norm: Norm) -> tuple[Tensor, Tensor]:
    return cast(Tensor, norm.running_mean).detach(), cast(Tensor, norm.running_var).detach()


def _gradients(objective: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Gradients of a scalar, zero where a leaf has no part in it."""
    found = torch.autograd.grad(objective, leaves, allow_unused=True)
    return [torch.zeros_like(leaf) if part is None else part for part, leaf in zip(found, leaves, strict=True)]


def _by_channel(inputs: Tensor) -> Tensor:
    """A row for every image and position: (N, c) as it is, (N, c, h, w) as (Nhw, c)."""
    return inputs if inputs.ndim == 2 else inputs.movedim(1, -1).flatten(0, -2)
