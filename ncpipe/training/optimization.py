"""Optimiser, groups of decayed parameters and learning-rate schedule from the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from ncpipe.training.settings import OptimizerSpec, ScheduleSpec


def build_optimizer(
    spec: OptimizerSpec, network: nn.Module, parameters: Mapping[str, Tensor] | None = None
) -> torch.optim.Optimizer:
    """The optimiser over all trainable parameters of ``network``, in one group for every weight decay.

    ``parameters``: what is optimised in their place, by the same names, as the stacked parameters of several networks
    of this architecture; the names and shapes of ``network`` decide on the weight decay.
    """
    decays, groups = parameter_decays(spec, network), dict[float, list[Tensor]]()
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            optimised = parameter if parameters is None else parameters[name]
            groups.setdefault(decays[name], []).append(optimised)
    options = [{"params": params, "weight_decay": decay} for decay, params in groups.items()]
    if spec.name == "sgd":
        return torch.optim.SGD(options, spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=True)
    adam = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return adam(options, spec.lr, fused=True)


def parameter_decays(spec: OptimizerSpec, network: nn.Module, effective: bool = False) -> dict[str, float]:
    """Weight decay of every parameter of a ``Network`` by name; ``effective`` leaves out what ``decay: effective``
    leaves out, whatever the group."""
    free = before_normalisation(network) if effective or spec.decay == "effective" else set()
    named = network.named_parameters()
    return {name: 0.0 if name in free else _weight_decay(spec, name, parameter) for name, parameter in named}


def before_normalisation(network: nn.Module) -> set[str]:
    """Parameters that a BatchNorm or unit spheres follow at once: their scale changes no output, so that a decay of
    them is no penalty of the function."""
    names = {"head.weight"} if getattr(getattr(network, "head", None), "temperature", None) is not None else set()
    for prefix, module in network.named_modules():
        for (name, child), (_, after) in pairwise(module.named_children()):
            if isinstance(child, nn.Linear | nn.Conv2d) and isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d):
                names |= {f"{prefix}.{name}.{parameter}" for parameter, _ in child.named_parameters()}
    return names


def _weight_decay(spec: OptimizerSpec, name: str, parameter: Tensor) -> float:
    """Weight decay of a parameter of a ``Network``. Weight matrices and kernels are those named so: class tokens,
    positions and scales of layers have several dimensions too."""
    in_head = name.startswith(("head.", "hidden."))
    is_weight = name.endswith("weight") and parameter.ndim >= 2
    decayed = {"all": True, "effective": True, "weights": is_weight, "head": in_head}[spec.decay]
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
