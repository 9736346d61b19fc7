"""Training of one network: from settings to history, checkpoints and final weights, resumable at any moment."""

from __future__ import annotations

import math
import re
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from ncpipe.data import Dataset
from ncpipe.errors import UserError
from ncpipe.files import write_json, write_tensors
from ncpipe.networks import Network, build_network
from ncpipe.progress import progress as progress_bar
from ncpipe.study.identity import STAGE_VERSIONS, digest
from ncpipe.study.spec import NetworkSpec
from ncpipe.study.study import NetworkRun
from ncpipe.tables.records import write_history, write_timings
from ncpipe.training.batches import ImageBatches
from ncpipe.training.losses import mean_loss
from ncpipe.training.optimization import build_optimizer, learning_rate
from ncpipe.training.state import Progress, StateFolder

SAVE_INTERVAL = 20.0
"""Seconds of training that a kill can cost at most, beyond the epoch it falls in."""
EVALUATION_BATCH = 512


def train(run: NetworkRun, dataset: Dataset, folder: Path, device: torch.device) -> None:
    """Train the network of ``run`` and write its records to ``folder``.

    Writes ``spec.json``, ``history.parquet``, ``timings.parquet``, ``model.safetensors`` and
    ``checkpoints/epoch*.safetensors`` at the measured epochs. A run whose loss stops being finite is a
    result with status ``diverged``. Killed at any moment, the next call goes on where the last state was
    saved; on a CPU with the same number of threads the result is the same bit for bit.
    """
    torch.set_flush_denormal(True)
    trainer = Trainer(run, dataset, folder, device)
    trainer.fit()
    trainer.publish()


class Trainer:
    """One network in training: its weights, optimiser, data and records."""

    def __init__(self, run: NetworkRun, dataset: Dataset, folder: Path, device: torch.device) -> None:
        self.run, self.spec, self.folder, self.device = run, run.spec, folder, device
        self.train_data, self.test_data = (
            ImageBatches(split.images, split.labels, dataset.mean, dataset.std, device)
            for split in (dataset.train, dataset.test)
        )
        self.network = new_network(run.spec, dataset).to(device)
        self.optimizer = build_optimizer(run.spec.optimizer, self.network)
        self.state = StateFolder(folder, digest([run.spec, run.epochs, STAGE_VERSIONS["train"]]))
        self.progress = self.state.load(self.network, self.optimizer)

    def fit(self) -> None:
        """Train to the last epoch, or until the loss is no longer finite."""
        last_save = time.monotonic()
        if self.progress.epoch == 0:
            self.checkpoint(0)
        with progress_bar(self.run.id, self.spec.epochs, self.progress.epoch) as report:
            while self.progress.epoch < self.spec.epochs and not self.progress.diverged:
                record = self.epoch(self.progress.epoch + 1)
                report(self.progress.epoch, _summary(record))
                measured = self.progress.epoch in self.run.epochs
                if measured and not self.progress.diverged:
                    self.checkpoint(self.progress.epoch)
                if measured or self.progress.diverged or time.monotonic() - last_save > SAVE_INTERVAL:
                    self.state.save(self.network, self.optimizer, self.progress)
                    last_save = time.monotonic()

    def epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training data and one evaluation of the test data."""
        start = time.perf_counter()
        rate = learning_rate(self.spec.optimizer.lr, self.spec.schedule, epoch, self.spec.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        train_loss, train_accuracy = self._pass_over_training_data(epoch)
        seconds = time.perf_counter() - start
        test_loss, test_accuracy = evaluate(self.network, self.test_data, self.spec)
        record = {
            "train_loss": train_loss,
            "train_accuracy": train_accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "learning_rate": rate,
        }
        self.progress.epoch = epoch
        self.progress.history.append({"time": epoch, **record})
        self.progress.timings.append(
            {
                "time": epoch,
                "seconds": time.perf_counter() - start,
                "images_per_second": len(self.train_data) / seconds,
                "finished_at": time.time(),
            }
        )
        self.progress.diverged = not (math.isfinite(train_loss) and _is_finite(self.network))
        return record

    def _pass_over_training_data(self, epoch: int) -> tuple[float, float]:
        self.network.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        batches = self.train_data.shuffled(self.spec.batch_size, self.spec.augment, self.spec.seed, epoch)
        for images, labels in batches:
            logits = self.network(images)
            loss = mean_loss(self.spec.loss, logits, labels)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            total += loss.detach() * len(labels)
            correct += (logits.detach().argmax(dim=1) == labels).sum()
        return float(total) / len(self.train_data), float(correct) / len(self.train_data)

    def checkpoint(self, epoch: int) -> None:
        write_tensors(self.state.checkpoint(epoch), self.network.state_dict(), {"epoch": str(epoch)})

    def publish(self) -> None:
        """Write the declared outputs from the state, then remove the state."""
        self.state.publish_checkpoints(self.folder / "checkpoints")
        write_tensors(self.folder / "model.safetensors", self.network.state_dict())
        write_history(self.folder / "history.parquet", "net", {self.run.id: self.progress.history})
        write_timings(self.folder / "timings.parquet", "train", {self.run.id: self.progress.timings})
        write_json(
            self.folder / "spec.json",
            {
                "id": self.run.id,
                "settings": self.spec.model_dump(mode="json"),
                "status": "diverged" if self.progress.diverged else "done",
                "final_epoch": self.progress.epoch,
                "parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
                "device": device_kind(self.device),
                "code_version": STAGE_VERSIONS["train"],
            },
        )
        self.state.remove()


def new_network(spec: NetworkSpec, dataset: Dataset) -> Network:
    """The untrained network of ``spec`` for the images of ``dataset``."""
    return build_network(spec.model, spec.head, dataset.image_shape, dataset.num_classes, spec.seed)


@torch.no_grad()
def evaluate(network: nn.Module, data: ImageBatches, spec: NetworkSpec) -> tuple[float, float]:
    """Mean loss without penalties and accuracy in evaluation mode."""
    network.eval()
    total = torch.zeros((), dtype=torch.float64, device=data.images.device)
    correct = torch.zeros((), dtype=torch.int64, device=data.images.device)
    for images, labels in data.in_order(EVALUATION_BATCH):
        logits = network(images)
        total += mean_loss(spec.loss, logits, labels) * len(labels)
        correct += (logits.argmax(dim=1) == labels).sum()
    return float(total) / len(data), float(correct) / len(data)


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: the first GPU where there is one, else the CPU. ``UserError`` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name!r}: torch sees {torch.cuda.device_count()} GPUs")
    return device


def device_kind(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _is_finite(network: nn.Module) -> bool:
    values: list[Tensor] = list(network.state_dict().values())
    return all(bool(torch.isfinite(value).all()) for value in values)


def _summary(record: dict[str, float]) -> str:
    return (
        f"loss {record['train_loss']:.2e} accuracy {record['train_accuracy']:.4f}"
        f" test {record['test_accuracy']:.4f} lr {record['learning_rate']:.1e}"
    )


__all__ = ["Progress", "Trainer", "choose_device", "device_kind", "evaluate", "new_network", "train"]
