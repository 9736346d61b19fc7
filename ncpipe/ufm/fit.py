"""Fit UFM problems: starts, solvers by name, and what a fit reports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
import torch
from torch import Tensor

from ncpipe.collapse import Trace
from ncpipe.ufm.closed_form import NoClosedForm, Optimum
from ncpipe.ufm.objective import Layout, Minimiser, Objective, balancing_scales
from ncpipe.ufm.problem import Problem
from ncpipe.ufm.solvers import gradient_descent, lbfgs

SUCCESS = 1e-8
"""A start succeeds within this much, relative, of the best known value."""
GRADIENT_TOLERANCE = 1e-7
"""L-BFGS: gradient norm over sqrt(penalty * objective), in balanced variables.

Where the curvature is at least the penalty, the objective is then within 5e-15, relative, of its minimum."""


@dataclass
class History:
    """A fit over its iterations, T of them recorded."""

    iterations: list[int] = field(default_factory=list)
    """Increasing, (T,); gradient descent starts at 0."""
    value: list[float] = field(default_factory=list)
    """Objective."""
    gradient_norm: list[float] = field(default_factory=list)
    """Euclidean norm of the objective's gradient."""

    def add(self, iteration: int, value: float, gradient_norm: float) -> None:
        self.iterations.append(iteration)
        self.value.append(value)
        self.gradient_norm.append(gradient_norm)


@dataclass(frozen=True)
class Result:
    """What a fit of one problem reached: the best of its starts."""

    problem: Problem
    minimiser: Minimiser
    """The point reached; of a diverged fit, its last finite one."""
    value: float
    """Objective reached; NaN if diverged."""
    gradient_norm: float
    """Euclidean norm of the objective's gradient; NaN if diverged."""
    optimum: Optimum | None
    """The closed form, None where there is none."""
    iterations: int
    """Of the returned start."""
    starts: int
    success_fraction: float
    """Fraction of starts within 1e-8 relative of the best known value: the closed form's or the best found."""
    history: History
    _trace: Trace = field(repr=False)

    @property
    def status(self) -> Literal["done", "diverged"]:
        return "done" if np.isfinite(self.value) else "diverged"

    @property
    def converged(self) -> bool:
        """At a local minimum to 1e-8 relative, as far as the gradient tells.

        With curvature no less than the smallest penalty, objective - minimum <= |gradient|^2 / (2 penalty).
        """
        penalty = min(self.problem.feature_decay, *self.problem.weight_decays)
        return self.gradient_norm**2 <= 2 * penalty * SUCCESS * self.value

    @property
    def gap(self) -> float | None:
        """Objective minus closed form; None where there is no closed form."""
        return None if self.optimum is None else self.value - self.optimum.value

    @property
    def features(self) -> Tensor:
        """The free features H_1, one sample a row sorted by class, (N, d)."""
        return self.minimiser.features

    @property
    def weights(self) -> list[Tensor]:
        """W_1 .. W_L: (d, d) .. (K, d)."""
        return self.minimiser.weights

    @property
    def bias(self) -> Tensor | None:
        """(K,)."""
        return self.minimiser.bias

    @property
    def dead_directions(self) -> int:
        """K (K - 1 with a bias or cross entropy) minus the numerical rank of the fit's class means."""
        return self.minimiser.dead_directions()

    def trace(self) -> Trace:
        """Statistics of every layer over the recorded iterations, split 'train'; the loss is unpenalised.

        Layers: ``features`` (L = 1); ``H1, features`` (L = 2, linear); ``H1, W1H1, features`` (L = 2, ReLU).
        L-BFGS records its end only.
        """
        return self._trace


