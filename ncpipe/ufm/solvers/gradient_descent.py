"""Gradient descent on a batch of UFM problems of one layout, in float64.

On unit spheres it is Riemannian: see ``ncpipe.ufm.objective.UnitSpheres``. Where features are non-negative every step
is projected: see ``NonNegative``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import Field

from ncpipe.settings.base import Count, Positive, log_spaced
from ncpipe.system.lazy import Tensor, torch
from ncpipe.ufm.solvers._base import BaseSolver, Points, draw

if TYPE_CHECKING:
    from torch import device

    from ncpipe.ufm.objective import Objective
    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result

GRAPH_STEPS = 100
"""Steps in one CUDA graph."""


class Solver(BaseSolver):
    """Gradient descent with history at log-spaced steps, from one N(0, init_scale^2) start, on spheres a uniform one.

    Every recorded iteration keeps the layers' statistics, O(K d) numbers, whatever N is.
    """

    short = "gd"
    label = "GD"

    name: Literal["gradient_descent"]
    steps: Count = Field(100_000, description="Steps.")
    step_size: Positive = Field(0.1, description="Step size, the same for all parameters.")
    init_scale: Positive = Field(1.0, description="Standard deviation of the Gaussian start.")
    points: Points = Field(
        40, description="Log-spaced steps that are measured, with 0 and the last; fewer where they would coincide."
    )
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="Momentum of the heavy ball.")

    def seconds(self, problems: int, depth: int, work: float) -> float:
        return self.steps * (4e-5 * depth + problems * work / 4e10)

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: device) -> list[Result]:
        from ncpipe.ufm.minimiser import Minimiser
        from ncpipe.ufm.objective import Objective
        from ncpipe.ufm.result import Recorder

        objective = Objective.of(problems, device=device)
        draws = np.stack([draw(sum(objective.layout.sizes), seed, 0) for seed in seeds])
        starts = objective.start(torch.from_numpy(draws).to(device) * self.init_scale)
        recorders = [Recorder(problem) for problem in problems]

        def record(iteration: int, points: Tensor, values: Tensor, gradients: Tensor) -> None:
            rows = zip(points.cpu(), values.tolist(), gradients.norm(dim=1).tolist(), strict=True)
            for recorder, (vector, value, norm) in zip(recorders, rows, strict=True):
                recorder.record(iteration, Minimiser.unpack(recorder.problem, vector), value, norm)

        times = log_spaced(self.points, self.steps)
        gradient_descent(objective, starts, self.step_size, self.momentum, times, record)
        return [recorder.result(f"after {self.steps} steps") for recorder in recorders]


def gradient_descent(
    objective: Objective,
    start: Tensor,
    step_size: float,
    momentum: float,
    record_at: Sequence[int],
    record: Callable[[int, Tensor, Tensor, Tensor], None],
) -> None:
    """Gradient descent, v <- momentum v + grad f(x), x <- x - step_size v, on every problem of the batch.

    Args:
        objective: the batch, B problems with P parameters.
        start: (B, P), in the domain.
        step_size: the same for all parameters.
        momentum: of the heavy ball, in [0, 1); 0 is plain gradient descent.
        record_at: increasing numbers of steps; the last ends the run.
        record: called at each with the steps done, points (B, P), objective (B,) and its gradient (B, P).
            The tensors may be buffers.
    """
    objective.parameters.copy_(start)
    size = step_size * objective.step_scale
    shrink, velocity = 1 - size * objective.decay, torch.zeros_like(start)

    def step() -> None:
        objective.loss_gradient()
        if momentum:
            velocity.mul_(momentum).add_(objective.gradient).addcmul_(objective.decay, objective.parameters)
            objective.parameters.sub_(velocity, alpha=size)
        else:
            objective.parameters.mul_(shrink).add_(objective.gradient, alpha=-size)
        objective.retract()

    repeat, done = _repeater(step, start.device), 0
    for target in record_at:
        with torch.inference_mode():
            repeat(target - done)
        done = target
        points = objective.points(objective.parameters)
        kept = objective.parameters.clone()
        value, gradient = objective.evaluate(points)
        record(done, points, value, gradient)
        objective.parameters.copy_(kept)


def _repeater(step: Callable[[], None], device: device) -> Callable[[int], None]:
    """Repeat a step on fixed buffers; on a GPU as a CUDA graph of many, since launching costs more than computing."""

    def plainly(times: int) -> None:
        for _ in range(times):
            step()

    if device.type != "cuda":
        return plainly
    graphs: list[Any] = []

    def replayed(times: int) -> None:
        if not graphs and times > 2 * GRAPH_STEPS:
            plainly(3)  # libraries set themselves up at first use, which cannot be captured
            times -= 3
            torch.cuda.synchronize(device)
            graphs.append(torch.cuda.CUDAGraph())
            with torch.cuda.graph(graphs[0]):
                plainly(GRAPH_STEPS)
        for _ in range(times // GRAPH_STEPS if graphs else 0):
            graphs[0].replay()
        plainly(times % GRAPH_STEPS if graphs else times)

    return replayed
