"""Solvers of several random starts, of which the best end is kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from pydantic import Field

from ncpipe.settings.base import Count, Positive
from ncpipe.system.lazy import Tensor, torch
from ncpipe.ufm.solvers._base import BaseSolver, chunk, draw

if TYPE_CHECKING:
    from torch import device

    from ncpipe.ufm.layout import Layout
    from ncpipe.ufm.objective import Objective
    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result


class Rows:
    """A dataclass of tensors whose rows are the problems of a batch."""

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name."""
        return dict(vars(self))

    def subset(self, indices: Tensor) -> Self:
        """Some of the problems."""
        return type(self)(**{name: value[indices] for name, value in self.tensors().items()})


@dataclass
class Ends:
    """Where the problems of a batch stopped, and why."""

    points: Tensor
    """(B, P)."""
    iterations: Tensor
    """(B,)."""
    stationary: Tensor
    """The gradient is within tolerance, (B,)."""
    exhausted: Tensor
    """The iterations were used up, (B,)."""


class FromStarts(BaseSolver):
    """Descent from Gaussian starts in balanced variables and, in deep models, from zero; the best end is kept."""

    starts: Count = Field(8, description="Random starts; the best is kept.")
    max_iterations: Count = Field(5000, description="Most iterations of a start.")
    init_scale: Positive = Field(1.0, description="Standard deviation of the Gaussian start.")

    @property
    def iterations(self) -> int:
        return self.max_iterations

    @abstractmethod
    def descend(self, objective: Objective, start: Tensor) -> Ends:
        """Where the problems of a batch end from points (B, P); the objective is in balanced variables."""

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: device) -> list[Result]:
        from ncpipe.ufm.layout import Layout
        from ncpipe.ufm.minimiser import Minimiser
        from ncpipe.ufm.result import Recorder

        for reason in self.mistakes(problems[0], {}):
            raise ValueError(reason)
        layout = Layout.of(problems[0], self.one_a_class)
        size, tries = sum(layout.sizes), self.starts + (len(problems[0].decays) > 1)
        rows = [(p, s, number) for p, s in zip(problems, seeds, strict=True) for number in range(tries)]
        at_once = max(1, chunk(device) // size)
        parts = [self._minimise(rows[i : i + at_once], layout, device) for i in range(0, len(rows), at_once)]
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
        vectors, values, norms, iterations, stationary, exhausted = columns
        results = []
        for number, problem in enumerate(problems):
            own = slice(number * tries, (number + 1) * tries)
            finite = values[own].nan_to_num(nan=torch.inf)
            best = own.start + int(finite.argmin())
            recorder = Recorder(problem)
            point = Minimiser.unpack(problem, vectors[best], self.one_a_class)
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
        self, rows: Sequence[tuple[Problem, int, int]], layout: Layout, device: device
    ) -> tuple[Tensor, ...]:
        """Ends of (problem, seed, number of the start): points, objectives, gradient norms, iterations, reasons."""
        from ncpipe.ufm.layout import balancing_scales
        from ncpipe.ufm.objective import Objective

        objective = Objective.of([problem for problem, _, _ in rows], self.one_a_class, device)
        scales, balanced = balancing_scales(layout, objective.decays)
        inner = type(objective)(layout, balanced)
        size = sum(layout.sizes)
        zero = np.zeros(size)
        draws = [draw(size, seed, number) if number < self.starts else zero for _, seed, number in rows]
        start = inner.start(torch.from_numpy(np.stack(draws)).to(device) * self.init_scale)
        ends = self.descend(inner, start)
        vectors = objective.points(ends.points.div_(scales))
        values, gradients = objective.evaluate(vectors)
        found = (vectors, values, gradients.norm(dim=1), ends.iterations, ends.stationary, ends.exhausted)
        return tuple(part.cpu() for part in found)
