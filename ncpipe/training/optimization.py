"""Optimiser, groups of decayed parameters and learning-rate schedule from the settings."""

from __future__ import annotations

import math

import torch
from torch import nn

from ncpipe.study.spec import OptimizerSpec, ScheduleSpec


def build_optimizer(spec: OptimizerSpec, network: nn.Module) -> torch.optim.Optimizer:
    """The optimiser over all trainable parameters; weight decay only on the group ``spec.decay``."""
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    decayed = {
        "all": lambda name, p: True,
        "weights": lambda name, p: p.ndim >= 2,
        "head": lambda name, p: name.startswith("head."),
    }[spec.decay]
    groups = [
        {"params": [p for n, p in named if decayed(n, p)], "weight_decay": spec.weight_decay},
        {"params": [p for n, p in named if not decayed(n, p)], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if spec.name == "sgd":
        return torch.optim.SGD(groups, spec.lr, momentum=spec.momentum, nesterov=spec.nesterov, fused=True)
    adam = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return adam(groups, spec.lr, fused=True)


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
