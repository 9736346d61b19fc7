"""Commands of the stages: what the rules of the workflow call."""

from __future__ import annotations

import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ncpipe.cli.app import PEOPLE, STAGES, Device, StudyFile, Threads, app, job_of, named
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.stopwatch import work

Run = Annotated[str, typer.Argument(help="Id of the network.")]


@app.command(rich_help_panel=STAGES, hidden=True)
def dataset(study: StudyFile, name: Annotated[str, typer.Argument(help="Id of the data set.")]) -> None:
    """Prepare a data set."""
    from ncpipe.data import prepare

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half written is removed
    s = Study.read(study, check=False)
    with work():
        prepare(named(s.prepared, name, "data set"), s.layout.dataset(name), s.data_path)


@app.command(rich_help_panel=STAGES, hidden=True)
def train(study: StudyFile, run: Run, threads: Threads = 1, device: Device = "auto") -> None:
    """Train a network; goes on where a killed job stopped. Told to stop (SIGTERM, SIGUSR1), it saves and ends with
    code 75."""
    from ncpipe.stages.train import train_job

    s = job_of(study, threads, device)
    train_job(s, named(s.networks, run, "network"), study, device, threads)


@app.command(rich_help_panel=STAGES, hidden=True)
def features(study: StudyFile, run: Run, threads: Threads = 1, device: Device = "auto") -> None:
    """Measure all checkpoints of a trained network: statistics, and the raw features to keep."""
    from ncpipe.features.extraction import extract_features
    from ncpipe.stages.devices import feature_job

    s = job_of(study, threads, device)
    planned = named(s.networks, run, "network")
    with feature_job(s, planned, device) as (data, chosen):
        extract_features(planned, s.config.measure, data, s.layout.run(run), chosen)


@app.command(rich_help_panel=STAGES, hidden=True)
def collapse(statistics: Path, source: Annotated[str, typer.Argument(help="net or ufm.")], target: Path) -> None:
    """Compute the collapse metrics of a statistics file, and beside TARGET the Grams (grams.parquet)."""
    from ncpipe.stages.collapse import write_collapse

    if source not in ("net", "ufm"):
        raise UserError(f"source must be net or ufm, got {source!r}")
    with work():
        write_collapse(statistics, source, target)


@app.command(rich_help_panel=STAGES, hidden=True)
def fit(
    study: StudyFile, batch: Annotated[str, typer.Argument(help="Id of the batch.")], threads: Threads = 1
) -> None:
    """Solve a batch of declared UFM problems."""
    from ncpipe.stages.fit import fit_batch

    s = job_of(study, threads)
    with work():
        fit_batch(named(s.ufm_batches, batch, "UFM batch"), s.layout.ufm(batch))


@app.command(rich_help_panel=STAGES, hidden=True)
def match(study: StudyFile, run: Run, threads: Threads = 1) -> None:
    """Match the UFMs to a trained network, predict its last layer, and compute the prediction's collapse metrics."""
    from ncpipe.stages.collapse import write_collapse
    from ncpipe.stages.match import match_network

    s = job_of(study, threads)
    planned = named(s.networks, run, "network")
    folder = s.layout.ufm(planned.matched_id)
    with work():
        match_network(planned, s.config.ufm.matched, s.layout.run(run), folder)
        write_collapse(folder / "statistics.safetensors", "ufm", folder / "collapse.parquet")


@app.command(rich_help_panel=STAGES, hidden=True)
def continual(study: StudyFile, run: Run, threads: Threads = 1, device: Device = "auto") -> None:
    """Teach new classes to the classifier of a trained network, in all ways that the study declares."""
    from ncpipe.data import load
    from ncpipe.stages.continual import learn_classes
    from ncpipe.stages.devices import feature_job

    s = job_of(study, threads, device)
    planned = named(s.continual, run, "continual learning on a network")
    with feature_job(s, planned.network, device) as (data, chosen):
        whole = load(s.layout.dataset(planned.dataset_id))
        learn_classes(planned, data, whole, s.layout.run(run), s.layout.continual(run), chosen)


@app.command(rich_help_panel=STAGES, hidden=True)
def tables(study: StudyFile = Path("config.yaml")) -> None:
    """Collect the records of all runs into the tables; planned runs without records are 'missing'."""
    from ncpipe.recording.folder import write_tables as write_recorded
    from ncpipe.stages.tables import write_tables

    s = Study.read(study)
    with work():
        write_recorded(s.layout) if s.recorded else write_tables(s)


@app.command(rich_help_panel=PEOPLE)
def report(study: StudyFile = Path("config.yaml")) -> None:
    """Write the report from the tables and figures; of recorded runs also draw the figures."""
    from ncpipe.figures import save_figure
    from ncpipe.report import write_report
    from ncpipe.tracking.view import study_page

    s = Study.read(study)
    drawn = {name: s.layout.figures / name for name in s.figures}
    with work():
        for name, path in drawn.items() if s.recorded else ():
            save_figure(s.figures[name], s.layout.tables, path)
        write_report(s.config.study, s.layout.tables, drawn, s.layout.report, study_page(s.layout.mlflow))
    print(f"wrote {s.layout.report}")


@app.command(rich_help_panel=STAGES, hidden=True)
def store(study: StudyFile = Path("config.yaml")) -> None:
    """Create the MLflow store and the study's experiment; a store that does not answer is left to the sync."""
    from ncpipe.system.credentials import redacted
    from ncpipe.system.files import write_json
    from ncpipe.tracking.experiment import opened

    s = Study.read(study)
    with work():
        try:
            with opened(s.config, s.layout) as made:
                uri, experiment = made.uri, made.experiment
        except UserError as error:  # no reason to stop what computes
            print(f"ncpipe: {error}", file=sys.stderr, flush=True)
            uri, experiment = s.config.tracking.uri or "", None
        write_json(s.layout.mlflow / "store.json", {"uri": redacted(uri), "experiment_id": experiment})


@app.command(rich_help_panel=STAGES, hidden=True)
def live(
    study: StudyFile = Path("config.yaml"),
    parent: Annotated[int | None, typer.Option(help="Process that it ends with; default: stay until Ctrl-C.")] = None,
) -> None:
    """Show networks in MLflow while they train; the workflow starts it."""
    from ncpipe.tracking.live import watch

    s = Study.read(study)
    if not s.config.tracking.enabled:
        raise UserError("tracking is off in this study; set tracking.enabled: true")
    watch(s, parent)


@app.command(rich_help_panel=PEOPLE)
def sync(study: StudyFile = Path("config.yaml")) -> None:
    """Make the MLflow mirror equal to the tables; can be repeated at any time."""
    from ncpipe.system.credentials import redacted
    from ncpipe.system.files import write_json
    from ncpipe.tracking.sync import sync as sync_study

    s = Study.read(study)
    with work():
        summary = sync_study(s.config, s.layout)
        print(f"MLflow: {summary}", flush=True)
        write_json(s.layout.mlflow / "sync.json", asdict(summary) | {"uri": redacted(summary.uri)})
