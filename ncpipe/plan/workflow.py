"""What Snakemake's own process does for a study: where its workflow starts, and what rules ask of its files."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from ncpipe.data.originals import find_originals, version
from ncpipe.job_server.start import ONE_THREAD, serve_jobs, serve_no_more
from ncpipe.plan.limits import foreseen
from ncpipe.settings.identity import canonical
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.dates import bring_back
from ncpipe.system.files import check_writable, read_json, write_json, write_text
from ncpipe.system.lock import hold
from ncpipe.system.process import process_age
from ncpipe.system.slurm import take_over

_originals = cache(find_originals)  # of all data sets of one source


def start(study: Study, file: Path, results: str, cores: int | None, job_name: str | None, here: bool) -> None:
    """Hold the results, write the config for the jobs, and show networks in MLflow while they train.

    Args:
        file: for the config.
        results: the folder in which jobs find and leave files.
        cores: of this Snakemake.
        job_name: of its jobs in SLURM's queue, where they are run there.
        here: whether they run on this machine, in this environment.
    """
    _originals.cache_clear()  # of a large folder hundreds of megabytes
    hold(study.layout.results)
    check_writable([study.layout.tables, study.layout.figures])
    bring_back(study.layout.results)
    write_study(study, file, results)
    if job_name:
        take_over(study.layout.slurm, job_name)
    workflow_starts(study.layout, cores)
    if here:
        if told := foreseen(study, cores or 1):
            print(told, flush=True)
        with suppress(OSError):  # jobs then start by themselves
            serve_jobs(study.layout.results / "logs/job_server.log")
    if study.config.tracking.enabled and study.config.tracking.live and study.networks:
        _show_trainings(file, study.layout.results / "logs/live.log")


def record_path(layout: Layout) -> Path:
    return layout.results / "logs" / "workflow.json"


def workflow_starts(layout: Layout, cores: int | None) -> None:
    """Note when this process, Snakemake's, was created: its hook ``onstart`` runs after parsing and planning."""
    write_json(record_path(layout), {"started": time.time() - process_age(), "cores": cores})


def workflow_ends(layout: Layout) -> None:
    """Note the end of the workflow, failed or not, and end the server of its jobs."""
    serve_no_more()
    path = record_path(layout)
    write_json(path, read_json(path) | {"finished": time.time()})


def write_study(study: Study, file: Path, results: str) -> None:
    """Write the resolved config, by which jobs find their settings, and ``results``, their results folder."""
    tracking = study.config.tracking
    if Path(results) != study.layout.results and tracking.uri is None:
        # MLflow's database is no file for an object store.
        here = f"sqlite:///{study.layout.mlflow.resolve()}/mlflow.db"
        tracking = tracking.model_copy(update={"uri": here})
    info = study.config.study.model_copy(update={"results": results})
    config = study.config.model_copy(update={"study": info, "tracking": tracking})
    write_text(file, config.model_dump_json(indent=2))


def _show_trainings(study_file: Path, log: Path) -> None:
    """Start the process that shows networks in MLflow while they train; it ends with this one."""
    command = [sys.executable, "-m", "ncpipe", "live", str(study_file), "--parent", str(os.getpid())]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as stream:
        # A session of its own: Ctrl-C is for the jobs, and this one sees that Snakemake has ended.
        subprocess.Popen(
            command,
            env=os.environ | ONE_THREAD,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )


def changed_originals(study: Study, search_path: list[Path], dataset: str) -> str:
    """Version of the source files of which a data set is to be made; empty while they have not changed."""
    spec = study.prepared[dataset]
    folder = study.layout.dataset(dataset)
    return version(folder, lambda: _originals(spec.name, spec.path, tuple(search_path)))


def dataset_params(study: Study, dataset: str) -> dict[str, Any]:
    """What a prepared data set depends on: its settings and, once they have changed, its source files."""
    originals = changed_originals(study, study.data_path, dataset)
    return canonical(study.prepared[dataset]) | ({"originals": originals} if originals else {})


def originals_of_paper(study: Study, file: Path, scale: str) -> dict[str, str]:
    """Changed source files of all data sets of a paper's study, which else its own Snakemake alone would look at."""
    inner = Study.read(file, scale, check=False)
    folders = study.data_path or inner.data_path
    versions = {dataset: changed_originals(inner, folders, dataset) for dataset in inner.prepared}
    return {dataset: changed for dataset, changed in versions.items() if changed}


def drawn_caption(path: Path) -> str:
    """What stands under a drawn figure, for `snakemake --report`; it is near the start of its SVG, as XML."""
    if not path.exists():
        return ""
    with path.open(encoding="utf-8") as svg:
        return svg.read(10_000).partition("<dc:description>")[2].partition("</dc:")[0]
