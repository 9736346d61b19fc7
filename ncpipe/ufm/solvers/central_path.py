"""The central path as a solver: renormalised gradient flow of features whose classifier is the least-squares one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from ncpipe.system.lazy import Tensor, torch
from ncpipe.ufm.model import Model
from ncpipe.ufm.solvers._base import BaseSolver, Points

if TYPE_CHECKING:
    from torch import device

    from ncpipe.ufm.central_path import CentralPath
    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result

NEEDED: dict[str, Any] = {
    "loss": "mse",
    "rescale": (1, 1),
    "bias": "free",
    "activation": "linear",
    "classifier": "free",
    "weight_decay": None,
    "feature_decay": None,
    "nonnegative": False,
}
"""Settings of a model that has a central path."""


class Solver(BaseSolver):
    """Renormalised gradient flow of the least-squares loss on the central path (mse, free bias, no penalty)."""

    short = "path"
    label = "central path"
    fits_problems = False

    name: Literal["central_path"]
    end_time: Annotated[float, Field(gt=0, le=1e15)] = Field(1e6, description="Time at which the flow ends.")
    points: Points = Field(40, description="Times that are measured: 0, and log-spaced ones from end_time/10^4 on.")

    @model_validator(mode="after")
    def _rounded_times_differ(self) -> Solver:
        ratio = 10 ** (4 / max(self.points - 2, 1))
        least = 1e4 * max(1, 1 / (ratio - 1)) if self.points > 2 else 1
        if self.end_time < least:
            raise ValueError(
                f"end_time must be at least {math.ceil(least)} with points {self.points}:"
                " times are recorded as whole numbers"
            )
        return self

    @property
    def iterations(self) -> int:
        return round(self.end_time)

    def mistakes(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        for name, value in NEEDED.items():
            if given[name] != value:
                yield f"solver 'central_path' needs {name} { {None: 'null', False: 'false'}.get(value, value) }"
        width = model.widths[0]
        if not isinstance(model.samples, int):
            yield "solver 'central_path' needs classes of one size: samples is one number"
        if width < model.classes - 1:
            yield f"solver 'central_path' needs dim {model.classes - 1} or more, one below classes"
        if model.num_samples < width + model.classes:
            least = -(-width // model.classes) + 1
            yield f"solver 'central_path' needs samples {least} or more: dim + classes vectors in all"

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: device) -> list[Result]:
        raise ValueError("solver 'central_path': not of penalised features; renormalized_flow of ncpipe.ufm has it")

    def follow(self, model: Model, seed: int) -> tuple[CentralPath, Tensor, Tensor]:
        """The flow from the features that a seed draws, those features (N, d), and their labels (N,)."""
        from ncpipe.ufm.central_path import renormalized_flow

        features, labels = start_features(model, seed)
        path = renormalized_flow(features, labels, time=self.end_time, points=self.points, num_classes=model.classes)
        return path, features, labels


def start_features(model: Model, seed: int) -> tuple[Tensor, Tensor]:
    """Gaussian deviations, whitened to Sigma_W = I, about Gaussian class means of norm about 1.

    Returns (N, d) float64 and labels (N,), sorted. Singular values of the signal-to-noise matrix are of order 1.
    """
    generator = torch.Generator().manual_seed(seed)
    width, per_class = model.widths[0], model.counts[0]
    means = torch.randn(model.classes, width, dtype=torch.float64, generator=generator) / width**0.5
    noise = torch.randn(model.classes, per_class, width, dtype=torch.float64, generator=generator)
    noise = (noise - noise.mean(dim=1, keepdim=True)).flatten(end_dim=1)
    labels = torch.arange(model.classes).repeat_interleave(per_class)
    return means[labels] + torch.linalg.qr(noise).Q * model.num_samples**0.5, labels
