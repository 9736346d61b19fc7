"""``ncpipe.measure_model``: the collapse metrics of every layer of a network in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ncpipe.collapse import LayerStatistics, Measurement, SecondPass, class_means, collapse_metrics
from ncpipe.collapse.arguments import Array, as_features, as_labels, as_parameter, as_tensor, require_finite
from ncpipe.collapse.streaming import CollapseMetrics
from ncpipe.networks.hooked import LAST, Pooling, Reading, ReadNetwork

MEMORY = 2 * 1024**3
"""Bytes of features held at once."""
ALONE: dict[str, Any] = {"distributed_available_fn": lambda: False}
"""What is measured is this process' loader, also where there are others."""


class ModelMeasurement(dict[str, Measurement]):
    """Layer -> its metrics, in the order of execution; the last is 'features', what the classifier reads."""

    def __init__(self, rows: Mapping[str, Measurement], means: Mapping[str, Tensor]) -> None:
        super().__init__(rows)
        self.means = dict(means)
        """Class means (K, d) by layer, float64: ``train_means`` of another split."""


def measure_model(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Sequence[str] | None = None,
    classifier: str | None = None,
    train_means: Mapping[str, Array] | None = None,
    pooling: Pooling | None = None,
    per_class: bool = False,
    present_only: bool = False,
    memory: int = MEMORY,
) -> ModelMeasurement:
    """Neural-collapse metrics of all layers of a network, as ``measure`` has them of features.

    The model is read by hooks, in evaluation mode and without gradients, and left as it was. One pass over the
    loader, and a second for the widest layers where the features of all exceed ``memory``; then the loader must give
    the same samples twice, in any order.

    Args:
        model: any module that returns logits (N, K).
        loader: gives batches (inputs, labels), or mappings that hold 'labels' beside the model's arguments; they are
            moved to the model's device.
        layers, classifier, pooling: as in ``ncpipe.networks.hooked.ReadNetwork``.
        train_means: layer -> class means (K, d) of the training split, ``.means`` of its measurement.
        per_class, present_only: as in ``measure``.
        memory: bytes of features that are held at once.

    Returns:
        Layer -> metrics; NC2 of the weights, NC3 and NC4 are of 'features' alone.

    Raises:
        ValueError: the model cannot be read so (one line says why), labels are no classes, or the loader is empty.

    Example:
        >>> import torch, ncpipe
        >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> batches = [(torch.randn(6, 4), torch.arange(6) % 3)]
        >>> list(ncpipe.measure_model(net, batches))
        ['0', 'features']
    """
    network = ReadNetwork(model, layers, classifier, pooling)
    found = read_statistics(network, loader, train_means, memory=memory)
    rows = {}
    for layer, statistics in found.items():
        weight, bias = network.reading(layer)
        means = _means_of(train_means, layer, statistics.means)
        rows[layer] = collapse_metrics(
            statistics, weight, bias, train_means=means, per_class=per_class, present_only=present_only
        )
    return ModelMeasurement(rows, {layer: statistics.means for layer, statistics in found.items()})


def read_statistics(
    network: ReadNetwork,
    loader: Iterable[Any],
    train_means: Mapping[str, Array] | None = None,
    *,
    memory: int = MEMORY,
    seen: Callable[[Reading, Tensor], None] = lambda reading, labels: None,
) -> dict[str, LayerStatistics]:
    """Statistics of all layers of a network over a loader, on its device; ``seen`` is shown every batch once.

    Arguments and errors are those of ``measure_model``.
    """
    features = _Features(network, train_means, memory)
    with network.evaluation():
        for reading, labels in _read(network, loader):
            features.add(reading, labels)
            seen(reading, labels)
        if not features.labels:
            raise ValueError("the loader gives no batch: a generator is used up after one pass, pass a DataLoader")
        if features.streamed:
            for metric in features.streamed.values():
                metric.start_second_pass()
            for reading, labels in _read(network, loader):
                for layer, metric in features.streamed.items():
                    metric.update(reading.layers[layer], labels)
        return features.statistics()


class _Features:
    """The features of all layers: held whole, or where they exceed the memory as metrics that see them twice."""

    def __init__(self, network: ReadNetwork, train_means: Mapping[str, Array] | None, memory: int) -> None:
        self.network, self.train_means, self.memory = network, train_means, memory
        self.held: dict[str, list[Tensor]] = {}
        self.labels: list[Tensor] = []
        self.streamed: dict[str, CollapseMetrics] = {}

    def add(self, reading: Reading, labels: Tensor) -> None:
        self.labels.append(labels)
        for layer, vectors in reading.layers.items():
            if layer in self.streamed:
                self.streamed[layer].update(vectors, labels)
            else:
                self.held.setdefault(layer, []).append(vectors)
        while sum(map(self._size, self.held)) > self.memory:
            self._stream(max(self.held, key=self._size))

    def _size(self, layer: str) -> int:
        return sum(part.nbytes for part in self.held[layer])

    def _stream(self, layer: str) -> None:
        parts = self.held.pop(layer)
        weight, bias = self.network.reading(layer)
        classes, device = len(self.network.weight), parts[0].device
        means = _means_of(self.train_means, layer, parts[0].new_empty(classes, parts[0].shape[1]))
        metric = CollapseMetrics(classes, weight, bias, train_means=means, **ALONE).to(device)
        for vectors, labels in zip(parts, self.labels):
            metric.update(vectors, labels)
        self.streamed[layer] = metric

    def statistics(self) -> dict[str, LayerStatistics]:
        """Statistics of all layers in their order."""
        labels, found = torch.cat(self.labels), {}
        for layer in self.network.layer_names:
            if layer in self.streamed:
                found[layer] = self.streamed[layer].statistics()
                continue
            features = torch.cat(self.held.pop(layer))
            counts, means = class_means(features, labels, len(self.network.weight))
            if not torch.isfinite(means[counts > 0]).all():
                require_finite(f"features of layer {layer!r}", features)
            weight, bias = self.network.reading(layer)
            known = _means_of(self.train_means, layer, means)
            found[layer] = SecondPass(counts, means, weight=weight, bias=bias, train_means=known)(features, labels)
        return found


def _means_of(train_means: Mapping[str, Array] | None, layer: str, like: Tensor) -> Tensor | None:
    """Class means of the training split of a layer, of the shape and on the device of others."""
    if train_means is None:
        return None
    if layer not in train_means:
        raise ValueError(f"train_means has no layer {layer!r}: pass the .means of the training split's measurement")
    return as_parameter(f"train_means[{layer!r}]", train_means[layer], tuple(like.shape), like)


def _read(network: ReadNetwork, loader: Iterable[Any]) -> Iterator[tuple[Reading, Tensor]]:
    """Readings and labels of all batches."""
    for batch in loader:
        inputs, labels = _parted(batch)
        reading = network(_on(network.device, inputs))
        features = as_features("features", reading.layers[LAST])
        labels = as_tensor("labels", labels, "integers").to(features.device)
        yield reading, as_labels(labels, features, len(network.weight), batch=True)


def _parted(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping) and "labels" in batch:
        return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]
    if isinstance(batch, Sequence) and len(batch) == 2:
        return batch[0], batch[1]
    raise ValueError(f"the loader must give batches (inputs, labels), it gives {type(batch).__name__}")


def _on(device: torch.device, inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        return {name: _on(device, value) for name, value in inputs.items()}
    return inputs.to(device, non_blocking=True) if isinstance(inputs, Tensor) else inputs
