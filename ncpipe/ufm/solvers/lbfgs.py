"""L-BFGS on a batch of UFM problems of one layout, in float64.

On unit spheres it is Riemannian: see ``ncpipe.ufm.objective.UnitSpheres``. Where features are non-negative every step
is projected, and directions are those of the features off their bounds: see ``NonNegative``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from ncpipe.system.lazy import Tensor, torch
from ncpipe.ufm.products import batched_product
from ncpipe.ufm.solvers._starts import Ends, FromStarts, Rows

if TYPE_CHECKING:
    from ncpipe.ufm.gauss_newton import Preconditioned
    from ncpipe.ufm.objective import Differentiable, Objective

MEMORY = 10
"""Pairs that L-BFGS keeps."""
ARMIJO, WOLFE = 1e-4, 0.9
"""Sufficient decrease and curvature constants of the line search."""
ROUNDING = 4 * sys.float_info.epsilon
"""Relative change of an objective below which decrease is judged by slopes."""
KINK_ROUNDS, KINK_ITERATIONS, KINK_DECREASE = 100, 40, 1e-5
"""L-BFGS gives up where so many rounds, of one trial step each, made fewer iterations and less of a relative
decrease: at kinks of the ReLU most trials fail, and what is left crawls for thousands of iterations."""
STALL_ITERATIONS, STALL_DECREASE = 50, 1e-13
"""It also gives up where the objective fell by less, relative, over so many iterations."""
STEP_TRIALS = 40
"""Steps that a line search tries."""
PAIRS_BUDGET = 2**28
"""Numbers that the pairs may hold for one problem: large ones keep fewer pairs."""


class Solver(FromStarts):
    """L-BFGS from several starts, the best kept.

    Starts are N(0, init_scale^2) in balanced variables, where all penalties of weights and features are equal; on
    unit spheres they are uniform. Zero, in deep models a local minimum with a basin that no such start is in, is
    tried as well, and not counted as a start.
    ``tied`` optimises one feature vector per class (set of tags) in place of one per sample. The optimum is the same:
    for given weights the objective is a sum over samples, so moving all samples of a class to the best of them
    never raises it.
    """

    label = "L-BFGS"

    name: Literal["lbfgs"]
    tied: bool = Field(False, description="One feature vector per class in place of one per sample.")

    def seconds(self, problems: int, depth: int, work: float) -> float:
        return 1500 * (1e-3 * depth + problems * self.starts * work / 4e10)

    def descend(self, objective: Objective, start: Tensor) -> Ends:
        pairs = min(MEMORY, max(3, PAIRS_BUDGET // (2 * start.shape[1])))
        return lbfgs(objective, start, self.max_iterations, pairs)


class Memory:
    """The last m pairs of steps s and gradient changes y of every problem, and their products.

    Directions come from the compact form of Byrd, Nocedal & Schnabel (1994): with S^T Y = R + (strictly lower part),
    R upper triangular in the order of age, D its diagonal and gamma = s^T y / y^T y of the newest pair,

        H g = gamma g + S R^-T [(D + gamma Y^T Y) R^-1 S^T g - gamma Y^T g] - gamma Y R^-1 S^T g ,

    so that an iteration reads the pairs twice: in their products with the new gradient, which give those with its
    change by subtraction (its change is no less than a tenth of its slope, so that few digits cancel), and in the
    direction. A pair without curvature is left out.
    """

    def __init__(self, most: int, like: Tensor, alone: bool = False) -> None:
        """For vectors ``like`` (B, P) float64. ``alone``: B = 1, and no batch has to give the same bits, so that the
        pairs are read once, in float32: what an iteration takes is a quarter, and directions change by 1e-7 or so."""
        batch, size = like.shape
        self.product: Callable[[Tensor, Tensor], Tensor] = torch.bmm if alone else batched_product
        dtype = torch.float32 if alone else torch.float64
        self.most, self.rows = most, torch.arange(batch, device=like.device)
        self.pairs = like.new_zeros(batch, 2 * most, size, dtype=dtype)
        """s in the first m rows, y in the others."""
        self.products = like.new_zeros(batch, 2 * most)
        """Inner products of the pairs with the gradient."""
        self.sy, self.yy = like.new_zeros(batch, most, most), like.new_zeros(batch, most, most)
        """``sy`` is current where s is no younger than y."""
        self.valid = torch.zeros(batch, most, dtype=torch.bool, device=like.device)
        self.newest = torch.full((batch,), most - 1, device=like.device)
        self.scale = like.new_ones(batch)

    def add(self, chosen: Tensor, step: Tensor, change: Tensor, gradient: Tensor) -> None:
        """Keep a pair of the chosen problems, which leads to their gradient."""
        m = self.most
        self.newest = torch.where(chosen, (self.newest + 1) % m, self.newest)
        rows = self.rows if bool(chosen.all()) else chosen.nonzero()[:, 0]
        slot = self.newest[rows]
        dtype = self.pairs.dtype
        self.pairs[rows, slot], self.pairs[rows, m + slot] = step[rows].to(dtype), change[rows].to(dtype)
        products = self.product(gradient[:, None].to(dtype), self.pairs.mT)[:, 0].double()
        with_change = (products - self.products)[rows]
        self.products = torch.where(chosen[:, None], products, self.products)
        curvature, size = torch.linalg.vecdot(step, change)[rows], torch.linalg.vecdot(change, change)[rows]
        self.sy[rows, :, slot] = with_change[:, :m]
        self.yy[rows, :, slot] = self.yy[rows, slot] = with_change[:, m:]
        self.sy[rows, slot, slot], self.yy[rows, slot, slot] = curvature, size
        curved = curvature > torch.finfo(torch.float64).eps * size
        self.valid[rows, slot] = curved
        self.scale[rows] = torch.where(curved, curvature / size, self.scale[rows])

    def forget(self, problems: Tensor) -> None:
        """Leave out all pairs of these problems."""
        self.valid &= ~problems[:, None]

    def direction(self, gradient: Tensor) -> Tensor:
        """-H grad, for the problems whose gradient is that of the newest pair."""
        m = self.most
        order = (self.newest[:, None] + 1 + torch.arange(m, device=gradient.device)) % m  # from the oldest
        valid, scale = self.valid.gather(1, order), self.scale[:, None]
        both = valid[:, :, None] & valid[:, None, :]
        rows = self.rows[:, None, None]
        sy, yy = (matrix[rows, order[:, :, None], order[:, None, :]] * both for matrix in (self.sy, self.yy))
        upper = sy.triu() + torch.diag_embed((~valid).double())
        with_s, with_y = (part.gather(1, order) * valid for part in self.products.split(m, dim=1))
        y_part = torch.linalg.solve_triangular(upper, with_s[:, :, None], upper=True)
        inner = sy.diagonal(dim1=1, dim2=2) * y_part[:, :, 0] + scale * ((yy * y_part.mT).sum(dim=2) - with_y)
        s_part = torch.linalg.solve_triangular(upper.mT, inner[:, :, None], upper=False)[:, :, 0]
        weights = torch.zeros_like(self.products)
        weights.scatter_(1, order, s_part * valid)
        weights.scatter_(1, order + m, -scale * y_part[:, :, 0] * valid)
        combined = self.product(weights[:, None].to(self.pairs.dtype), self.pairs)[:, 0].double()
        return combined.addcmul_(scale, gradient).neg_()

    def subset(self, indices: Tensor) -> Memory:
        kept = object.__new__(Memory)
        kept.most, kept.product, kept.rows = self.most, self.product, self.rows[: len(indices)]
        for name, value in self.tensors().items():
            setattr(kept, name, value[indices])
        return kept

    def tensors(self) -> dict[str, Tensor]:
        """All that it keeps, by name."""
        return {name: getattr(self, name) for name in ("pairs", "products", "sy", "yy", "valid", "newest", "scale")}


@dataclass
class State(Rows):
    """Where every problem of a batch stands: its point, and the line search that leaves it."""

    number: Tensor
    """Places of the problems in the whole batch, (B,)."""
    point: Tensor
    value: Tensor
    gradient: Tensor
    direction: Tensor
    step: Tensor
    low: Tensor
    high: Tensor
    """Bracket of the step."""
    trials: Tensor
    steepest: Tensor
    """The direction is minus the gradient."""
    iterations: Tensor
    reference: Tensor
    """Objective at the last look for a stall."""
    seen: Tensor
    """Iterations at the last look for a crawl at kinks, every ``KINK_ROUNDS`` rounds."""
    level: Tensor
    """Objective there."""
    stopped: Tensor

    @classmethod
    def at(cls, point: Tensor, value: Tensor, gradient: Tensor) -> State:
        zero, none = torch.zeros_like(value), torch.zeros_like(value, dtype=torch.bool)
        count = torch.zeros_like(value, dtype=torch.int64)
        step, high = unit_step(gradient), torch.full_like(value, torch.inf)
        number = torch.arange(len(value), device=value.device)
        looks = (high.clone(), count.clone(), value.clone())
        state = (-gradient, step, zero, high, count, ~none, count.clone(), *looks, none)
        return cls(number, point.clone(), value, gradient.clone(), *state)

    def search(self, chosen: Tensor, direction: Tensor, step: Tensor) -> None:
        """Begin the line search of the chosen problems."""
        self.direction = torch.where(chosen[:, None], direction, self.direction)
        self.step = torch.where(chosen, step, self.step)
        self.low = self.low.masked_fill(chosen, 0)
        self.high = self.high.masked_fill(chosen, torch.inf)
        self.trials = self.trials.masked_fill(chosen, 0)


def unit_step(gradient: Tensor) -> Tensor:
    """A step along the gradient of length at most one."""
    return (1 / gradient.norm(dim=1)).clamp(max=1.0)


def lbfgs(objective: Objective | Preconditioned, start: Tensor, max_iterations: int, pairs: int = MEMORY) -> Ends:
    """L-BFGS; every problem has its own steps and stops by itself.

    Steps are weak-Wolfe, found by bracketing and bisection (Lewis & Overton 2013); near convergence, where objectives
    agree to rounding, decrease is judged by slopes (Hager & Zhang 2005). Each round evaluates one step of every
    problem, whatever stage its line search is in. A problem stops where its gradient is within tolerance, where no
    step descends even along its gradient (the limit of rounding), or where it stalls. Stopped problems leave the
    batch once they are an eighth of it.

    Args:
        objective: the batch, B problems with P parameters, in balanced variables.
        start: (B, P), in the domain.
        max_iterations: at most so many.
        pairs: of steps and gradient changes that are kept.
    """
    value, gradient = objective.evaluate(start)
    state, memory = State.at(start, value, gradient), Memory(pairs, start)
    none = torch.zeros_like(state.stopped)
    ends = Ends(start.clone(), torch.zeros_like(state.number), none, none.clone())
    _stop(objective, state, ends, max_iterations, stuck=none)
    rounds = 0
    while not state.stopped.all():
        if 8 * state.stopped.sum() >= len(state.stopped):
            keep = (~state.stopped).nonzero()[:, 0]
            objective, state, memory = objective.subset(keep), state.subset(keep), memory.subset(keep)
        stuck = lbfgs_round(objective, state, memory)
        rounds += 1
        if rounds % KINK_ROUNDS == 0:
            stuck |= _crawls(state)
        _stop(objective, state, ends, max_iterations, stuck)
    return ends


def lbfgs_round(objective: Differentiable, state: State, memory: Memory) -> Tensor:
    """One trial step of L-BFGS on every problem: those that may take it go on from there; returns those that found no
    descent."""
    point = objective.inside(torch.addcmul(state.point, state.step[:, None], state.direction))
    value, gradient = objective.evaluate(point)
    accepted, decrease = _weak_wolfe(state, value, gradient)
    taken = accepted[:, None]
    memory.add(accepted, point - state.point, gradient - state.gradient, gradient)
    state.point = torch.where(taken, point, state.point)
    state.value = torch.where(accepted, value, state.value)
    state.gradient = torch.where(taken, gradient, state.gradient)
    state.iterations += accepted
    state.trials += 1
    state.high = torch.where(decrease, state.high, state.step)
    state.low = torch.where(decrease, state.step, state.low)
    wider = torch.where(state.high.isinf(), 2 * state.step, (state.low + state.high) / 2)
    state.step = torch.where(accepted, state.step, wider)
    direction = objective.along_bounds(state.point, state.gradient, memory.direction(state.gradient))
    state.search(accepted, direction, torch.ones_like(value))
    exhausted = ~accepted & (state.trials >= STEP_TRIALS)
    stuck = exhausted & state.steepest
    state.steepest &= ~accepted
    uphill = accepted & (torch.linalg.vecdot(state.gradient, state.direction) >= 0)
    retried = (exhausted | uphill) & ~stuck
    if retried.any():
        memory.forget(retried)
        state.search(retried, -state.gradient, unit_step(state.gradient))
        state.steepest |= retried
    return stuck


def _crawls(state: State) -> Tensor:
    """Whether the last rounds were mostly failed trials and gained little."""
    few = state.iterations - state.seen < KINK_ITERATIONS
    crawls = few & (state.level - state.value <= KINK_DECREASE * state.value)
    state.seen, state.level = state.iterations.clone(), state.value.clone()
    return crawls


def _weak_wolfe(state: State, value: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the step of each problem is acceptable, and whether it decreases the objective enough."""
    slope = torch.linalg.vecdot(state.gradient, state.direction)
    new_slope = torch.linalg.vecdot(gradient, state.direction)
    level = (value <= state.value + ROUNDING * state.value.abs()) & (new_slope <= (2 * ARMIJO - 1) * slope)
    decrease = (value <= state.value + ARMIJO * state.step * slope) | level
    return decrease & (new_slope >= WOLFE * slope) & ~state.stopped, decrease


def _stop(
    objective: Objective | Preconditioned, state: State, ends: Ends, max_iterations: int, stuck: Tensor
) -> None:
    """Write down the problems that are done."""
    # not where a search along the gradient begins anew: it stands where the last look may have been
    look = (state.iterations % STALL_ITERATIONS == 0) & (state.trials == 0) & ~state.steepest
    stuck = stuck | (look & (state.reference - state.value <= STALL_DECREASE * state.value))
    state.reference = torch.where(look, state.value, state.reference)
    within = state.gradient.norm(dim=1) <= objective.tolerance(state.value)
    finished = ~state.stopped & (within | stuck | (state.iterations >= max_iterations))
    if not finished.any():
        return
    chosen = state.number[finished]
    ends.points[chosen], ends.iterations[chosen] = state.point[finished], state.iterations[finished]
    ends.stationary[chosen], ends.exhausted[chosen] = within[finished], ~(within | stuck)[finished]
    state.stopped = state.stopped | finished
