"""Time of a batch of UFM fits, counted without torch: the workflow asks for it while it is read."""

from __future__ import annotations

from ncpipe.ufm.settings import GradientDescent, Lbfgs, UfmSpec

STARTUP = 2.5
"""Seconds of interpreter and library start per job, on a usual CPU."""


def fitting_time(specs: list[UfmSpec]) -> float:
    """Seconds of a batch, roughly: a cost per step, and 4e10 multiplications a second on a usual CPU."""
    spec = specs[0]
    width = max(spec.dim) if isinstance(spec.dim, tuple) else spec.dim
    work = 6 * spec.depth * width * spec.num_samples * (spec.classes + width * (spec.depth - 1))
    match spec.solver:
        case GradientDescent(steps=steps):
            return STARTUP + steps * (4e-5 * spec.depth + len(specs) * work / 4e10)
        case Lbfgs(starts=starts):
            return STARTUP + 1500 * (1e-3 * spec.depth + len(specs) * starts * work / 4e10)
    return STARTUP + len(specs) * 0.1
