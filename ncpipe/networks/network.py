"""A classifier as named stages in order, so that the features of every layer are at hand without hooks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ncpipe.networks.head import Classifier
from ncpipe.networks.layers import first_and_only_matrix
from ncpipe.networks.tapped import TappedBackbone


class Output(NamedTuple):
    """What training needs of a forward pass."""

    logits: Tensor
    """(N, K)"""
    head_input: Tensor
    """(N, d): the backbone's output, which the head reads; before any normalisation."""


class Network(nn.Module):
    """Stages of a backbone one after the other, perhaps hidden layers of the head, then the classifier ``head``.

    The hidden layers and the classifier compute in float32, also under autocast.

    Attributes:
        layer_names: names of the stages and hidden layers in order, in their place those within a stage that is
            tapped; the last is 'features'.
        head: the classifier; with a temperature it reads the features scaled to unit norm.
    """

    def __init__(self, stages: Mapping[str, nn.Module], hidden: Mapping[str, nn.Module], head: Classifier) -> None:
        super().__init__()
        self._own_names = (*stages, *hidden)
        tapped = [part for stage in stages.values() for part in stage.modules() if isinstance(part, TappedBackbone)]
        # In a tuple, or torch would take it for a module of this one too.
        self._tapped = tuple(tapped)
        self.layer_names = (*(name for part in tapped for name in part.taps), *self._own_names)
        # torch allows no dot in the name of a module.
        self.stages = nn.ModuleDict({name.replace(".", "_"): stage for name, stage in stages.items()})
        self.hidden = nn.ModuleDict(hidden)
        self.head = head

    def forward(self, images: Tensor) -> Output:
        """Logits (N, K) of images (N, C, H, W), and the input of the head (N, d)."""
        for stage in self.stages.values():
            images = stage(images)
        head_input, *_, logits = self._through_head(images)
        return Output(logits, head_input)

    def features(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Outputs of all layers by name, in order, and the logits (N, K), of images (N, C, H, W).

        Convolutional layers give unpooled maps (N, c, h, w), transformers tokens (N, t, d), the class token first;
        'features' (N, d) is what the classifier reads.
        """
        outputs: list[Tensor] = []
        with ExitStack() as stack:
            inner = [stack.enter_context(part.tapping()) for part in self._tapped]
            for stage in self.stages.values():
                images = stage(images)
                outputs.append(images)
        head_input, *hidden, read, logits = self._through_head(images)
        outputs[-1:] = [head_input, *hidden]
        outputs[-1] = read
        own = zip(self._own_names, outputs, strict=True)
        return {name: output for part in inner for name, output in part.items()} | dict(own), logits

    @property
    def is_tapped(self) -> bool:
        """Whether layers are read by hooks, which ``torch.compile`` does not follow."""
        return bool(self._tapped)

    def reading_weights(self) -> dict[str, Tensor]:
        """The one matrix (m, d) that reads a layer's features, by layer, where the next layer begins with one.

        That of a linear map, or the kernel of a convolution (m, d, h, w) summed over its positions: the map between
        features averaged over positions, up to borders. None of a layer that is read by several matrices, as in
        residual blocks, by a grouped convolution or through pooling. The classifier's own is ``head.effective``.
        """
        modules = [*self.stages.values(), *self.hidden.values()]
        following = zip(self._own_names, modules[1:], strict=False)
        found = {name: first_and_only_matrix(module) for name, module in following}
        inner = {name: matrix for part in self._tapped for name, matrix in part.reading_weights().items()}
        return inner | {name: matrix for name, matrix in found.items() if matrix is not None}

    def _through_head(self, features: Tensor) -> list[Tensor]:
        """The backbone's output, the outputs of the hidden layers, what the classifier reads, and the logits; all of
        the classifier's type."""
        with torch.autocast(features.device.type, enabled=False):
            outputs = [features.to(self.head.weight.dtype)]
            for layer in self.hidden.values():
                outputs.append(layer(outputs[-1]))
            read = self.head.reading(outputs[-1])
            return [*outputs, read, self.head(read)]


def as_vectors(features: Tensor, how: Literal["average", "flatten"]) -> Tensor:
    """One vector per sample of a layer's output.

    A map (N, c, h, w) is averaged over its positions to (N, c), or flattened to (N, c*h*w).
    Of tokens (N, t, d) the class token, the first, is taken: (N, d). Vectors (N, d) are returned as they are.
    """
    if how not in ("average", "flatten"):
        raise ValueError(f"how must be 'average' or 'flatten', got {how!r}")
    if features.ndim == 2:
        return features
    if features.ndim == 3:
        return features[:, 0]
    return features.mean(dim=(2, 3)) if how == "average" else features.flatten(1)
