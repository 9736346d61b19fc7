"""The units of work of a study, in the order of their stages, and which of them are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from ncpipe.study.study import ContinualRun, NetworkRun, Study, UfmBatch


@dataclass(frozen=True)
class Unit:
    """One unit of work."""

    stage: str
    id: str
    done: bool
    of: NetworkRun | ContinualRun | UfmBatch | None = field(default=None, compare=False)
    """The planned network, continual learning or UFM batch that it computes on."""


def units(study: Study) -> Iterator[Unit]:
    """All units of a study."""
    layout = study.layout
    for dataset_id in study.prepared:
        yield Unit("dataset", dataset_id, (layout.dataset(dataset_id) / "dataset.json").exists())
    for run in study.networks.values():
        yield Unit("train", run.id, (layout.run(run.id) / "spec.json").exists(), run)
        yield Unit("features", run.id, (layout.run(run.id) / "collapse.parquet").exists(), run)
    for learning in study.continual.values():
        done = (layout.continual(learning.network.id) / "runs.json").exists()
        yield Unit("continual", learning.network.id, done, learning)
    for batch in study.ufm_batches.values():
        done = (layout.ufm(batch.id) / "fits.parquet").exists()
        yield Unit(f"ufm x{len(batch.problems)}", batch.id, done, batch)
    if study.config.ufm.matched:
        for run in study.networks.values():
            yield Unit("match", run.id, (layout.ufm(run.matched_id) / "fits.parquet").exists())
    for name in study.figures:
        yield Unit("figure", name, (layout.figures / f"{name}.svg").exists())


def clock(seconds: float) -> str:
    """A time in the units that people read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(amount: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{amount / 2**20:.0f} MiB" if amount < 2**30 else f"{amount / 2**30:.1f} GiB"
