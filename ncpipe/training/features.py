"""The forward passes that measure a trained network: every checkpoint, every layer, both splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ncpipe.collapse import (
    ClassMoments,
    LayerStatistics,
    Moment,
    SecondPass,
    Trace,
    class_means,
    class_moments,
    least_squares_split,
    save_traces,
)
from ncpipe.data import Dataset
from ncpipe.errors import UserError
from ncpipe.files import read_json, read_tensors, write_tensors
from ncpipe.networks import Network, as_vectors
from ncpipe.progress import progress
from ncpipe.study.spec import MeasureSpec
from ncpipe.study.study import NetworkRun, matches_any
from ncpipe.training.batches import ImageBatches
from ncpipe.training.losses import (
    classifier_decay,
    classifier_stationarity,
    loss_slopes,
    mean_loss,
    squared_error_penalties,
)
from ncpipe.training.state import checkpoint_name
from ncpipe.training.train import EVALUATION_BATCH, new_network

MEMORY_BUDGET = 2 * 1024**3
"""Bytes of features held at once; the layers that exceed it take a second forward pass instead."""


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
        self.penalties = squared_error_penalties(run.spec, dataset.num_classes)
        self.decay = classifier_decay(run.spec)
        self.trace = Trace(run.layers)

    @torch.no_grad()
    def measure_epoch(self, epoch: int, keep: bool) -> dict[str, Tensor]:
        """Add the statistics of the loaded weights to the trace; returns the raw features to keep.

        One forward pass per split. Layers that would exceed ``MEMORY_BUDGET`` are not held: the first pass finds
        their class means, a second one the rest.
        """
        head = self.network.head
        bias = None if head.bias is None else head.bias.detach().double()
        self.trace.heads[epoch] = (head.weight.detach().double(), bias)
        kept: dict[str, Tensor] = {}
        for split, data in self.data.items():
            wanted = {layer for layer in self.run.layers if keep and matches_any(layer, self.measure.keep.layers)}
            first = self._first_pass(data, wanted, with_gradient=self._is_penalised(split))
            for layer, found in self._second_pass(epoch, split, data, first).items():
                self._add(epoch, layer, split, found)
            self.trace.scalars[epoch, split]["loss"] = first.loss
            if self._is_penalised(split) and (residual := self._residual(epoch, first)) is not None:
                self.trace.scalars[epoch, split]["classifier_stationarity"] = residual
            kept |= {f"{epoch}/{layer}/{split}": first.held[layer] for layer in wanted}
        return kept

    def _first_pass(self, data: ImageBatches, wanted: set[str], *, with_gradient: bool) -> FirstPass:
        """Feature vectors (N, d) of the layers that fit, class moments of the others, and the mean loss; with
        ``with_gradient`` also its gradient in the classifier's weight."""
        gradient = torch.zeros_like(self.network.head.weight, dtype=torch.float64)
        held: dict[str, Tensor] = {}
        moments: dict[str, ClassMoments] = {}
        total, start = torch.zeros((), dtype=torch.float64, device=data.labels.device), 0
        for images, labels in data.in_order(EVALUATION_BATCH):
            vectors, logits = self._vectors(images)
            if start == 0:
                fit = within_budget({layer: len(data) * row_bytes(v) for layer, v in vectors.items()}, wanted)
                held = {layer: vectors[layer].new_empty(len(data), vectors[layer].shape[1]) for layer in fit}
            for layer, values in vectors.items():
                if layer in held:
                    held[layer][start : start + len(labels)] = values
                else:
                    seen = class_moments(values, labels, self.num_classes)
                    moments[layer] = moments[layer] + seen if layer in moments else seen
            total += mean_loss(self.spec.loss, logits.double(), labels) * len(labels)
            if with_gradient:
                slopes = loss_slopes(self.spec.loss, logits.double(), labels)
                gradient.addmm_(slopes.T, vectors[self.run.layers[-1]].double())
            start += len(labels)
        return FirstPass(held, moments, float(total) / len(data), gradient / len(data))

    def _is_penalised(self, split: str) -> bool:
        """Whether training minimises the mean loss of the split plus a penalty of the classifier's weight."""
        return split == "train" and self.decay is not None

    def _residual(self, epoch: int, first: FirstPass) -> float | None:
        assert self.decay is not None
        return classifier_stationarity(first.gradient, self.trace.heads[epoch][0], self.decay)

    def _second_pass(
        self, epoch: int, split: str, data: ImageBatches, first: FirstPass
    ) -> dict[str, LayerStatistics]:
        """Statistics of all layers; forward passes only where features are not held."""
        found: dict[str, LayerStatistics] = {}
        for layer, features in first.held.items():
            counts, means = class_means(features, data.labels, self.num_classes)
            found[layer] = self._about(epoch, layer, split, counts, means)(features, data.labels)
        if first.moments:
            passes = {n: self._about(epoch, n, split, m.counts, m.means) for n, m in first.moments.items()}
            for images, labels in data.in_order(EVALUATION_BATCH):
                vectors, _ = self._vectors(images)
                for layer, about in passes.items():
                    seen = about(vectors[layer], labels)
                    found[layer] = found[layer] + seen if layer in found else seen
        return found

    def _about(self, epoch: int, layer: str, split: str, counts: Tensor, means: Tensor) -> SecondPass:
        weight, bias = self.trace.heads[epoch] if layer == self.run.layers[-1] else (None, None)
        return SecondPass(
            counts,
            means,
            weight=weight,
            bias=bias,
            train_means=None if split == "train" else self.trace.statistics[Moment(epoch, layer, "train")].means,
            products=self._splits_loss(layer, split),
        )

    def _add(self, epoch: int, layer: str, split: str, found: LayerStatistics) -> None:
        """Statistics to the trace; of the within-class products, which are d x d, only what the loss' split makes."""
        scalars = self.trace.scalars.setdefault((epoch, split), {})
        if self._splits_loss(layer, split) and self.penalties is not None and torch.isfinite(found.means).all():
            ridge, bias_decay = self.penalties
            weight, bias = self.trace.heads[epoch]
            scalars |= least_squares_split(found, weight, bias, ridge=ridge, bias_decay=bias_decay).values()
        self.trace.statistics[Moment(epoch, layer, split)] = replace(found, within_products=None)

    def _splits_loss(self, layer: str, split: str) -> bool:
        return self.penalties is not None and split == "train" and layer == self.run.layers[-1]

    def _vectors(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Feature vectors of all layers, and logits."""
        maps, logits = self.network.features(images)
        return {layer: as_vectors(maps[layer], self._pooling(layer)) for layer in self.run.layers}, logits

    def _pooling(self, layer: str) -> Literal["average", "flatten"]:
        return "flatten" if matches_any(layer, self.measure.flatten) else self.measure.pool


@dataclass(frozen=True)
class FirstPass:
    """What one forward pass over a split leaves."""

    held: dict[str, Tensor]
    """Feature vectors (N, d) by layer."""
    moments: dict[str, ClassMoments]
    """Class moments of the layers that are not held."""
    loss: float
    """Mean loss."""
    gradient: Tensor
    """Of the mean loss in the classifier's weight, (K, d) float64; zero where it was not asked for."""


def row_bytes(vectors: Tensor) -> int:
    return vectors.shape[1] * vectors.element_size()


def within_budget(sizes: dict[str, int], wanted: set[str]) -> set[str]:
    """Layers to hold: those whose features are ``wanted`` whole, and of the others the smallest that fit."""
    held, used = set(wanted), sum(sizes[layer] for layer in wanted)
    for layer in sorted(sizes.keys() - wanted, key=lambda layer: (sizes[layer], layer)):
        used += sizes[layer]
        if used > MEMORY_BUDGET:
            break
        held.add(layer)
    return held
