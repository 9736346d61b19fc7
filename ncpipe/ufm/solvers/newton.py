"""Gauss-Newton on a batch of UFM problems with the squared error, one feature vector a class, in float64."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from ncpipe.settings.base import Count
from ncpipe.system.lazy import Tensor, torch
from ncpipe.ufm.model import Model
from ncpipe.ufm.solvers._starts import Ends, FromStarts, Rows
from ncpipe.ufm.solvers.lbfgs import lbfgs

if TYPE_CHECKING:
    from ncpipe.ufm.gauss_newton import SumOfSquares
    from ncpipe.ufm.objective import Objective

STAGES = ((0.0, 40), (0.5, 30), (0.05, 20), (0.005, 15))
"""Smoothing of the ReLU, over the root mean square of what it gives, and most steps with it. The first, exact one
finds a basin; at its end pre-activations stick to kinks, which the others let go and close again."""
PROGRESS = 1e-4
"""Relative decrease of the objective by a step that ends a stage."""
REJECTIONS = 10
"""Steps without success in a row that end a stage."""
TRUST = 1e-3
"""Share of the predicted decrease from which on a step is taken."""
MOST_RESIDUALS = 1024
"""Residuals, classes times feature vectors, whose Gram matrix a step decomposes."""


class Solver(FromStarts):
    """Levenberg-Marquardt, then L-BFGS preconditioned by its last matrix, from several starts, the best kept.

    One feature vector a class is optimised: starts are those of ``lbfgs`` with ``tied``. Zero is tried as well, as
    there.
    """

    label = "Newton"
    tied: ClassVar[bool] = True

    name: Literal["newton"]
    max_iterations: Count = Field(400, description="Most iterations of L-BFGS, after those of Levenberg-Marquardt.")

    def seconds(self, problems: int, depth: int, work: float) -> float:
        return 0.1 * depth + problems * self.starts * 0.01 * depth

    def mistakes(self, model: Model, given: Mapping[str, Any]) -> Iterator[str]:
        if model.loss != "mse" or model.rescale != (1, 1):
            yield "solver 'newton': for the half squared error alone"
        if model.nonnegative:
            yield "solver 'newton': not of features that are constrained to be non-negative"
        if model.classes**2 > MOST_RESIDUALS:
            yield f"solver 'newton': at most {math.isqrt(MOST_RESIDUALS)} classes"

    def descend(self, objective: Objective, start: Tensor) -> Ends:
        from ncpipe.ufm.gauss_newton import Preconditioned, SumOfSquares

        points, steps = levenberg_marquardt(objective, start)
        exact = SumOfSquares(objective.layout, objective.decay, points, torch.zeros_like(points[:, 0]))
        flat = Preconditioned(objective, exact)
        ends = lbfgs(flat, torch.zeros_like(points), self.max_iterations)
        return Ends(flat.point(ends.points), ends.iterations + steps, ends.stationary, ends.exhausted)


@dataclass
class Damped(Rows):
    """Where Levenberg-Marquardt stands in every problem of a batch."""

    number: Tensor
    """Places of the problems in the whole batch, (B,)."""
    point: Tensor
    damping: Tensor
    growth: Tensor
    """Factor of the damping after a step that fails."""
    stage: Tensor
    age: Tensor
    """Steps in this stage."""
    smoothing: Tensor


def levenberg_marquardt(objective: Objective, start: Tensor) -> tuple[Tensor, Tensor]:
    """Points (B, P) to which damped Gauss-Newton steps lead from others, and the numbers of steps (B,).

    Every problem has its own damping (Nielsen 1999) and goes through the stages at its own pace.
    """
    from ncpipe.ufm.gauss_newton import SumOfSquares

    layout, decay = objective.layout, objective.decay
    stages = STAGES if layout.activation == "relu" else STAGES[:1]
    edges, most = (torch.tensor([*column, 0], device=start.device).double() for column in zip(*stages, strict=True))
    zero, none = torch.zeros_like(start[:, 0]), torch.zeros(len(start), dtype=torch.int64, device=start.device)
    value = SumOfSquares(layout, decay, start, zero).value
    damping = value / start.square().sum(dim=1).clamp_min(torch.finfo(value.dtype).tiny)
    state = Damped(
        torch.arange(len(start), device=start.device), start, damping, zero + 2, none, none.clone(), zero.clone()
    )
    points, steps = start.clone(), none.clone()
    while len(state.point):
        here = SumOfSquares(layout, decay, state.point, state.smoothing)
        ended = _step(here, state)
        live = state.stage < len(stages)
        points[state.number[live]], steps[state.number] = state.point[live], steps[state.number] + live
        ended |= state.age >= most[state.stage]
        state.stage = (state.stage + ended).clamp_max(len(stages))
        state.age = state.age.masked_fill(ended, 0)
        state.damping = torch.where(ended, decay[:, 0], state.damping)
        state.growth = state.growth.masked_fill(ended, 2)
        size = here.layers[-1].square().mean(dim=(1, 2)).sqrt()
        state.smoothing = torch.where(ended, edges[state.stage] * size, state.smoothing)
        done = state.stage == len(stages)
        if 8 * done.sum() >= len(done):
            keep = (~done).nonzero()[:, 0]
            state, decay = state.subset(keep), decay[keep]
    return points, steps


def _step(here: SumOfSquares, state: Damped) -> Tensor:
    """Take a step of every problem where it descends; whether the problem's stage is at its end, (B,)."""
    step = here.damped_step(state.damping)
    gain = here.value - here.at(state.point + step).value
    share = gain / here.predicted(step).clamp_min(torch.finfo(gain.dtype).tiny)
    good = (gain > 0) & (share > TRUST)
    state.point = torch.where(good[:, None], state.point + step, state.point)
    factor = torch.where(good, (1 - (2 * share - 1) ** 3).clamp(1 / 5, 2), state.growth)
    state.damping, state.growth = state.damping * factor, torch.where(good, 2, 2 * state.growth)
    state.age = state.age + 1
    return torch.where(good, gain <= PROGRESS * here.value, state.growth > 2**REJECTIONS)
