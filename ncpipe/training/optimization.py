"""Optimiser, groups of decayed parameters and learning-rate schedule from the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ncpipe.study.spec import OptimizerSpec, ScheduleSpec


def build_optimizer(
    spec: OptimizerSpec, network: nn.Module, parameters: Mapping[str, Tensor] | None = None
) -> torch.optim.Optimizer:
    """The optimiser over all trainable parameters of ``network``, in one group for every weight decay.

    ``parameters``: what is optimised in their place, by the same names, as the stacked parameters of several networks
    of this architecture; the names and shapes of ``network`` decide on the weight decay.
    """
    groups: dict[float, list[Tensor]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            optimised = parameter if parameters is None else parameters[name]
            groups.setdefault(_weight_decay(spec, name, parameter), []).append(optimised)
    options = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    if spec.name == "sgd":
        return torch.optim.SGD(options, spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=True)
    adam = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return adam(options, spec.lr, fused=True)


def _weight_decay(spec: OptimizerSpec, name: str, parameter: Tensor) -> float:
    """Of a parameter of a ``Network``. Weight matrices and kernels are those named so: class tokens, positions and
    scales of layers have several dimensions too."""
    in_head = name.startswith(("head.", "hidden."))
    is_weight = name.endswith("weight") and parameter.ndim >= 2
    decayed = {"all": True, "weights": is_weight, "head": in_head}[spec.decay]
    if not decayed:
        return 0.0
    return spec.classifier_decay if in_head else spec.weight_decay


def learning_rate(lr: float, schedule: ScheduleSpec, epoch: int, epochs: int) -> float:
    """Learning rate of ``epoch`` (1 .. ``epochs``); constant within an epoch."""
    passed = epoch - 1
    if passed < schedule.warmup_epochs:
        return lr * epoch / (schedule.warmup_epochs + 1)
    if schedule.name == "step":
        return lr * schedule.factor ** sum(passed >= m * epochs for m in schedule.milestones)
    if schedule.name == "cosine":
        share = (passed - schedule.warmup_epochs) / (epochs - schedule.warmup_epochs)
        return lr * (1 + math.cos(math.pi * share)) / 2
    return lr
