"""An architecture: settings, the layers that they name, and the network that they build.

The modules of ``ncpipe.networks.architectures`` have torch's ``nn`` and the pieces of ``ncpipe.networks.layers`` from
here, where they are imported when something is built: a study is read without torch.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ncpipe.settings.base import Count, Settings
from ncpipe.system.lazy import lazily

if TYPE_CHECKING:
    from torch import nn

    from ncpipe.networks import layers as pieces
else:  # a study is read without torch
    nn, pieces = lazily("torch.nn"), lazily("ncpipe.networks.layers")

Shape = tuple[int, ...]
"""Channels, height and width of images, or the length of vectors alone."""
Depth = Annotated[int, Field(ge=1, le=1000)]
Stem = Annotated[
    Literal["small", "published"],
    Field(
        description="small: for images of about 32 pixels, without early halving; published: the network's own,"
        " for 224."
    ),
]


@dataclass(frozen=True)
class Backbone:
    """What an architecture provides: its stages by layer name in order, and the width of their last output.

    The last stage is named 'features' and returns vectors (N, width). A stage never changes its input in
    place, since that input is the previous layer's features.
    """

    stages: Mapping[str, nn.Module]
    width: int
    classifier: nn.Module | None = None
    """The linear classifier that it came with, (K, width), whose initial weights a plain head takes."""


class Architecture(Settings):
    """Base of architectures. A family of one class may have several names, the values of ``name``.

    Attributes:
        vmap: why networks of this kind gain nothing from ``torch.func.vmap``, so that seeds are not trained as one
            stack unless asked for; empty where they do.
        last_norm: what a BatchNorm right below the features normalises: every feature, of ``width`` of them,
            followed by ReLU ('units'), maps that they are means of over positions ('positions'), or there is none
            ('none'). A setting ``batch_norm`` that is false or 'all_but_last' takes it away. None: not known.
        reads_vectors: whether its networks read vectors (N, d) as well as images (N, C, H, W).
    """

    vmap: ClassVar[str] = ""
    last_norm: ClassVar[Literal["units", "positions", "none"] | None] = None

    reads_vectors: ClassVar[bool] = False

    name: str

    @property
    def slug(self) -> str:
        """The part of a run's id that tells it from others, in a few characters."""
        return self.name

    @property
    def label(self) -> str:
        """The name in tables and figures."""
        return self.name

    @property
    def code(self) -> tuple[str, bytes] | None:
        """Name and content of a file of the user's code, which is kept with the checkpoints."""
        return None

    @abstractmethod
    def layers(self) -> list[str]:
        """Names of what is measured, in order; the last, 'features', is what the head reads. A '*' stands for names
        that are known once the network is built."""

    @abstractmethod
    def build(self, image_shape: Shape) -> Backbone:
        """Stages named as ``layers()`` for images (C, H, W) or vectors (d,); weights from torch's current generator.

        Raises ``UserError`` for images that the network does not read.
        """

    def build_for(self, image_shape: Shape, num_classes: int) -> Backbone:
        """As ``build``, for architectures that come with a classifier of so many classes."""
        return self.build(image_shape)


class Scaled(Architecture):
    """Base of published networks at any width and depth.

    Attributes:
        published: blocks of every stage, by name.
    """

    published: ClassVar[Mapping[str, tuple[int, ...]]]

    width: Count = Field(64, description="Channels of the first stage; 64 is the published network.")
    depth_factor: Annotated[float, Field(gt=0, le=64)] = Field(
        1.0, description="Times the published number of blocks of every stage, rounded, at least one."
    )

    @property
    def blocks(self) -> tuple[int, ...]:
        """Number of blocks of every stage."""
        return scaled(self.published[self.name], self.depth_factor)

    @property
    def depth_slug(self) -> str:
        """The factor as a part of an id; empty for the published depth."""
        return "" if self.depth_factor == 1 else f"x{self.depth_factor:g}"

    @property
    def slug(self) -> str:
        return f"{self.name.removesuffix('_bn')}w{self.width}{self.depth_slug}"


def numbered(name: str, count: int) -> list[str]:
    """Names of ``count`` layers: name1, name2, .., features."""
    return [*(f"{name}{i}" for i in range(1, count)), "features"]


def scaled(blocks: tuple[int, ...], factor: float) -> tuple[int, ...]:
    """Numbers of blocks times the factor, rounded, each at least one."""
    return tuple(max(1, round(count * factor)) for count in blocks)
