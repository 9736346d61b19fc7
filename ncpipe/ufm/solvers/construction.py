"""The closed form's own minimiser as a solver."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ncpipe.ufm.solvers._base import BaseSolver

if TYPE_CHECKING:
    import torch

    from ncpipe.ufm.problem import Problem
    from ncpipe.ufm.result import Result


class Solver(BaseSolver):
    """The minimiser that the closed form gives, ``Problem.construct()``."""

    name: Literal["construction"]

    def run(self, problems: Sequence[Problem], seeds: Sequence[int], device: torch.device) -> list[Result]:
        from ncpipe.ufm.result import Recorder

        results = []
        for problem in problems:
            recorder, point = Recorder(problem), problem.construct()
            recorder.record(0, point, *point.evaluate())
            results.append(recorder.result("constructed"))
        return results
