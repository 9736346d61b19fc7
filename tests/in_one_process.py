"""All jobs of a study in this process: what the workflow runs, without a start of Python for each."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

from ncpipe.cli.main import app
from ncpipe.figures import save_figure
from ncpipe.study.study import Study
from ncpipe.system.files import write_text


def run_study(study: Study) -> None:
    """Compute a study up to its report, by the commands of the rules; MLflow, PNGs and PDFs are left out."""
    file = study.layout.results / "study.json"
    write_text(file, study.config.model_dump_json())
    handler = signal.getsignal(signal.SIGTERM)
    for command in commands(study, file):
        ncpipe(*command)
    signal.signal(signal.SIGTERM, handler)  # the command `dataset` has one of its own
    for name, options in study.figures.items():
        save_figure(options, study.layout.tables, study.layout.figures / name, kinds=["svg"])
    ncpipe("report", file)


def ncpipe(*words: str | Path) -> None:
    app([str(word) for word in words], standalone_mode=False)


def commands(study: Study, file: Path) -> Iterator[tuple[str | Path, ...]]:
    """Arguments of ``ncpipe``, in an order in which every job finds what it reads."""
    for dataset in study.prepared:
        yield "dataset", file, dataset
    for run in study.networks.values():
        folder = study.layout.run(run.id)
        yield "train", file, run.id
        yield "features", file, run.id
        yield "collapse", folder / "statistics.safetensors", "net", folder / "collapse.parquet"
        if study.config.ufm.matched:
            yield "match", file, run.id
    for run_id in study.continual:
        yield "continual", file, run_id
    for batch in study.ufm_batches:
        folder = study.layout.ufm(batch)
        yield "fit", file, batch
        yield "collapse", folder / "statistics.safetensors", "ufm", folder / "collapse.parquet"
    yield "tables", file
