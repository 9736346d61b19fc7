"""An ordinary ``nn.Module`` as the backbone of a network: its classifier taken off, its layers tapped by hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from ncpipe.networks.hooked import LAST, Pooling, ReadNetwork, pooled, watching
from ncpipe.networks.layers import first_and_only_matrix

PROBES = 8
"""Random images with which layers are found: fewer, and layers might have equal features by chance."""


class TappedBackbone(nn.Module):
    """A module whose classifier hands on what it reads, so that the output is the last features (N, d).

    Its weights are in torch's usual memory format on every device, since a user's network may ``view`` its maps.
    """

    def __init__(
        self, model: nn.Module, taps: Mapping[str, str], readers: Mapping[str, str], pooling: Pooling | None
    ) -> None:
        """``taps``: layer -> module, as they run; ``readers``: layer -> the module whose input it is, if any."""
        super().__init__()
        self.model, self.taps, self.readers, self.pooling = model, dict(taps), dict(readers), pooling

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images.contiguous())

    @contextmanager
    def tapping(self) -> Iterator[dict[str, Tensor]]:
        """A dict that a forward pass within fills: layer -> map (N, c, h, w) or vectors (N, d), copied."""
        found: dict[str, Tensor] = {}
        layers = {module: layer for layer, module in self.taps.items()}

        def left(module: str, output: Tensor) -> None:
            found[layers[module]] = output.clone() if output.ndim == 4 else pooled(output, self.pooling)

        with watching(self.model, layers, left):
            yield found

    def reading_weights(self) -> dict[str, Tensor]:
        """As ``Network.reading_weights``, of tapped layers that go into another module as they are."""
        modules = ((layer, self.model.get_submodule(name)) for layer, name in self.readers.items())
        found = {layer: first_and_only_matrix(module) for layer, module in modules}
        return {layer: matrix for layer, matrix in found.items() if matrix is not None}

    def _apply(self, fn: Any, recurse: bool = True) -> TappedBackbone:
        super()._apply(fn, recurse)
        for parameter in self.parameters():
            parameter.data = parameter.data.contiguous()
        return self


def take_apart(
    model: nn.Module,
    image_shape: Sequence[int],
    layers: Sequence[str] | None,
    classifier: str | None,
    pooling: Pooling | None,
) -> tuple[TappedBackbone, Any]:
    """A module without its classifier, the layers below tapped, and the linear classifier.

    Arguments are those of ``ReadNetwork``, which looks through torch's wrappers.

    Raises ``ValueError`` where it cannot be read so, or works no more without its classifier.
    """
    network = ReadNetwork(model, layers, classifier, pooling)
    model = network.model
    images = torch.randn(PROBES, *image_shape, generator=torch.Generator().manual_seed(0))
    with network.evaluation():
        features = network(images).layers[LAST]
        taps = {layer: module for module, layer in network.read_modules.items()}
        if layers is not None and [*taps.values()] != [*layers]:
            same = [module for module in layers if module in network.same_as_last]
            raise ValueError(
                f"layer {same[0]!r} is what the classifier reads, 'features', which is always there: leave it out"
                if same
                else f"the layers run in the order {', '.join(taps.values())}: list them so"
            )
        name = network.classifier
        assert name
        parent, _, leaf = name.rpartition(".")
        head: Any = model.get_submodule(name)
        setattr(model.get_submodule(parent), leaf, nn.Identity())
        readers = _readers(model, taps, [*taps.values(), *network.same_as_last], images)
        backbone = TappedBackbone(model, taps, readers, pooling)
        try:
            as_before = torch.equal(cast(Tensor, backbone(images)), features)
        except (RuntimeError, AttributeError, TypeError, ValueError):
            as_before = False
    if not as_before:
        raise ValueError(
            f"its output is not that of its classifier {name!r} alone: return what {name!r} gives, as it is"
        )
    return backbone, head


def _readers(model: nn.Module, taps: Mapping[str, str], modules: Sequence[str], images: Tensor) -> dict[str, str]:
    """Layer -> the first of the modules whose input is the layer's output itself, unchanged."""
    outputs: dict[str, tuple[Tensor, int]] = {}
    readers: dict[str, str] = {}
    layers = {module: layer for layer, module in taps.items()}

    def left(name: str, output: Tensor) -> None:
        outputs[layers[name]] = output, output._version

    def entered(name: str, given: Any) -> None:
        for layer, (output, stamp) in outputs.items():
            if given is output and output._version == stamp:
                readers.setdefault(layer, name)

    with watching(model, layers, left, modules, entered):
        model(images)
    return readers
