"""Solvers of a batch of UFM problems of one shape: plain gradient descent, and L-BFGS. All float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ncpipe.ufm.objective import Objective

MEMORY = 20
"""Pairs that L-BFGS keeps."""
ARMIJO, WOLFE = 1e-4, 0.9
"""Sufficient decrease and curvature constants of the line search."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
"""Relative change of an objective below which decrease is judged by slopes."""
STALL_ITERATIONS, STALL_DECREASE = 50, 1e-13
"""L-BFGS gives up on a problem whose objective fell by less, relative, over so many iterations: at kinks of the
ReLU its gradient never vanishes."""
STEP_TRIALS = 40
"""Steps that a line search tries."""


def gradient_descent(
    objective: Objective,
    start: Tensor,
    step_size: float,
    record_at: Sequence[int],
    record: Callable[[int, Tensor, Tensor, Tensor], None],
) -> None:
    """Plain gradient descent, x <- x - step_size * grad f(x), on every problem of the batch.

    Args:
        objective: the batch, B problems with P parameters.
        start: (B, P).
        step_size: the same for all parameters.
        record_at: increasing numbers of steps; the last ends the run.
        record: called at each with the steps done, parameters (B, P), objective (B,) and its gradient (B, P).
            The tensors are buffers.
    """
    objective.parameters.copy_(start)
    shrink = 1 - step_size * objective.decay
    done = 0
    for target in record_at:
        with torch.inference_mode():
            for _ in range(target - done):
                objective.loss_gradient()
                objective.parameters.mul_(shrink).add_(objective.gradient, alpha=-step_size)
        done = target
        value, gradient = objective.evaluate(objective.parameters)
        record(done, objective.parameters, value, gradient)


@dataclass
class _Search:
    """Where a batch of line searches or minimisations stands: points, objectives, gradients."""

    point: Tensor
    value: Tensor
    gradient: Tensor

    def take(self, other: _Search, chosen: Tensor) -> None:
        """Replace the chosen problems' entries."""
        self.point = torch.where(chosen[:, None], other.point, self.point)
        self.value = torch.where(chosen, other.value, self.value)
        self.gradient = torch.where(chosen[:, None], other.gradient, self.gradient)

    def subset(self, indices: Tensor) -> _Search:
        return _Search(self.point[indices], self.value[indices], self.gradient[indices])