@dataclass(frozen=True)
class GradientDescent:
    """Plain gradient descent from one N(0, init_scale^2) start.

    Every recorded iteration keeps the layers' statistics, O(K d) numbers, whatever N is.
    """

    steps: int = 100_000
    step_size: float = 0.1
    init_scale: float = 1.0
    points: int = 40
    """Iterations recorded, log-spaced with 0 and the last; fewer where they would coincide."""

    def run(self, problems: Sequence[Problem], seeds: Sequence[int]) -> list[Result]:
        """Fit problems of one layout."""
        objective = Objective.of(problems)
        starts = _starts(objective.layout, seeds, 1) * self.init_scale
        runs = [_Run(problem) for problem in problems]

        def record(iteration: int, vectors: Tensor, values: Tensor, gradients: Tensor) -> None:
            norms = gradients.norm(dim=1)
            for run, vector, value, norm in zip(runs, vectors, values.tolist(), norms.tolist(), strict=True):
                run.record(iteration, vector, value, norm)

        gradient_descent(objective, starts, self.step_size, log_spaced(self.steps, self.points), record)
        return [run.result() for run in runs]


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS from several starts, the best kept.

    Starts are N(0, init_scale^2) in balanced variables, where all penalties of weights and features are equal.
    ``tied`` optimises one feature vector per class in place of one per sample. The optimum is the same: for
    given weights the objective is a sum over samples, so moving all samples of a class to the best of them
    never raises it.
    """

    starts: int = 8
    max_iterations: int = 5000
    init_scale: float = 1.0
    tied: bool = False

    def run(self, problems: Sequence[Problem], seeds: Sequence[int]) -> list[Result]:
        """Fit problems of one layout."""
        objective = Objective.of([p for p in problems for _ in range(self.starts)], self.tied)
        scales, balanced = balancing_scales(objective.layout, objective.decays)
        vectors, iterations = lbfgs(
            Objective(objective.layout, balanced),
            _starts(objective.layout, seeds, self.starts) * self.init_scale,
            lambda value, decays: GRADIENT_TOLERANCE * (decays[:, 0] * value).sqrt(),
            self.max_iterations,
        )
        vectors = vectors / scales
        values, gradients = objective.evaluate(vectors)
        norms = gradients.norm(dim=1)
        results = []
        for number, problem in enumerate(problems):
            own = slice(number * self.starts, (number + 1) * self.starts)
            best = own.start + int(values[own].argmin())
            run = _Run(problem, self.tied)
            run.record(int(iterations[best]), vectors[best], float(values[best]), float(norms[best]))
            results.append(run.result(values[own].tolist()))
        return results


SOLVERS: dict[str, type[GradientDescent] | type[Lbfgs]] = {
    "gradient_descent": GradientDescent,
    "lbfgs": Lbfgs,
}


class _Run:
    """The recorded iterations of one problem's fit, up to its divergence."""

    def __init__(self, problem: Problem, tied: bool = False) -> None:
        self.problem, self.tied = problem, tied
        self.history, self.trace = History(), Trace(problem.layer_names)
        self.point: Minimiser | None = None
        self.diverged = False

    def record(self, iteration: int, vector: Tensor, value: float, gradient_norm: float) -> None:
        self.diverged = self.diverged or not (np.isfinite(value) and np.isfinite(gradient_norm))
        if self.diverged:
            return
        self.point = Minimiser.unpack(self.problem, vector, self.tied)
        self.history.add(iteration, value, gradient_norm)
        self.point.record(self.trace, iteration)

    def result(self, values: Sequence[float] | None = None) -> Result:
        """``values``: objectives of all starts, where there are several."""
        assert self.point is not None, "the start is finite"
        optimum = _optimum(self.problem)
        value = float("nan") if self.diverged else self.history.value[-1]
        reached = np.array([value] if values is None else values)
        best = min([*reached, *([] if optimum is None else [optimum.value])])
        successes = reached <= best + SUCCESS * abs(best)
        return Result(
            problem=self.problem,
            minimiser=self.point,
            value=value,
            gradient_norm=float("nan") if self.diverged else self.history.gradient_norm[-1],
            optimum=optimum,
            iterations=self.history.iterations[-1],
            starts=len(reached),
            success_fraction=float(successes.mean()),
            history=self.history,
            _trace=self.trace,
        )


