"""Fit UFM problems: starts, solvers by name, and batches of equal shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor

from ncpipe.ufm.gradient_flow import aligned_flow
from ncpipe.ufm.layout import Layout, balancing_scales
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.objective import Objective
from ncpipe.ufm.problem import Problem
from ncpipe.ufm.products import ALWAYS_ALONE
from ncpipe.ufm.result import Recorder, Result
from ncpipe.ufm.solvers import MEMORY, Ends, gradient_descent, lbfgs

CHUNK = ALWAYS_ALONE
"""Parameters of the problems that one thread solves at once."""
GPU_CHUNK = 2**26
LARGE = 2**20
"""Parameters from which on a problem has all threads to itself."""
PAIRS_BUDGET = 2**28
"""Numbers that the pairs of L-BFGS may hold for one problem: large ones keep fewer pairs."""


class Solver(Protocol):
    """Fits problems of one layout together; nothing of a fit depends on the others."""

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]: ...


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent from one N(0, init_scale^2) start, on unit spheres from a uniform one.

    Every recorded iteration keeps the layers' statistics, O(K d) numbers, whatever N is.
    """

    steps: int = 100_000
    step_size: float = 0.1
    init_scale: float = 1.0
    points: int = 40
    """Iterations recorded, log-spaced with 0 and the last; fewer where they would coincide."""
    momentum: float = 0.0

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]:
        objective = Objective.of(problems, device=device)
        draws = np.stack([_draw(sum(objective.layout.sizes), seed, 0) for seed in seeds])
        starts = objective.start(torch.from_numpy(draws).to(device) * self.init_scale)
        recorders = [Recorder(problem) for problem in problems]

        def record(iteration: int, points: Tensor, values: Tensor, gradients: Tensor) -> None:
            rows = zip(points.cpu(), values.tolist(), gradients.norm(dim=1).tolist(), strict=True)
            for recorder, (vector, value, norm) in zip(recorders, rows, strict=True):
                recorder.record(iteration, Minimiser.unpack(recorder.problem, vector), value, norm)

        times = log_spaced(self.steps, self.points)
        gradient_descent(objective, starts, self.step_size, self.momentum, times, record)
        return [recorder.result(f"after {self.steps} steps") for recorder in recorders]