class _Memory:
    """The last pairs of steps and gradient changes of every problem; a pair without curvature counts as none."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, Tensor]] = []
        self.scale: Tensor | None = None

    def add(self, step: Tensor, change: Tensor) -> None:
        curvature, size = torch.linalg.vecdot(step, change), change.square().sum(dim=1)
        valid = curvature > torch.finfo(torch.float64).eps * size
        scale = torch.where(valid, curvature / size, 0.0 if self.scale is None else self.scale)
        self.scale = torch.where(scale > 0, scale, 1.0)
        self.pairs.append((step, change, torch.where(valid, 1 / curvature, 0.0)))
        del self.pairs[:-MEMORY]

    def forget(self, problems: Tensor) -> None:
        """Make the next direction of these problems the steepest descent."""
        self.pairs = [(s, y, torch.where(problems, 0.0, rho)) for s, y, rho in self.pairs]

    def direction(self, gradient: Tensor) -> Tensor:
        """-H grad by the two-loop recursion (Nocedal & Wright, algorithm 7.4)."""
        if self.scale is None:
            return -gradient
        q, weights = gradient.clone(), []
        for step, change, rho in reversed(self.pairs):
            weights.append(rho * torch.linalg.vecdot(step, q))
            q.addcmul_(weights[-1][:, None], change, value=-1)
        q.mul_(self.scale[:, None])
        for (step, change, rho), weight in zip(self.pairs, reversed(weights), strict=True):
            q.addcmul_((weight - rho * torch.linalg.vecdot(change, q))[:, None], step)
        return q.neg_()

    def subset(self, indices: Tensor) -> _Memory:
        kept = _Memory()
        kept.pairs = [(s[indices], y[indices], rho[indices]) for s, y, rho in self.pairs]
        kept.scale = None if self.scale is None else self.scale[indices]
        return kept


def _line_search(objective: Objective, at: _Search, direction: Tensor, step: Tensor) -> tuple[_Search, Tensor]:
    """Weak-Wolfe steps by bracketing and bisection (Lewis & Overton 2013), every problem at its own pace.

    Near convergence, where objectives agree to rounding, decrease is judged by slopes (Hager & Zhang 2005).

    Returns:
        The accepted points, and which problems have one; the others stay where they are.
    """
    slope = torch.linalg.vecdot(at.gradient, direction)
    low, high = torch.zeros_like(step), torch.full_like(step, torch.inf)
    found = _Search(at.point, at.value, at.gradient)
    pending = slope < 0
    accepted = torch.zeros_like(pending)
    for _ in range(STEP_TRIALS):
        point = torch.addcmul(at.point, step[:, None], direction)
        value, gradient = objective.evaluate(point)
        new_slope = torch.linalg.vecdot(gradient, direction)
        level = (value <= at.value + ROUNDING * at.value.abs()) & (new_slope <= (2 * ARMIJO - 1) * slope)
        decrease = (value <= at.value + ARMIJO * step * slope) | level
        good = pending & decrease & (new_slope >= WOLFE * slope)
        found.take(_Search(point, value, gradient), good)
        accepted, pending = accepted | good, pending & ~good
        if not pending.any():
            break
        high = torch.where(decrease, high, step)
        low = torch.where(decrease, step, low)
        step = torch.where(high.isinf(), 2 * step, (low + high) / 2)
    return found, accepted


def lbfgs(
    objective: Objective, start: Tensor, tolerance: Callable[[Tensor, Tensor], Tensor], max_iterations: int
) -> tuple[Tensor, Tensor]:
    """L-BFGS with 20 pairs; every problem has its own steps and stops by itself.

    A problem stops where its gradient is within tolerance, where no step descends even along its gradient
    (the limit of rounding), or where it stalls. Stopped problems leave the batch once they are half of it.

    Args:
        objective: the batch, B problems with P parameters.
        start: (B, P).
        tolerance: gradient norms to reach (b,), given objectives (b,) and the problems' penalties (b, F).
        max_iterations: at most so many.

    Returns:
        Points (B, P) and iterations (B,).
    """
    points, index = start.clone(), torch.arange(len(start))
    iterations = torch.zeros_like(index)
    value, gradient = objective.evaluate(start)
    at, memory = _Search(start, value, gradient.clone()), _Memory()
    stuck, stopped = (torch.zeros_like(index, dtype=torch.bool) for _ in range(2))
    reference = torch.full_like(value, torch.inf)
    for iteration in range(max_iterations + 1):
        if iteration % STALL_ITERATIONS == 0:
            stuck |= reference - at.value <= STALL_DECREASE * at.value
            reference = at.value
        within = at.gradient.norm(dim=1) <= tolerance(at.value, objective.decays)
        finished = ~stopped & (within | stuck | (iteration == max_iterations))
        points[index[finished]], iterations[index[finished]] = at.point[finished], iteration
        stopped |= finished
        if stopped.all():
            break
        if 2 * stopped.sum() >= len(stopped):
            keep = (~stopped).nonzero()[:, 0]
            index, stopped, objective = index[keep], stopped[keep], objective.subset(keep)
            at, memory, reference = at.subset(keep), memory.subset(keep), reference[keep]
        at, stuck = _iterate(objective, at, memory, stopped)
    return points, iterations


def _iterate(objective: Objective, at: _Search, memory: _Memory, stopped: Tensor) -> tuple[_Search, Tensor]:
    """One L-BFGS step of every problem that has not stopped; also, which problems found no descent."""
    unit = (1 / at.gradient.norm(dim=1)).clamp(max=1.0)
    step = unit if memory.scale is None else torch.ones_like(unit)
    direction = memory.direction(at.gradient).masked_fill_(stopped[:, None], 0)
    found, accepted = _line_search(objective, at, direction, step)
    failed = ~accepted & ~stopped
    if failed.any():
        memory.forget(failed)
        steepest = (-at.gradient).masked_fill_(~failed[:, None], 0)
        retried, again = _line_search(objective, at, steepest, unit)
        found.take(retried, again)
        failed &= ~again
    memory.add(found.point - at.point, found.gradient - at.gradient)
    return found, failed
