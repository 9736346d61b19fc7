"""Settings of the head: what follows the backbone."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ncpipe.settings.base import Count, NonNegative, Positive, Settings


class HeadSpec(Settings):
    """What follows the backbone: perhaps hidden layers, and the classifier that reads the last features."""

    bias: bool = True
    fixed_etf: bool = Field(False, description="Freeze the weight at a simplex ETF with unit-norm rows.")
    feature_dim: Count | Literal["classes"] | None = Field(
        None,
        description="Project the backbone's output to this width (Linear-BatchNorm-ReLU); 'classes' means K.",
    )
    hidden: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Hidden linear layers without bias, each followed by ReLU, before the classifier (a deep UFM)."
    )
    linear: bool = Field(False, description="Hidden layers without ReLU: the network ends in linear layers.")
    hidden_width: Count | None = Field(None, description="Width of the hidden layers; null: that of their input.")
    feature_decay: NonNegative = Field(
        0.0, description="Adds this/2 times the mean of |h|^2 over the samples, h the input of the head."
    )
    temperature: Positive | None = Field(
        None, description="Features and rows of the weight have unit norm, logits are scaled by this; no bias."
    )

    @model_validator(mode="after")
    def _spheres_have_no_bias(self) -> HeadSpec:
        if self.temperature is not None and self.bias:
            raise ValueError("'temperature' goes without a bias: set bias to false")
        for name in ("hidden_width", "linear"):
            if getattr(self, name) and not self.hidden:
                raise ValueError(f"'{name}' goes with 'hidden'")
        return self

    @property
    def slug(self) -> str:
        kind = f"-{'linear' if self.linear else 'head'}{self.hidden}" if self.hidden else ""
        kind += "-etf" if self.fixed_etf else ""
        return kind + ("-normalised" if self.temperature is not None else "")
