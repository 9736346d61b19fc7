"""The memory that jobs on networks need at their peak, and the memory that the device has."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import torch

from ncpipe.data.source import NominalShape
from ncpipe.features.extraction import within_budget
from ncpipe.plan.calibration import Costs, own_batch
from ncpipe.settings.base import matches_any
from ncpipe.study.config import MeasureSpec
from ncpipe.training.settings import NetworkRun, NetworkSpec, measured_layers
from ncpipe.training.trainer import EVALUATION_BATCH

PROCESS = 400 * 2**20
"""Resident memory of a job after its imports; measured on Linux with torch 2.13 for CPUs."""
CONTEXT = 700 * 2**20
"""What CUDA, cuDNN and their workspaces take on a GPU beside the tensors."""
SLACK = 1.5
"""What grows with the batch is multiplied by this, for what kernels take and the allocator keeps: on a CPU 1.1
(convolutions of large images) to 2.2 (transformers) was measured."""


def training_memory(run: NetworkRun, costs: Costs, shape: NominalShape, device: torch.device) -> float:
    """Peak bytes of training on the device; on a CPU of all processes that share the batches."""
    spec, between = run.spec, costs.state + costs.weights  # gradients stay until the next step
    buckets = costs.weights if spec.gpus > 1 else 0  # of DistributedDataParallel
    step = costs.step.fixed + buckets + SLACK * costs.step.per_image * own_batch(spec, shape)
    evaluation = between + SLACK * costs.evaluation.per_image * min(EVALUATION_BATCH, shape.test_samples)
    saving = between + (costs.state if device.type == "cpu" else 0)
    process = _base(device) + data_memory(spec, shape) + max(step, evaluation, saving)
    return process * (spec.gpus if device.type == "cpu" else 1)


def features_memory(
    run: NetworkRun, measure: MeasureSpec, costs: Costs, shape: NominalShape, device: torch.device
) -> float:
    """Peak bytes of the forward passes that measure a network: what they hold of the features included."""
    layers = measured_layers(run.layers, costs.widths)
    widths = {layer: _width(costs, layer, measure) for layer in layers}
    kept = {layer for layer in layers if matches_any(layer, measure.keep.layers)}
    held = within_budget({layer: 4 * shape.train_samples * width for layer, width in widths.items()}, kept)
    epochs = {"last": 1, "all": run.most_times}.get(str(measure.keep.epochs), len(measure.keep.epochs))
    features = 4 * shape.train_samples * sum(widths[layer] for layer in held)
    features += 4 * (shape.train_samples + shape.test_samples) * sum(widths[layer] for layer in kept) * epochs
    weights = 3 * costs.weights  # the network's, a checkpoint's, and those of the one before until it is read
    one_pass = SLACK * costs.layers.per_image * min(EVALUATION_BATCH, shape.train_samples)
    return _base(device) + data_memory(run.spec, shape) + weights + one_pass + features


def data_memory(spec: NetworkSpec, shape: NominalShape) -> float:
    """Bytes of the images held, both splits; a streamed set holds some batches only."""
    image = shape.channels * shape.side**2
    if spec.dataset.stream:
        return STREAMED_BATCHES * 4 * image * max(own_batch(spec, shape), EVALUATION_BATCH)
    return image * (shape.train_samples + shape.test_samples)


STREAMED_BATCHES = 4
"""Batches that the workers of a streamed set have ready, about."""


def available_memory(device: torch.device) -> float:
    """Bytes of the GPU, or of this machine's memory as far as the control groups let us have it."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *group_limits())


def group_limits(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> list[float]:
    """Limits of the control groups that this process is in, of both versions; infinity where there is none."""
    limits = [float("inf")]
    with suppress(OSError):
        for line in membership.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            place = root if not controllers else root / "memory"
            if controllers and "memory" not in controllers.split(","):
                continue
            group = place / path.lstrip("/")
            for folder in (group, *group.parents):
                for name in ("memory.max", "memory.limit_in_bytes"):
                    with suppress(OSError, ValueError):  # 'max' is no limit
                        limits.append(int((folder / name).read_text()))
                if folder == place:
                    break
    return limits


def _base(device: torch.device) -> int:
    return PROCESS if device.type == "cpu" else CONTEXT


def _width(costs: Costs, layer: str, measure: MeasureSpec) -> int:
    averaged, flattened = costs.widths[layer]
    return flattened if measure.pool == "flatten" or matches_any(layer, measure.flatten) else averaged
