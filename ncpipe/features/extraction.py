"""The forward passes that measure a trained network: every checkpoint, every layer, both splits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

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
    penalised_loss,
    product_metrics,
    tag_sets_1nn,
    tagwise_metrics,
)
from ncpipe.data import Dataset
from ncpipe.features.robustness import probe_images, relative_distances
from ncpipe.networks import as_vectors
from ncpipe.records.traces import save_traces
from ncpipe.settings.base import matches_any
from ncpipe.study.config import MeasureSpec
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, read_tensors, write_tensors
from ncpipe.system.progress import progress
from ncpipe.system.provenance import in_json, origin
from ncpipe.system.stopwatch import work
from ncpipe.training.computation import Computation, compiled_if_possible
from ncpipe.training.full_batch import FullBatch
from ncpipe.training.losses import (
    classifier_decay,
    classifier_stationarity,
    loss_slopes,
    mean_loss,
    squared_error_penalties,
)
from ncpipe.training.predicted import predicted_optimum
from ncpipe.training.settings import AugmentSpec, NetworkRun, measured_layers
from ncpipe.training.state import checkpoint_name, with_zero_error
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import EVALUATION_BATCH, new_network

MEMORY_BUDGET = 2 * 1024**3
"""Bytes of features held at once; the layers that exceed it take a second forward pass instead."""


def extract_features(
    run: NetworkRun, measure: MeasureSpec, dataset: Dataset, folder: Path, computation: Computation
) -> None:
    """Measure the checkpoints of ``run``, in float32: in evaluation mode but for the split 'train_mode'.

    Writes ``statistics.safetensors`` (see ``ncpipe.collapse.Trace``) and ``features.safetensors``, the raw
    features under ``<epoch>/<layer>/<split>`` with ``labels/<split>`` that ``measure.keep`` asks for.
    """
    record = read_json(folder / "spec.json")
    final = int(record["final_epoch"])
    measured = with_zero_error(run.epochs, record.get("zero_error_epoch"))
    epochs = [epoch for epoch in measured if epoch < final] + [final] * (record["status"] == "done")
    for epoch in epochs:
        if not (folder / "checkpoints" / checkpoint_name(epoch)).exists():
            raise UserError(f"no {checkpoint_name(epoch)} in {folder / 'checkpoints'}; delete {folder} and run again")
    extractor = Extractor(run, measure, dataset, computation)
    kept: dict[str, Tensor] = {}
    with progress(f"features {run.id}", len(epochs)) as report, work():
        for done, epoch in enumerate(epochs, start=1):
            weights = _weights(folder / "checkpoints", epoch)
            extractor.network.load_state_dict(weights)
            keep = measure.keep.epochs == "all" or (
                epoch == final if measure.keep.epochs == "last" else epoch in measure.keep.epochs
            )
            kept |= extractor.measure_epoch(epoch, keep)
            report(done, f"epoch {epoch}")
        if kept:
            kept |= {f"labels/{split}": labels for split, labels in extractor.labels.items()}
        made_by = in_json(origin(computation.device))
        write_tensors(folder / "features.safetensors", kept)
        save_traces(folder / "statistics.safetensors", {run.id: extractor.trace}, {"provenance": made_by})


def _weights(folder: Path, epoch: int) -> dict[str, Tensor]:
    try:
        return read_tensors(folder / checkpoint_name(epoch))[0]
    except UserError as error:  # Snakemake knows of the folder alone
        raise UserError(str(error).replace("delete it", f"delete {folder}")) from None


class Extractor:
    """A network, its data and the trace of its statistics so far."""

    def __init__(self, run: NetworkRun, measure: MeasureSpec, dataset: Dataset, computation: Computation) -> None:
        self.run, self.spec, self.measure, self.num_classes = run, run.spec, measure, dataset.num_classes
        self.network = computation.place(new_network(run.spec, dataset))
        self.layers_and_logits = (
            compiled_if_possible(self.network.features)
            if computation.compiled and not self.network.is_tapped
            else self.network.features
        )
        self.layers = measured_layers(run.layers, self.network.layer_names)
        # train first: its means decide for test; the others last, since they move the running statistics
        order = ("train", "test", "full_batch", "train_mode")
        self.splits: list[str] = [split for split in order if split in measure.splits]
        self.data = {
            split: open_batches(dataset, "test" if split == "test" else "train", computation.device)
            for split in self.splits
        }
        self.penalties = squared_error_penalties(run.spec, dataset.num_classes)
        self.decay = classifier_decay(run.spec)
        self.full = (
            FullBatch(new_network(run.spec, dataset), run.spec, self.data["train"], computation.device)
            if "full_batch" in self.splits
            else None
        )
        several = run.spec.dataset.multi_label
        self.optimum = (
            None if several else predicted_optimum(run.spec, dataset.split("train").labels.bincount().tolist())
        )
        self.trace = Trace(self.layers)
        self.labels: dict[str, Tensor] = {}
        """(N,) by split, in the order in which it is measured."""
        self.tagged: tuple[Tensor, Tensor] | None = None
        """For data of several labels: last features (N, d) of the training split, and its tags (N, K)."""

    @torch.no_grad()
    def measure_epoch(self, epoch: int, keep: bool) -> dict[str, Tensor]:
        """Add the statistics of the loaded weights to the trace; returns the raw features to keep.

        One forward pass per split. Layers that would exceed ``MEMORY_BUDGET`` are not held: the first pass finds
        their class means, a second one the rest.
        """
        if self.full is not None:
            self.full.network.load_state_dict(self.network.state_dict())
        weight, bias = self.network.head.effective()
        self.trace.heads[epoch] = (weight.detach().double(), None if bias is None else bias.detach().double())
        kept: dict[str, Tensor] = {}
        for split in self.splits:
            distances = self._distances(split)  # of the full batch: its statistics are the network's from here on
            wanted = {layer for layer in self.layers if keep and matches_any(layer, self.measure.keep.layers)}
            first = self._first_pass(epoch, split, wanted | self._of_tags())
            for layer, found in self._second_pass(epoch, split, first).items():
                self._add(epoch, layer, split, found)
            self.labels[split] = first.labels
            self.trace.scalars[epoch, split] |= self._scalars(epoch, split, first) | distances
            kept |= {f"{epoch}/{layer}/{split}": first.held[layer] for layer in wanted}
        self._add_weights(epoch)
        return kept

    def _distances(self, split: str) -> dict[str, float]:
        """How far the weights are from a minimum of what training minimises, in evaluation mode for 'train' and with
        BatchNorm's statistics of all images for 'full_batch': objective, its gap to the optimum that is known,
        relative norm of the gradient. The network has these statistics from then on."""
        if self.full is None or split not in ("train", "full_batch"):
            return {}
        with torch.enable_grad():
            found = self.full.evaluate("evaluation" if split == "train" else "full_batch")
        if split == "full_batch":
            self.full.set_statistics(found.statistics)
            self.network.load_state_dict(self.full.network.state_dict())
        scalars = {"objective": found.value, "stationarity": self.full.relative_gradient(found.gradient)}
        if self.optimum:
            scalars["objective_gap"] = found.value / self.optimum - 1
        return {name: value for name, value in scalars.items() if math.isfinite(value)}

    def _batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels; of 'train_mode' in batches as in training, mixed and not augmented, always the same."""
        if split != "train_mode":
            self.network.eval()
            yield from self.data[split].in_order(EVALUATION_BATCH)
            return
        self.network.train()
        for images, labels in self.data[split].shuffled(self.spec.batch_size, AugmentSpec(), [self.spec.seed], 0):
            yield images[0], labels[0]

    def _first_pass(self, epoch: int, split: str, wanted: set[str]) -> FirstPass:
        """Feature vectors (N, d) of the layers that fit, class moments of the others, labels, and the mean loss;
        where training penalises the classifier also the loss' gradient in its weight; where the loss is split, its
        squared error."""
        data, gradient = self.data[split], torch.zeros_like(self.network.head.weight, dtype=torch.float64)
        last = self.layers[-1]
        held: dict[str, Tensor] = {}
        moments: dict[str, ClassMoments] = {}
        seen: list[Tensor] = []
        total, start = torch.zeros((), dtype=torch.float64, device=gradient.device), 0
        squares = torch.zeros_like(total)
        for images, labels in self._batches(split):
            vectors, logits = self._vectors(images)
            if start == 0:
                fit = within_budget({layer: len(data) * row_bytes(v) for layer, v in vectors.items()}, wanted)
                held = {layer: vectors[layer].new_empty(len(data), vectors[layer].shape[1]) for layer in fit}
            for layer, values in vectors.items():
                if layer in held:
                    held[layer][start : start + len(labels)] = values
                else:
                    found = class_moments(*self._classified(values, labels), self.num_classes)
                    moments[layer] = moments[layer] + found if layer in moments else found
            targets = data.targets(labels)
            total += mean_loss(self.spec.loss, logits.double(), targets) * len(labels)
            if self._is_penalised(split):
                slopes = loss_slopes(self.spec.loss, logits.double(), targets)
                gradient.addmm_(slopes.T, vectors[last].double())
            if self._splits_loss(last, split):
                squares += self._squared_error(epoch, vectors[last], labels)
            seen.append(labels)
            start += len(labels)
        loss, squared_error = float(total) / len(data), float(squares) / len(data)
        return FirstPass(held, moments, torch.cat(seen), loss, gradient / len(data), squared_error)

    def _squared_error(self, epoch: int, features: Tensor, labels: Tensor) -> Tensor:
        """Sum of 1/2 |W h + b - e_y|^2, in float64 from the features: float32 logits would not match the split."""
        weight, bias = self.trace.heads[epoch]
        off = torch.nn.functional.linear(features.double(), weight, bias)
        off[torch.arange(len(off), device=off.device), labels] -= 1
        return off.square().sum() / 2

    def _classified(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The samples that have one class: all, but for data of several labels."""
        if not self.spec.dataset.multi_label:
            return features, labels
        single = labels < self.num_classes
        return features[single], labels[single]

    def _of_tags(self) -> set[str]:
        """Layers whose features of several classes are measured: the last, of data of several labels."""
        return set() if not self.spec.dataset.multi_label else {self.layers[-1]}

    def _is_penalised(self, split: str) -> bool:
        """Whether training minimises the mean loss of the split plus a penalty of the classifier's weight."""
        return split in ("train", "full_batch") and self.decay is not None

    def _scalars(self, epoch: int, split: str, first: FirstPass) -> dict[str, float]:
        """What takes more than statistics: the loss and, where they apply, its penalised form, stationarity of the
        classifier, averages and neighbours of tags, robustness."""
        scalars = {"loss": first.loss}
        if self._is_penalised(split):
            assert self.decay is not None
            residual = classifier_stationarity(first.gradient, self.trace.heads[epoch][0], self.decay)
            scalars |= {} if residual is None else {"classifier_stationarity": residual}
        if self.penalties is not None and split == "train" and math.isfinite(first.squared_error):
            (ridge, bias_decay), (weight, bias) = self.penalties, self.trace.heads[epoch]
            whole = penalised_loss(first.squared_error, weight, bias, ridge=ridge, bias_decay=bias_decay)
            scalars["loss_penalised"] = whole
        for layer in self._of_tags():
            scalars |= self._tag_scalars(split, first.held[layer], first.labels)
        if split == "test" and self.measure.robustness:
            scalars["robustness"] = self._robustness(epoch)
        return scalars

    def _tag_scalars(self, split: str, features: Tensor, labels: Tensor) -> dict[str, float]:
        """Tag-wise averages, and of the test split the sets of tags read off the nearest training feature."""
        tags = self.data[split].targets(labels)
        if split == "train":
            self.tagged = features, tags
        if not features.isfinite().all():
            return {}
        _, means = class_means(*self._classified(features, labels), self.num_classes)
        found = tagwise_metrics(features.double() - means.mean(dim=0), tags)
        scalars = {name: found[name] for name in ("tagwise_angle", "tagwise_scale")}
        scalars["tagwise_ratio"] = tagwise_metrics(features, tags)["tagwise_ratio"]  # published of uncentred means
        if split == "test" and self.tagged is not None and self.tagged[0].isfinite().all():
            scalars["tag_sets_1nn"] = tag_sets_1nn(features, tags, *self.tagged)
        return scalars

    @cached_property
    def _probes(self) -> tuple[Tensor, Tensor]:
        return probe_images(self.data["test"], self.measure.robustness, EVALUATION_BATCH)

    def _robustness(self, epoch: int) -> float:
        """Mean over the probe images of DeepFool's relative distance to the decision boundary; the network is in
        evaluation mode, as the test split was measured."""
        # never compiled: the images still moving are ever fewer
        value = float(relative_distances(lambda x: self.network.forward(x).logits, *self._probes).mean())
        if math.isnan(value):
            why = "the logits do not depend on the image, or are not finite"
            self.trace.reasons.setdefault((epoch, "test"), {})["robustness"] = why
        return value

    def _add_weights(self, epoch: int) -> None:
        """Weights between measured layers to the trace, where they read what is measured: no flattened maps."""
        for layer, weight in self.network.reading_weights().items():
            if layer in self.layers:
                means = self.trace.statistics[Moment(epoch, layer)].means
                if weight.shape[1] == means.shape[1]:
                    self.trace.weights[epoch, layer] = weight.cpu()

    def _second_pass(self, epoch: int, split: str, first: FirstPass) -> dict[str, LayerStatistics]:
        """Statistics of all layers; forward passes only where features are not held."""
        found: dict[str, LayerStatistics] = {}
        for layer, held in first.held.items():
            features, labels = self._classified(held, first.labels)
            counts, means = class_means(features, labels, self.num_classes)
            found[layer] = self._about(epoch, layer, split, counts, means)(features, labels)
        if first.moments:
            passes = {n: self._about(epoch, n, split, m.counts, m.means) for n, m in first.moments.items()}
            for images, labels in self._batches(split):
                vectors, _ = self._vectors(images)
                for layer, about in passes.items():
                    seen = about(*self._classified(vectors[layer], labels))
                    found[layer] = found[layer] + seen if layer in found else seen
        return found

    def _about(self, epoch: int, layer: str, split: str, counts: Tensor, means: Tensor) -> SecondPass:
        weight, bias = self.trace.heads[epoch] if layer == self.layers[-1] else (None, None)
        return SecondPass(
            counts,
            means,
            weight=weight,
            bias=bias,
            train_means=None if split != "test" else self.trace.statistics[Moment(epoch, layer, "train")].means,
            products=self._splits_loss(layer, split),
        )

    def _add(self, epoch: int, layer: str, split: str, found: LayerStatistics) -> None:
        """Statistics to the trace; of the within-class products, which are d x d, only the loss' split and what
        needs them."""
        scalars = self.trace.scalars.setdefault((epoch, split), {})
        if self._splits_loss(layer, split) and self.penalties is not None and torch.isfinite(found.means).all():
            ridge, bias_decay = self.penalties
            weight, bias = self.trace.heads[epoch]
            scalars |= least_squares_split(found, weight, bias, ridge=ridge, bias_decay=bias_decay).values()
            row = product_metrics(found, weight, bias)
            scalars |= row
            self.trace.reasons[epoch, split] = row.undefined
        self.trace.statistics[Moment(epoch, layer, split)] = replace(found, within_products=None)

    def _splits_loss(self, layer: str, split: str) -> bool:
        is_trained_on = split in ("train", "train_mode")
        return self.penalties is not None and is_trained_on and layer == self.layers[-1]

    def _vectors(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Feature vectors of all layers, and logits."""
        maps, logits = self.layers_and_logits(images)
        flat = {layer for layer in self.layers if matches_any(layer, self.measure.flatten)}
        pooling = self.measure.pool
        return {n: as_vectors(maps[n], "flatten" if n in flat else pooling) for n in self.layers}, logits


@dataclass(frozen=True)
class FirstPass:
    """What one forward pass over a split leaves."""

    held: dict[str, Tensor]
    """Feature vectors (N, d) by layer."""
    moments: dict[str, ClassMoments]
    """Class moments of the layers that are not held."""
    labels: Tensor
    """(N,) in the order of the features."""
    loss: float
    """Mean loss."""
    gradient: Tensor
    """Gradient of the mean loss in the classifier's weight, (K, d) float64; zero where it was not asked for."""
    squared_error: float
    """Mean of 1/2 |z - e_y|^2; zero where it was not asked for."""


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
