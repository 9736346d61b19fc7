"""The plan as a table: every unit, its state, and what the rest takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ncpipe.errors import UserError
from ncpipe.plan.limits import keep_estimates
from ncpipe.plan.units import Unit, clock, size, units
from ncpipe.study.study import NetworkRun, Study

if TYPE_CHECKING:
    from ncpipe.plan.estimates import Estimate, Estimator


def print_plan(study: Study, estimate: bool = True) -> None:
    """Print the expansion of a study; times and memory are for one job at a time on this machine.

    Raises ``UserError``, after the table, where a run needs more memory than the machine or its GPU has.
    """
    from rich.console import Console
    from rich.table import Table

    planned = list(units(study))
    missing = [unit for unit in planned if not unit.done]
    estimator, estimates = _estimated(study, missing) if estimate else (None, {})
    table = Table("stage", "id", "state", box=None)
    for heading in ("time", "memory") if estimate else ():
        table.add_column(heading, justify="right")
    for unit in planned:
        state = "[green]done[/]" if unit.done else "to do"
        table.add_row(unit.stage, unit.id, state, *(_cells(estimates.get(unit)) if estimate else ()))
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{len(planned)} units, {len(planned) - len(missing)} done, {len(missing)} to do{_total(estimates)}"
    )
    if estimator is not None:
        keep_estimates(study.layout, estimates, estimator.device.type)
        refuse_what_cannot_fit(estimates, estimator.available, estimator.device.type)


def _estimated(study: Study, missing: list[Unit]) -> tuple[Estimator, dict[Unit, Estimate]]:
    from ncpipe.plan.estimates import Estimator  # loads torch

    estimator = Estimator(study)
    estimator.calibrate(missing)
    return estimator, {unit: estimator.estimate(unit) for unit in missing}


def _cells(estimate: Estimate | None) -> tuple[str, str]:
    if estimate is None:
        return "", ""
    seconds, memory = estimate
    return "" if seconds is None else clock(seconds), "" if memory is None else size(memory)


def _total(estimates: dict[Unit, Estimate]) -> str:
    if not estimates:
        return ""
    seconds = sum(estimate.seconds or 0 for estimate in estimates.values())
    most = max((estimate.memory or 0 for estimate in estimates.values()), default=0)
    at_most = f", at most {size(most)} of memory a job" if most else ""
    return f": about {clock(seconds)} of computing, one job at a time{at_most}; divide by the jobs that run at once"


def refuse_what_cannot_fit(estimates: dict[Unit, Estimate], available: float, device: str) -> None:
    """``UserError`` with the reason and the remedy if a unit needs more memory than there is."""
    needs = {unit: estimate.memory for unit, estimate in estimates.items() if estimate.memory is not None}
    too_large = {unit: memory for unit, memory in needs.items() if memory > available}
    if not too_large:
        return
    worst = max(too_large, key=too_large.__getitem__)
    assert isinstance(worst.of, NetworkRun)
    where = "this GPU" if device == "cuda" else "this machine"
    remedies = ["lower batch_size" if worst.stage == "train" else "measure fewer layers (measure.layers)"]
    remedies += ["or the model's width"]
    if worst.of.spec.dataset.name == "imagefolder" and not worst.of.spec.dataset.stream:
        remedies += ["read the data set while training (stream: true)"]
    if device == "cuda" and worst.stage == "train":
        remedies += ["share the batches (gpus)"]
    others = f" (and {len(too_large) - 1} more)" if len(too_large) > 1 else ""
    raise UserError(
        f"{worst.stage} {worst.id}{others} needs about {size(too_large[worst])} of memory, but {where} has"
        f" {size(available)}: {', '.join(remedies)}"
    )
