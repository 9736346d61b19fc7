"""The forward passes that measure a trained network: every checkpoint, every layer, both splits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ncpipe.collapse import Moment, Trace, layer_statistics, save_traces
from ncpipe.data import Dataset
from ncpipe.errors import UserError
from ncpipe.files import read_json, read_tensors, write_tensors
from ncpipe.networks import Network, as_vectors
from ncpipe.progress import progress
from ncpipe.study.spec import MeasureSpec
from ncpipe.study.study import NetworkRun, matches_any
from ncpipe.training.batches import ImageBatches
from ncpipe.training.losses import mean_loss
from ncpipe.training.state import checkpoint_name
from ncpipe.training.train import EVALUATION_BATCH, new_network

MEMORY_BUDGET = 2 * 1024**3
"""Bytes of features held at once; layers that exceed it together take more than one forward pass."""


def extract_features(
    run: NetworkRun, measure: MeasureSpec, dataset: Dataset, folder: Path, device: torch.device
) -> None:
    """Measure the checkpoints of ``run`` in evaluation mode.

    Writes ``statistics.safetensors`` (see ``ncpipe.collapse.Trace``) and ``features.safetensors``, the raw
    features under ``<epoch>/<layer>/<split>`` with ``labels/<split>`` that ``measure.keep`` asks for.
    """
    final = int(read_json(folder / "spec.json")["final_epoch"])
    epochs = [e for e in run.epochs if (folder / "checkpoints" / checkpoint_name(e)).exists()]
    if not epochs:
        raise UserError(f"no checkpoint in {folder / 'checkpoints'}; delete {folder} and run again")
    extractor = Extractor(run, measure, dataset, device)
    kept: dict[str, Tensor] = {}
    with progress(f"features {run.id}", len(epochs)) as report:
        for done, epoch in enumerate(epochs, start=1):
            weights, _ = read_tensors(folder / "checkpoints" / checkpoint_name(epoch))
            extractor.network.load_state_dict(weights)
            keep = measure.keep.epochs == "all" or (
                epoch == final if measure.keep.epochs == "last" else epoch in measure.keep.epochs
            )
            kept |= extractor.measure_epoch(epoch, keep)
            report(done, f"epoch {epoch}")
    if kept:
        kept |= {f"labels/{split}": data.labels for split, data in extractor.data.items()}
    write_tensors(folder / "features.safetensors", kept)
    save_traces(folder / "statistics.safetensors", {run.id: extractor.trace})


class Extractor:
    """A network, its data and the trace of its statistics so far."""

    def __init__(self, run: NetworkRun, measure: MeasureSpec, dataset: Dataset, device: torch.device) -> None:
        self.run, self.spec, self.measure, self.num_classes = run, run.spec, measure, dataset.num_classes
        self.network: Network = new_network(run.spec, dataset).to(device).eval()
        splits = {"train": dataset.train, "test": dataset.test}
        self.data = {
            name: ImageBatches(split.images, split.labels, dataset.mean, dataset.std, device)
            for name, split in splits.items()  # train first: its means decide for test
            if name in measure.splits
        }
        self.trace = Trace(run.layers)

    @torch.no_grad()
    def measure_epoch(self, epoch: int, keep: bool) -> dict[str, Tensor]:
        """Add the statistics of the loaded weights to the trace; returns the raw features to keep."""
        head = self.network.head
        bias = None if head.bias is None else head.bias.detach().double()
        self.trace.heads[epoch] = (head.weight.detach().double(), bias)
        kept: dict[str, Tensor] = {}
        for split, data in self.data.items():
            for layers in self._groups_within_budget(data):
                features, loss = self._forward(data, layers)
                self.trace.losses[epoch, split] = loss
                for layer, values in features.items():
                    self._add(epoch, layer, split, values, data.labels)
                    if keep and matches_any(layer, self.measure.keep.layers):
                        kept[f"{epoch}/{layer}/{split}"] = values
        return kept

    def _add(self, epoch: int, layer: str, split: str, features: Tensor, labels: Tensor) -> None:
        weight, bias = self.trace.heads[epoch] if layer == self.run.layers[-1] else (None, None)
        train = self.trace.statistics.get(Moment(epoch, layer, "train"))
        self.trace.statistics[Moment(epoch, layer, split)] = layer_statistics(
            features,
            labels,
            self.num_classes,
            weight=weight,
            bias=bias,
            train_means=None if split == "train" or train is None else train.means,
        )

    def _forward(self, data: ImageBatches, layers: tuple[str, ...]) -> tuple[dict[str, Tensor], float]:
        """Feature vectors (N, d) of the layers, and the mean loss."""
        parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
        total = 0.0
        for images, labels in data.in_order(EVALUATION_BATCH):
            maps, logits = self.network.features(images)
            total += float(mean_loss(self.spec.loss, logits.double(), labels)) * len(labels)
            for layer in layers:
                parts[layer].append(as_vectors(maps[layer], self._pooling(layer)))
        return {layer: torch.cat(values) for layer, values in parts.items()}, total / len(data)

    def _pooling(self, layer: str) -> Literal["average", "flatten"]:
        return "flatten" if matches_any(layer, self.measure.flatten) else self.measure.pool

    def _groups_within_budget(self, data: ImageBatches) -> Iterator[tuple[str, ...]]:
        images, _ = next(data.in_order(2))
        maps, _ = self.network.features(images)
        group: list[str] = []
        used = 0
        for layer in self.run.layers:
            vectors = as_vectors(maps[layer], self._pooling(layer))
            size = len(data) * vectors.shape[1] * vectors.element_size()
            if group and used + size > MEMORY_BUDGET:
                yield tuple(group)
                group, used = [], 0
            group.append(layer)
            used += size
        yield tuple(group)
