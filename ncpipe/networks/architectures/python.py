"""A network of your own: an ordinary ``nn.Module`` of a Python file or an installed package."""

from __future__ import annotations

import inspect
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, PrivateAttr, model_validator

from ncpipe.networks.architecture import Architecture, Backbone, Shape, nn
from ncpipe.settings.base import PathText
from ncpipe.settings.source import Source, source_of, told
from ncpipe.system.errors import UserError

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
Dotted = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$", max_length=200)]
LayerName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", max_length=200)]
OFFERED = ("num_classes", "image_shape")
"""Arguments that a constructor is given where its signature names them."""


class Python(Architecture):
    """A module of your own, which returns logits; its layers are read by hooks. The study runs its code."""

    vmap = "torch may have no batching rule for what a network of one's own does"
    reads_vectors = True

    name: Literal["python"]
    path: PathText | None = Field(None, description="Python file, from the working folder; or module.")
    module: Dotted | None = Field(None, description="Installed module, as my.package; or path.")
    class_name: Identifier = Field(alias="class", description="Class, or function that returns the module.")
    arguments: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Of the constructor; num_classes and image_shape are added where it names them.",
    )
    tapped: tuple[LayerName, ...] | None = Field(
        None,
        alias="layers",
        description="Modules that are measured below 'features', as they run; null: the children of the model.",
    )
    classifier: LayerName | None = Field(None, description="Name of the linear classifier; null: what runs last.")
    pooling: Literal["class_token", "token_mean", "position_mean", "flatten"] | None = Field(
        None, description="What outputs (N, m, n) are: tokens or positions; null: they are refused."
    )
    _source: Source = PrivateAttr()
    content: Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")] | None = Field(
        None, description="Digest of the code, filled in by ncpipe; where it is given, other code is refused."
    )

    @model_validator(mode="after")
    def _code_is_there(self) -> Python:
        if (self.path is None) == (self.module is None):
            raise ValueError("model python: give 'path' or 'module', one of them")
        source = source_of(self.path, self.module)
        source.require(self.class_name)
        if self.content not in (None, source.digest):
            raise ValueError(f"{source.place} has the content {source.digest}, not {self.content}: it has changed")
        vars(self)["content"], self._source = source.digest, source
        return self

    @property
    def slug(self) -> str:
        return self.class_name

    @property
    def label(self) -> str:
        return self.class_name

    @property
    def code(self) -> tuple[str, bytes]:
        return self._source.file.name, self._source.text

    def layers(self) -> list[str]:
        if self.tapped is None:
            return ["*", "features"]
        return [*("features.output" if name == "features" else name for name in self.tapped), "features"]

    def build(self, image_shape: Shape) -> Backbone:
        raise NotImplementedError("a network of one's own is built for a number of classes")

    def build_for(self, image_shape: Shape, num_classes: int) -> Backbone:
        """The module without its classifier as one stage; its weights are drawn as the constructor draws them.

        ``UserError`` where the code fails, the module does not read such images, or it cannot be taken apart.
        """

        from ncpipe.networks.tapped import take_apart

        offered = dict(zip(OFFERED, (num_classes, image_shape), strict=True))
        model = self._source.call(self.class_name, lambda make: make(**self._arguments(make, offered)))
        if not isinstance(model, nn.Module):
            raise UserError(f"{self._source.place}: {self.class_name} gives {type(model).__name__}, no nn.Module")
        try:
            backbone, classifier = take_apart(model, image_shape, self.tapped, self.classifier, self.pooling)
        except (Exception, SystemExit) as error:
            line = self._source.line(error)
            if isinstance(error, ValueError) and not line:  # not of the user's code
                raise UserError(f"{self.class_name}: {error}") from error
            reason, size = f"{self._source.place}{line}: {told(error)}", "x".join(map(str, image_shape))
            raise UserError(f"{self.class_name} does not read images of {size} ({reason})") from error
        found, width = classifier.weight.shape
        if found != num_classes:
            raise UserError(
                f"{self.class_name} gives {found} logits, the data have {num_classes} classes: let its constructor"
                " take 'num_classes', or set it in model.arguments"
            )
        return Backbone({"features": backbone}, width, classifier)

    def _arguments(self, make: Any, offered: dict[str, Any]) -> dict[str, Any]:
        named = inspect.signature(make).parameters
        return {name: value for name, value in offered.items() if name in named} | self.arguments
