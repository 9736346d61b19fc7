"""Time of a batch of UFM fits, counted without torch: the workflow asks for it while it is read."""

from __future__ import annotations

from ncpipe.ufm.settings import UfmSpec

STARTUP = 2.5
"""Seconds of interpreter and library start per job, on a usual CPU."""


def fitting_time(specs: list[UfmSpec]) -> float:
    """Seconds of a batch, roughly: a cost per step, and 4e10 multiplications a second on a usual CPU."""
    model = specs[0].model
    width = max(model.widths)
    work = 6 * model.depth * width * model.num_samples * (model.classes + width * (model.depth - 1))
    return STARTUP + specs[0].solver.seconds(len(specs), model.depth, work)
