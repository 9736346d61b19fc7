"""Settings of class-incremental learning on the frozen features of a trained network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ncpipe.settings.base import Count, NonNegative, Positive, Seed, Settings


class ContinualSpec(Settings):
    """New classes learnt by the classifier alone: the backbone is frozen, old classes are rehearsed from a buffer."""

    init: Literal["random", "class_mean", "least_squares"] = Field(
        description="New rows of the classifier: torch's default start; the centred class mean, scaled to the norm of"
        " the old rows; the rows of the ridge regression of one-hot targets on the features at hand."
    )
    rehearsal: Count = Field(20, description="Training images kept of every old class.")
    ridge: Positive = Field(1e-2, description="least_squares: the penalty, relative to the mean squared feature.")
    steps: Count = Field(1000, description="Steps of SGD on the classifier.")
    points: Annotated[int, Field(ge=2, le=1000)] = Field(24, description="Log-spaced steps that are measured.")
    batch_size: Count = 64
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegative = 5e-4
    seed: Seed = Field(0, description="Draws the buffer, the random rows and the batches.")

    @property
    def slug(self) -> str:
        return f"continual-{self.init.replace('_', '-')}-s{self.seed}"
