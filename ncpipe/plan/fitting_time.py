"""Time of a batch of UFM fits, counted without torch: the workflow asks for it while it is read."""

from __future__ import annotations

from ncpipe.ufm.settings import UfmSpec

STARTUP = 2.5
"""Seconds of interpreter and library start per job, on a usual CPU."""


def fitting_time(specs: list[UfmSpec]) -> float:
    """Seconds of a batch, roughly: a cost per step, and 4e10 multiplications a second on a usual CPU."""
    spec = specs[0]
    width = max(spec.dim) if isinstance(spec.dim, tuple) else spec.dim
    work = 6 * spec.depth * width * spec.num_samples * (spec.classes + width * (spec.depth - 1))
    return STARTUP + spec.solver.seconds(len(specs), spec.depth, work)
