"""What a fit of one problem reached, and its record over the iterations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from torch import Tensor

from ncpipe.collapse import Trace
from ncpipe.ufm.minimiser import Minimiser
from ncpipe.ufm.objective import GRADIENT_TOLERANCE
from ncpipe.ufm.optimum import NoClosedForm, Optimum
from ncpipe.ufm.problem import Problem

SUCCESS = 1e-8
"""A start succeeds within this much, relative, of the best known value."""


@dataclass
class History:
    """A fit over its iterations, T of them recorded."""

    iterations: list[int] = field(default_factory=list)
    """Increasing, (T,); gradient descent starts at 0."""
    value: list[float] = field(default_factory=list)
    """Objective."""
    gradient_norm: list[float] = field(default_factory=list)
    """Euclidean norm of the objective's gradient."""
    more: list[dict[str, float]] = field(default_factory=list)
    """What else the solver tells of each, by name."""

    def add(self, iteration: int, value: float, gradient_norm: float, more: dict[str, float]) -> None:
        self.iterations.append(iteration)
        self.value.append(value)
        self.gradient_norm.append(gradient_norm)
        self.more.append(more)


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """What a fit of one problem reached: the best of its starts."""

    problem: Problem
    minimiser: Minimiser
    """The point reached; of a diverged fit, its last finite one."""
    value: float
    """Objective reached; NaN if diverged."""
    gradient_norm: float
    """Euclidean norm of the objective's gradient; on unit spheres the Riemannian one, with non-negative features the
    projected one. NaN if diverged."""
    optimum: Optimum | None
    """The closed form, None where there is none."""
    iterations: int
    """Iterations of the returned start."""
    starts: int
    success_fraction: float
    """Fraction of starts within 1e-8 relative of the best known value: the closed form's or the best found."""
    stop: str
    """Why the solver stopped."""
    history: History
    _trace: Trace = field(repr=False)

    def __repr__(self) -> str:
        return f"Result({self.message})"

    @property
    def status(self) -> Literal["done", "diverged"]:
        return "done" if np.isfinite(self.value) else "diverged"

    @property
    def converged(self) -> bool:
        """At a local minimum to 1e-8 relative, as far as the gradient tells.

        With curvature no less than the smallest penalty, objective - minimum <= |gradient|^2 / (2 penalty). Without
        penalties, the gradient is within 1e-6 of the objective where features and weight rows curve alike.
        """
        if not self.problem.decays:
            return self.gradient_norm * self.problem.num_samples**0.5 <= 10 * GRADIENT_TOLERANCE * self.value
        return self.gradient_norm**2 <= 2 * min(self.problem.decays) * SUCCESS * self.value

    @property
    def gap(self) -> float | None:
        """Objective minus closed form; None where there is no closed form."""
        return None if self.optimum is None else self.value - self.optimum.value

    @property
    def missed(self) -> bool:
        """The fit ended more than 1e-8, relative, above a closed form, or diverged."""
        if self.optimum is None or self.gap is None:
            return self.status == "diverged"
        return not self.gap <= SUCCESS * self.optimum.value

    @property
    def message(self) -> str:
        """One line: what was reached, of what, and why it stopped."""
        if self.status == "diverged":
            return f"diverged: {self.stop}"
        count = self.dead_directions
        dead = f", {count} dead direction{'s' * (count > 1)}" if count else ""
        tail = f"{self.success_fraction:.0%} of {self.starts} starts; {self.stop}" if self.starts > 1 else self.stop
        if self.optimum is None or self.gap is None:
            return f"objective {self.value:.10g}, no closed form to compare with{dead}; {tail}"
        relative = self.gap / self.optimum.value if self.optimum.value else 0.0
        if self.missed:
            return (
                f"missed the optimum {self.optimum.value:.10g} by {self.gap:.2g} ({relative:.1g} of it){dead}; "
                + tail
            )
        if relative < -SUCCESS:
            return f"objective {self.value:.10g}, below the value of theory by {-self.gap:.2g}{dead}; {tail}"
        return f"reached the optimum {self.optimum.value:.10g} to {abs(self.gap):.1g}{dead}; {tail}"

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
        """K (K - 1 with a bias, a frozen classifier or a loss of margins) minus the numerical rank of the fit."""
        return self.minimiser.dead_directions()

    def trace(self) -> Trace:
        """Statistics of every layer over the recorded iterations, split 'train', and the weights that read them; the
        loss is unpenalised.

        Layers: ``features`` (L = 1); ``H1, features`` (L = 2, linear); ``H1, W1H1, features`` (L = 2, ReLU).
        L-BFGS records its end only.
        """
        return self._trace


class Recorder:
    """The recorded iterations of one problem's fit, up to its divergence."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.history, self.trace = History(), Trace(problem.layer_names)
        self.point: Minimiser | None = None
        self.diverged_by: int | None = None

    def record(self, iteration: int, point: Minimiser, value: float, gradient_norm: float, **more: float) -> None:
        """Keep a point, unless it or one before it is not finite."""
        if self.diverged_by is None and not (np.isfinite(value) and np.isfinite(gradient_norm)):
            self.diverged_by = iteration
        if self.diverged_by is not None:
            return
        self.point = point
        self.history.add(iteration, value, gradient_norm, more)
        self.point.record(self.trace, iteration)

    def result(self, stop: str, values: Sequence[float] | None = None) -> Result:
        """``values``: objectives of all starts, where there are several."""
        if self.point is None:
            raise ValueError("init_scale: the objective is not finite at the start; needs a smaller one")
        optimum, diverged = _optimum(self.problem), self.diverged_by is not None
        value = float("nan") if diverged else self.history.value[-1]
        reached = np.array([value] if values is None else values)
        best = min([value, *reached, *([] if optimum is None else [optimum.value])])
        return Result(
            problem=self.problem,
            minimiser=self.point,
            value=value,
            gradient_norm=float("nan") if diverged else self.history.gradient_norm[-1],
            optimum=optimum,
            iterations=self.history.iterations[-1],
            starts=len(reached),
            success_fraction=float((reached <= best + SUCCESS * abs(best)).mean()),
            stop=f"not finite by iteration {self.diverged_by}; a smaller step or start helps" if diverged else stop,
            history=self.history,
            _trace=self.trace,
        )


def _optimum(problem: Problem) -> Optimum | None:
    try:
        return problem.optimum()
    except NoClosedForm:
        return None
