"""Critical points of a UFM problem as a solver of studies: from random starts, with the curvature at each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from ncpipe.settings.base import Count
from ncpipe.ufm.model import Model
from ncpipe.ufm.solvers._base import BaseSolver

if TYPE_CHECKING:
    from torch import device

    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result


TOLD = ("least_eigenvalue", "negative_share", "index", "flat", "kinks", "live_directions", "starts")
"""What is recorded of a critical point beside its value and gradient."""


class Solver(BaseSolver):
    """Critical points from random starts by ``ncpipe.ufm.landscape``, recorded by falling objective: the last, lowest
    one is the result."""

    label = "landscape"

    name: Literal["landscape"]
    starts: Count = Field(48, description="Random starts.")
    tied: bool = Field(True, description="Samples of a class share their features.")

    def seconds(self, problems: int, depth: int, work: float) -> float:
        return problems * self.starts * 0.05

    def mistakes(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        if model.nonnegative:
            yield "solver 'landscape': a model with bounds has no Hessian; leave nonnegative out"

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: device) -> list[Result]:
        return [self._explored(problem, seed) for problem, seed in zip(problems, seeds, strict=True)]

    def _explored(self, problem: Problem, seed: int) -> Result:
        from ncpipe.ufm.critical_points import landscape
        from ncpipe.ufm.result import Recorder

        found = landscape(problem, self.starts, seed, self.tied)
        if not found:
            raise ValueError(f"none of {self.starts} starts led to a critical point; take more")
        recorder, values = Recorder(problem), [np.inf] * (self.starts - sum(point.starts for point in found))
        for place, point in enumerate(reversed(found)):
            told = {name: float(value) for name in TOLD if (value := getattr(point, name)) is not None}
            recorder.record(place, point.point, point.value, point.gradient_norm, **told)
            values += [point.value] * point.starts
        saddles = sum(point.is_strict_saddle for point in found)
        return recorder.result(f"{len(found)} critical points, {saddles} of them strict saddles", values)
