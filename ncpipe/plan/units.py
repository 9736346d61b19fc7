"""The units of work of a study, in the order of their stages, and which of them are done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial

from ncpipe.data.originals import find_originals, has_changed
from ncpipe.study.runs import ContinualRun, UfmBatch
from ncpipe.study.study import Study
from ncpipe.training.settings import NetworkRun


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
    layout, changed = study.layout, changed_data_sets(study)
    for dataset_id in study.prepared:
        done = dataset_id not in changed and (layout.dataset(dataset_id) / "dataset.json").exists()
        yield Unit("dataset", dataset_id, done)
    for run in study.networks.values():
        current = run.dataset_id not in changed
        yield Unit("train", run.id, current and (layout.run(run.id) / "spec.json").exists(), run)
        yield Unit("features", run.id, current and (layout.run(run.id) / "collapse.parquet").exists(), run)
    for learning in study.continual.values():
        done = (layout.continual(learning.network.id) / "runs.json").exists()
        current = changed.isdisjoint((learning.dataset_id, learning.network.dataset_id))
        yield Unit("continual", learning.network.id, done and current, learning)
    for batch in study.ufm_batches.values():
        done = (layout.ufm(batch.id) / "fits.parquet").exists()
        yield Unit(f"ufm x{len(batch.problems)}", batch.id, done, batch)
    if study.config.ufm.matched:
        for run in study.networks.values():
            current = run.dataset_id not in changed
            yield Unit("match", run.id, current and (layout.ufm(run.matched_id) / "fits.parquet").exists())
    for name in study.figures:
        yield Unit("figure", name, not changed and (layout.figures / f"{name}.svg").exists())


def changed_data_sets(study: Study) -> set[str]:
    """Ids of prepared data sets whose source files have changed since."""
    find, folders = cache(find_originals), tuple(study.data_path)
    return {
        dataset_id
        for dataset_id, spec in study.prepared.items()
        if has_changed(study.layout.dataset(dataset_id), partial(find, spec.name, spec.path, folders))
    }


def clock(seconds: float) -> str:
    """A time in the units that people read."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def size(amount: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{amount / 2**20:.0f} MiB" if amount < 2**30 else f"{amount / 2**30:.1f} GiB"
