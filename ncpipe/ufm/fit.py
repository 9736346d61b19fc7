"""Fit UFM problems: starts, solvers by name, and batches of equal shape."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, overload

import numpy as np
import torch

from ncpipe.ufm.layout import Layout
from ncpipe.ufm.problem import Problem
from ncpipe.ufm.products import threads_of_torch
from ncpipe.ufm.result import Result
from ncpipe.ufm.solvers import SOLVERS, BaseSolver
from ncpipe.ufm.solvers._base import chunk

LARGE = 2**20
"""Parameters from which on a problem has all threads to itself."""


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
    Only problems of over a million parameters are solved one by one on all threads, on whose number they depend.

    Args:
        problems: one, or a list; penalties may differ within a batch, other shapes make batches of their own.
        solver: ``"lbfgs"`` (options ``starts=8, max_iterations=5000, init_scale=1.0, tied=False``),
            ``"newton"`` (``starts=8, max_iterations=400, init_scale=1.0``; squared errors),
            ``"gradient_descent"`` (``steps=100_000, step_size=0.1, init_scale=1.0, points=40, momentum=0.0``),
            ``"gradient_flow"`` (``steps, step_size, init_scale, points`` as above), ``"construction"``, or
            ``"landscape"`` (``starts=48, tied=True``). The first and third are Riemannian with a temperature.
        seed: of the random starts; one for all problems, or one each.
        device: ``"cpu"``, or a GPU, which repeats bit for bit on one machine at best.
        report: called with the problems done and their number as they come in.

    Returns:
        A ``Result``, or one per problem in their order.

    Raises:
        ValueError: unknown solver, option or value, not one seed per problem, or a problem the solver is not for.
        NoClosedForm: ``construction`` of a problem without closed form.
    """
    if solver not in SOLVERS:
        raise ValueError(f"solver: got {solver!r}; needs one of {', '.join(SOLVERS)}")
    chosen, place = SOLVERS[solver].with_options(options), _device(device)
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


def _chunks(
    listed: list[Problem], solver: BaseSolver, device: torch.device
) -> tuple[list[list[int]], list[list[int]]]:
    """Numbers of the problems that are solved together: of small ones, and of those that get all threads."""
    groups: dict[Layout, list[int]] = {}
    for number, problem in enumerate(listed):
        groups.setdefault(Layout.of(problem), []).append(number)
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    large: list[list[int]] = []
    small: list[list[int]] = []
    for members in groups.values():
        row = sum(Layout.of(listed[members[0]], solver.one_a_class).sizes)
        most = max(1, chunk(device) // (row * (getattr(solver, "starts", 0) + 1)))  # zero may be tried as well
        # as many for all threads, at least one problem each
        parts = -(-len(members) // most)
        parts = min(len(members), -(-parts // threads) * threads)
        chunks = [members[first::parts] for first in range(parts)]  # neighbours of a sweep take as long: dealt out
        (large if row > LARGE or device.type != "cpu" else small).extend(chunks)
    return small, large


def _solved(
    solve: Callable[[list[int]], list[tuple[int, Result]]], small: list[list[int]], large: list[list[int]]
) -> Iterator[list[tuple[int, Result]]]:
    """Small chunks a thread each, then the large ones one by one on all threads."""
    threads = torch.get_num_threads()
    with threads_of_torch(1):
        if threads == 1 or len(small) < 2:
            yield from map(solve, small)
        else:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                yield from pool.map(solve, small)
    yield from map(solve, large)


def _device(name: str | torch.device) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: got {name!r}; needs 'cpu', 'cuda' or 'cuda:N'") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: got {name!r}, but torch finds no GPU; needs 'cpu'")
    return device
