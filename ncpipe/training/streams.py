"""Batches of images that stay on disk: read and cropped by worker processes, ahead of the steps that use them."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ncpipe.data import Dataset
from ncpipe.data.storage import StoredImages
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision
from ncpipe.training.batches import Batches
from ncpipe.training.settings import AugmentSpec

MOST_WORKERS = 8
GRACE = 30
"""Seconds that a worker outlives a signal to end, in which the run is saved."""


class StreamedBatches(Batches):
    """Images read from disk: what ``ImageBatches`` yields, to the bit, for one member at a time.

    One epoch is read at a time: a new iteration ends the one before.

    Args:
        dataset: a data set whose images are stored.
        split: 'train' or 'test'.
        device: where the batches are wanted.
        workers: processes that read; None: up to 8 for a GPU, and none for the CPU, where a job has its own cores
            only and the network is the slower part.
    """

    def __init__(
        self, dataset: Dataset, split: Literal["train", "test"], device: torch.device, workers: int | None = None
    ) -> None:
        super().__init__(dataset, split, device)
        images = dataset.split(split).images
        assert isinstance(images, StoredImages)
        self.parts: list[Part] = []
        loaders = [_loader(images, self.parts, device, _default_workers(device) if workers is None else workers)]
        self.loaders = loaders
        # The workers end before multiprocessing would wait for them at the end of the interpreter.
        weakref.finalize(self, loaders.clear)
        self.copying = torch.cuda.Stream(device) if device.type == "cuda" else None

    def in_order(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        rows = torch.arange(len(self)).split(batch_size)
        images = self._read([Part(part.numpy()) for part in rows])
        for batch, labels in zip(images, self.labels.split(batch_size), strict=True):
            yield self.finished(batch), labels

    def gathered(self, here: list[Tensor], there: list[Tensor], augment: AugmentSpec) -> Iterator[Tensor]:
        if any(len(part) != 1 for part in here):
            raise UserError("networks on streamed data train one by one: set compute.ensemble to 1")
        crop = augment.resized_crop
        parts = [part[0].numpy() for part in here]
        return self._read([Part(part[0], crop, None if crop is None else part[-1]) for part in parts])

    def _read(self, parts: list[Part]) -> Iterator[Tensor]:
        """The uint8 images (n, C, H, W) of every part, on the device.

        They are copied on a stream of their own, from pinned memory: while the GPU computes a step, the host has
        gone on to the next batch, and the copy does not wait for the step to end.
        """
        self.parts[:] = parts
        for images in self.loaders[0]:
            if self.copying is None:
                yield images.to(self.device)
                continue
            with torch.cuda.stream(self.copying):
                copied = images.to(self.device, non_blocking=True)
            computing = torch.cuda.current_stream(self.device)
            computing.wait_stream(self.copying)
            copied.record_stream(computing)
            yield copied


class Part(NamedTuple):
    """The samples of one batch; with ``crop`` each is cropped at random by its own seed."""

    rows: np.ndarray
    crop: float | None = None
    seeds: np.ndarray | None = None


class Reader(TorchDataset[Tensor]):
    """What a worker does: read the images of a part, and crop them."""

    def __init__(self, images: StoredImages) -> None:
        self.images = images

    def __getitem__(self, part: Part) -> Tensor:
        images = self.images[part.rows]
        if part.crop is None or part.seeds is None:
            return images
        import_torchvision()
        transforms = importlib.import_module("torchvision.transforms.v2")
        crop = transforms.RandomResizedCrop(tuple(images.shape[2:]), scale=(part.crop, 1.0), antialias=True)
        with torch.random.fork_rng(devices=[]):
            for image, seed in zip(images, part.seeds.tolist(), strict=True):
                torch.default_generator.manual_seed(seed)
                image.copy_(crop(image))
        return images


def _loader(images: StoredImages, parts: list[Part], device: torch.device, workers: int) -> DataLoader[Any]:
    """A loader of the ``parts`` that are in the list when it is iterated.

    Workers are forked from a server that runs nothing else, so that they inherit no lock of another thread.
    """
    settings: dict[str, Any] = {}
    if workers:
        multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
        settings = {
            "multiprocessing_context": "forkserver",
            "persistent_workers": True,
            "worker_init_fn": _live_with_the_run,
        }
    return DataLoader(
        Reader(images),
        sampler=parts,  # a part is an index of the reader
        batch_size=None,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # or it would draw from the one that dropout draws from
        **settings,
    )


def _live_with_the_run(_: int) -> None:
    """Start of a worker: it ends when this run's process ends, and not before.

    Schedulers signal all processes of a job, of which only the one that saves the run is to act at once.
    """
    for ignored in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(ignored, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(GRACE))
    # torch's own watch is of the fork server, which in turn lives as long as its workers.
    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_with(run: BaseProcess) -> None:
    run.join()
    os._exit(0)


def _default_workers(device: torch.device) -> int:
    if device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun's, where several GPUs share the cores
    return max(0, min(MOST_WORKERS, cores // processes - 1))
