"""Untrained models of the timm library, each as one stage."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ncpipe.networks.architecture import Architecture, Backbone, Shape, nn
from ncpipe.settings.base import nearest
from ncpipe.system.errors import UserError
from ncpipe.system.vision import import_torchvision

if TYPE_CHECKING:
    import torch


class Timm(Architecture):
    """Any image model of the timm library, untrained, as one layer; needs the extra ``ncpipe[timm]``."""

    vmap = "many models of timm have operations that torch has no batching rule for"

    name: Literal["timm"]
    architecture: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]{0,63}$")] = Field(
        description="timm's name of the model, such as 'mixer_s16_224'."
    )

    @property
    def slug(self) -> str:
        return f"timm-{self.architecture}"

    @property
    def label(self) -> str:
        return self.slug

    def layers(self) -> list[str]:
        return ["features"]

    def build(self, image_shape: Shape) -> Backbone:
        """timm's model without its classifier, for images of this shape; its only stage is 'features'.

        ``UserError`` where timm is missing, does not know the model, or its model does not read such images.
        """

        timm = _import_timm()
        name, (channels, height, width) = self.architecture, image_shape
        if not timm.is_model(name):
            hint = nearest(name, timm.list_models(), otherwise="timm.list_models() names all")
            raise UserError(f"timm has no model {name!r}; {hint}")
        size = {"img_size": (height, width)} if timm.get_pretrained_cfg(name).fixed_input_size else {}
        try:
            network = timm.create_model(name, pretrained=False, num_classes=0, in_chans=channels, **size)
            features = _features_of_one_image(network, image_shape)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"timm's {name!r} does not read images of {channels}x{height}x{width} ({reason}): "
                "take another model or image size"
            ) from error
        if features.ndim != 2:
            raise UserError(f"timm's {name!r} gives no vector per image, got shape {tuple(features.shape[1:])}")
        return Backbone({"features": network}, features.shape[1])


def _features_of_one_image(network: nn.Module, image_shape: Shape) -> torch.Tensor:
    import torch

    with torch.no_grad():
        features = network.eval()(torch.zeros(1, *image_shape))
    network.train()
    return features


def _import_timm() -> ModuleType:
    import_torchvision()  # which timm imports, perhaps in vain
    try:
        import timm
    except ImportError as error:
        raise UserError(f'model timm needs the timm library: pip install "ncpipe[timm]" ({error})') from error
    return timm
