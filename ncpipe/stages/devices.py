"""The devices of jobs that compute on networks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ncpipe.data import Dataset, load
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.gpus import claimed_gpus, is_assigned
from ncpipe.training.computation import Computation, choose_device, repays_compiling
from ncpipe.training.ranks import is_rank, local_device
from ncpipe.training.settings import ComputeSpec, NetworkRun, NetworkSpec
from ncpipe.training.trainer import new_network


@contextmanager
def feature_job(study: Study, run: NetworkRun, device_name: str) -> Iterator[tuple[Dataset, Computation]]:
    """The data and the way to compute of the forward passes that measure a network: always float32."""
    data, options = load(study.layout.dataset(run.dataset_id)), study.config.compute
    # A forward pass is a third of a step of training.
    images = run.most_times * (len(data.train.labels) + len(data.test.labels)) / 3
    with on_device(device_name, options) as device, memory_of(run):
        yield data, replace(computation_of(run.spec, data, images, device, options), precision="float32")


@contextmanager
def on_device(name: str, options: ComputeSpec) -> Iterator[torch.device]:
    """The device of the job: a GPU of which it holds a slot, or what ``name`` says."""
    if is_rank():
        yield local_device(choose_device(name))
        return
    if name != "auto":
        yield choose_device(name)
        return
    with claimed_gpus(1, options.jobs_per_gpu) as claimed:
        device = torch.device("cuda", claimed[0]) if claimed else choose_device()
        if device.type == "cpu":
            why = "none assigned" if is_assigned() else "none found"
            print(f"no GPU ({why}): computing on the CPU", flush=True)
        yield device


def computation_of(
    spec: NetworkSpec, data: Dataset, images: float, device: torch.device, options: ComputeSpec
) -> Computation:
    """How to train on so many images."""
    if options.compile == "auto":
        worth = device.type == "cuda" and repays_compiling(
            new_network(spec, data), data.image_shape, images, spec.batch_size
        )
        options = options.model_copy(update={"compile": worth})
    return Computation.choose(spec, device, options)


@contextmanager
def memory_of(run: NetworkRun) -> Iterator[None]:
    """Say in one line that the device has too little memory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{run.id} needs more memory than the GPU has ({str(error).split('. ')[0]}): lower batch_size or width,"
            " or raise gpus"
        ) from None