@dataclass(frozen=True)
class Lbfgs:
    """L-BFGS from several starts, the best kept.

    Starts are N(0, init_scale^2) in balanced variables, where all penalties of weights and features are equal; on
    unit spheres they are uniform. Zero, in deep models a local minimum with a basin that no such start is in, is
    tried as well, and not counted as a start.
    ``tied`` optimises one feature vector per class (set of tags) in place of one per sample. The optimum is the same:
    for given weights the objective is a sum over samples, so moving all samples of a class to the best of them
    never raises it.
    """

    starts: int = 8
    max_iterations: int = 5000
    init_scale: float = 1.0
    tied: bool = False

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]:
        layout = Layout.of(problems[0], self.tied)
        size, tries = sum(layout.sizes), self.starts + (len(problems[0].decays) > 1)
        rows = [(p, s, number) for p, s in zip(problems, seeds, strict=True) for number in range(tries)]
        at_once = max(1, _chunk(device) // size)
        parts = [self._minimise(rows[i : i + at_once], layout, device) for i in range(0, len(rows), at_once)]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        vectors, values, norms, iterations, stationary, exhausted = columns
        results = []
        for number, problem in enumerate(problems):
            own = slice(number * tries, (number + 1) * tries)
            finite = values[own].nan_to_num(nan=torch.inf)
            best = own.start + int(finite.argmin())
            recorder = Recorder(problem)
            point = Minimiser.unpack(problem, vectors[best], self.tied)
            recorder.record(int(iterations[best]), point, float(values[best]), float(norms[best]))
            reason = "gradient within tolerance" if stationary[best] else "stalled"
            stop = f"{reason} after {iterations[best]} iterations"
            limit = f"not converged within max_iterations={self.max_iterations}"
            if best - own.start == self.starts:
                stop = "the zero solution, better than all starts" + f", {limit}" * bool(exhausted[own].any())
            elif exhausted[best]:
                stop = limit
            results.append(recorder.result(stop, values[own][: self.starts].tolist()))
        return results

    def _minimise(
        self, rows: Sequence[tuple[Problem, int, int]], layout: Layout, device: torch.device
    ) -> tuple[Tensor, ...]:
        """Ends of (problem, seed, number of the start): points, objectives, gradient norms, iterations, reasons."""
        objective = Objective.of([problem for problem, _, _ in rows], self.tied, device)
        scales, balanced = balancing_scales(layout, objective.decays)
        inner = type(objective)(layout, balanced)
        size = sum(layout.sizes)
        zero = np.zeros(size)
        draws = [_draw(size, seed, number) if number < self.starts else zero for _, seed, number in rows]
        start = inner.start(torch.from_numpy(np.stack(draws)).to(device) * self.init_scale)
        pairs = min(MEMORY, max(3, PAIRS_BUDGET // (2 * size)))
        ends: Ends = lbfgs(inner, start, self.max_iterations, pairs)
        vectors = objective.points(ends.points.div_(scales))
        values, gradients = objective.evaluate(vectors)
        found = (vectors, values, gradients.norm(dim=1), ends.iterations, ends.stationary, ends.exhausted)
        return tuple(part.cpu() for part in found)


@dataclass(frozen=True)
class GradientFlow:
    """Exact gradient flow from a start aligned with the targets; see ``ncpipe.ufm.gradient_flow``.

    Iteration i stands for the time i * step_size, so that it is comparable with gradient descent.
    """

    steps: int = 100_000
    step_size: float = 0.1
    init_scale: float = 1.0
    points: int = 40

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]:
        iterations = log_spaced(self.steps, self.points)
        results = []
        for problem in problems:
            recorder = Recorder(problem)
            path = aligned_flow(problem, [i * self.step_size for i in iterations], self.init_scale)
            for iteration, point in zip(iterations, path, strict=True):
                recorder.record(iteration, point, *_evaluate(point))
            results.append(recorder.result(f"at time {self.steps * self.step_size:g}"))
        return results


@dataclass(frozen=True)
class Construction:
    """The closed form's own minimiser, ``Problem.construct()``."""

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]:
        results = []
        for problem in problems:
            recorder, point = Recorder(problem), problem.construct()
            recorder.record(0, point, *_evaluate(point))
            results.append(recorder.result("constructed"))
        return results


SOLVERS: dict[str, type[GradientDescent] | type[Lbfgs] | type[GradientFlow] | type[Construction]] = {
    "lbfgs": Lbfgs,
    "gradient_descent": GradientDescent,
    "gradient_flow": GradientFlow,
    "construction": Construction,
}


@overload
def fit(
    problems: Problem,
    solver: str = "lbfgs",
    *,
    seed: int | Sequence[int] = 0,
    device: str | torch.device = "cpu",
    report: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Result: ...


@overload
def fit(
    problems: Sequence[Problem],
    solver: str = "lbfgs",
    *,
    seed: int | Sequence[int] = 0,
    device: str | torch.device = "cpu",
    report: Callable[[int, int], None] | None = None,
    **options: Any,
) -> list[Result]: ...


def fit(
    problems: Problem | Sequence[Problem],
    solver: str = "lbfgs",
    *,
    seed: int | Sequence[int] = 0,
    device: str | torch.device = "cpu",
    report: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Result | list[Result]:
    """Minimise one problem, or many in batches of equal shape, in float64.

    On the CPU a fit depends on its problem and seed alone: not on the number of threads, which share out the
    problems, nor on what else is in the batch; bit for bit on one kind of processor if the environment has
    ``MKL_CBWR=AUTO,STRICT`` before the first matrix product (the ``ncpipe`` command sees to it), else to rounding.
    Problems of over a million parameters are the exception: they are solved one by one on all threads, and their bits
    depend on the number of these.

    Args:
        problems: one, or a list; penalties may differ within a batch, other shapes make batches of their own.
        solver: ``"lbfgs"`` (options ``starts=8, max_iterations=5000, init_scale=1.0, tied=False``),
            ``"gradient_descent"`` (``steps=100_000, step_size=0.1, init_scale=1.0, points=40, momentum=0.0``),
            ``"gradient_flow"`` (``steps, step_size, init_scale, points`` as above), or ``"construction"``. The first
            two are Riemannian for problems with a temperature.
        seed: of the random starts; one for all problems, or one each.
        device: ``"cpu"``, or a GPU, which repeats bit for bit on one machine at best.
        report: called with the problems done and their number as they come in.

    Returns:
        A ``Result``, or one per problem in their order.

    Raises:
        ValueError: unknown solver, option or option value, or not one seed per problem; a problem that
            ``gradient_flow`` does not cover.
        NoClosedForm: ``construction`` of a problem without closed form.
    """
    chosen, place = _solver(solver, options), _device(device)
    listed, seeds = _checked(problems, seed)
    small, large = _chunks(listed, chosen, place)
    results: dict[int, Result] = {}

    def solve(members: list[int]) -> list[tuple[int, Result]]:
        fitted = chosen.run([listed[i] for i in members], [seeds[i] for i in members], place)
        return list(zip(members, fitted, strict=True))

    for found in _solved(solve, small, large):
        results.update(found)
        if report is not None:
            report(len(results), len(listed))
    return results[0] if isinstance(problems, Problem) else [results[i] for i in range(len(listed))]


def _checked(problems: Any, seed: Any) -> tuple[list[Problem], list[int]]:
    """Problems as a list, and a seed for each."""
    listed = [problems] if isinstance(problems, Problem) else list(problems) if isinstance(problems, Sequence) else []
    if not listed or not all(isinstance(problem, Problem) for problem in listed):
        raise ValueError(f"problems: got {type(problems).__name__}; needs a Problem, or a list of them")
    seeds = list(seed) if isinstance(seed, Sequence) else [seed] * len(listed)
    for number in seeds:
        if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < 0:
            raise ValueError(f"seed: got {number!r}; needs an integer, at least 0")
    if len(seeds) != len(listed):
        raise ValueError(f"seed: got {len(seeds)} for {len(listed)} problems; needs one number, or one each")
    return listed, seeds


def _chunks(listed: list[Problem], solver: Solver, device: torch.device) -> tuple[list[list[int]], list[list[int]]]:
    """Numbers of the problems that are solved together: of small ones, and of those that get all threads."""
    groups: dict[Layout, list[int]] = {}
    for number, problem in enumerate(listed):
        groups.setdefault(Layout.of(problem), []).append(number)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    large: list[list[int]] = []
    small: list[list[int]] = []
    for members in groups.values():
        row = sum(Layout.of(listed[members[0]], getattr(solver, "tied", False)).sizes)
        most = max(1, _chunk(device) // (row * (getattr(solver, "starts", 0) + 1)))  # zero may be tried as well
        # as many for all threads, at least one problem each
        parts = -(-len(members) // most)
        parts = min(len(members), -(-parts // threads) * threads)
        chunks = [part.tolist() for part in np.array_split(members, parts)]
        (large if row > LARGE or device.type != "cpu" else small).extend(chunks)
    return small, large


def _solved(
    solve: Callable[[list[int]], list[tuple[int, Result]]], small: list[list[int]], large: list[list[int]]
) -> Iterator[list[tuple[int, Result]]]:
    """Small chunks a thread each, then the large ones one by one on all threads."""
    threads = torch.get_num_threads()
    with _one_thread():
        if threads == 1 or len(small) < 2:
            yield from map(solve, small)
        else:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(solve, small)
    yield from map(solve, large)


def log_spaced(steps: int, points: int) -> list[int]:
    """0, ``steps`` and whole numbers log-spaced between, at most ``points`` in all."""
    return [0, *np.unique(np.geomspace(steps, 1, points - 1).round().astype(int)).tolist()]


def _chunk(device: torch.device) -> int:
    return CHUNK if device.type == "cpu" else GPU_CHUNK


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads would share out a sum by the batch's size, and lose time on problems this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: got {name!r}; needs 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {name!r}, but torch finds no GPU; needs 'cpu'")
    return device


def _solver(name: str, options: dict[str, Any]) -> Solver:
    if name not in SOLVERS:
        raise ValueError(f"solver: got {name!r}; needs one of {', '.join(SOLVERS)}")
    known = SOLVERS[name].__dataclass_fields__
    for option, value in options.items():
        if option not in known:
            has = f"its options: {', '.join(known)}" if known else "it has none"
            raise ValueError(f"solver {name!r} has no option {option!r}; {has}")
        least = 2 if option == "points" else 1
        whole, real = isinstance(value, int | np.integer), isinstance(value, int | float | np.number)
        if option == "tied":
            if not isinstance(value, bool):
                raise ValueError(f"tied: got {value!r}; needs True or False")
        elif option in ("steps", "points", "starts", "max_iterations"):
            if isinstance(value, bool) or not whole or value < least:
                raise ValueError(f"{option}: got {value!r}; needs an integer, at least {least}")
        elif option == "momentum":
            if not real or not 0 <= value < 1:
                raise ValueError(f"momentum: got {value!r}; needs a number in [0, 1)")
        elif not (real and np.isfinite(value) and value > 0):
            raise ValueError(f"{option}: got {value!r}; needs a finite number > 0")
    return SOLVERS[name](**options)


def _draw(size: int, seed: int, number: int) -> np.ndarray:
    """Standard normal parameters (P,), from the generator of (seed, number of the start)."""
    return np.random.default_rng([seed, number]).standard_normal(size)


def _evaluate(point: Minimiser) -> tuple[float, float]:
    """Objective and norm of its gradient."""
    value, gradient = Objective.of([point.problem], point.tied).evaluate(point.pack()[None])
    return float(value), float(gradient.norm())