@overload
def fit(problems: Problem, solver: str = "lbfgs", *, seed: int | Sequence[int] = 0, **options: Any) -> Result: ...


@overload
def fit(
    problems: Sequence[Problem], solver: str = "lbfgs", *, seed: int | Sequence[int] = 0, **options: Any
) -> list[Result]: ...


def fit(
    problems: Problem | Sequence[Problem],
    solver: str = "lbfgs",
    *,
    seed: int | Sequence[int] = 0,
    **options: Any,
) -> Result | list[Result]:
    """Minimise one problem, or many in batches of equal shape.

    A fit depends on its problem and seed alone, bit for bit: not on what else is in the batch, nor on the
    number of threads (it runs on one).

    Args:
        problems: one, or a list; penalties may differ within a batch, other shapes make batches of their own.
        solver: ``"lbfgs"`` (options ``starts=8, max_iterations=5000, init_scale=1.0, tied=False``) or
            ``"gradient_descent"`` (options ``steps=100_000, step_size=0.1, init_scale=1.0, points=40``).
        seed: of the random starts; one for all problems, or one each.

    Returns:
        A ``Result``, or one per problem in their order.

    Raises:
        ValueError: unknown solver, option or option value, or not one seed per problem.
    """
    chosen = _solver(solver, options)
    listed = [problems] if isinstance(problems, Problem) else list(problems)
    seeds = list(seed) if isinstance(seed, Sequence) else [seed] * len(listed)
    if len(seeds) != len(listed):
        raise ValueError(f"seed: got {len(seeds)} for {len(listed)} problems; needs one number, or one each")
    groups: dict[Layout, list[int]] = {}
    for number, problem in enumerate(listed):
        groups.setdefault(Layout.of(problem), []).append(number)
    results: dict[int, Result] = {}
    with _one_thread():
        for members in groups.values():
            fitted = chosen.run([listed[i] for i in members], [seeds[i] for i in members])
            results.update(zip(members, fitted, strict=True))
    return results[0] if isinstance(problems, Problem) else [results[i] for i in range(len(listed))]


def log_spaced(steps: int, points: int) -> list[int]:
    """0, ``steps`` and whole numbers log-spaced between, at most ``points`` in all."""
    return [0, *np.unique(np.geomspace(steps, 1, points - 1).round().astype(int)).tolist()]


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads would share out a sum by the batch's size, and lose time on problems this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _solver(name: str, options: dict[str, Any]) -> GradientDescent | Lbfgs:
    if name not in SOLVERS:
        raise ValueError(f"solver: got {name!r}; needs one of {', '.join(SOLVERS)}")
    known = SOLVERS[name].__dataclass_fields__
    for option, value in options.items():
        if option not in known:
            raise ValueError(f"solver {name!r} has no option {option!r}; its options: {', '.join(known)}")
        least = 2 if option == "points" else 1
        if option in ("steps", "points", "starts", "max_iterations"):
            if not isinstance(value, int) or value < least:
                raise ValueError(f"{option}: got {value!r}; needs an integer, at least {least}")
        elif option != "tied" and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{option}: got {value!r}; needs a finite number > 0")
    return SOLVERS[name](**options)


def _starts(layout: Layout, seeds: Sequence[int], starts: int) -> Tensor:
    """Standard normal parameter vectors, (problems * starts, P); each from the generator of (seed, number)."""
    size = sum(layout.sizes)
    draws = [np.random.default_rng([s, i]).standard_normal(size) for s in seeds for i in range(starts)]
    return torch.from_numpy(np.stack(draws))


def _optimum(problem: Problem) -> Optimum | None:
    try:
        return problem.optimum()
    except NoClosedForm:
        return None
