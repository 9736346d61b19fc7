"""The ``ncpipe`` command: what the rules of the workflow call, and what serves people outside it."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import unwritable
from ncpipe.system.stopwatch import work

Item = TypeVar("Item")

app = typer.Typer(
    name="ncpipe",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Neural collapse in trained networks, compared with unconstrained-features models.",
)

STAGES = "Stages (what the workflow runs)"
PEOPLE = "Studies and files"

StudyFile = Annotated[Path, typer.Argument(help="The study's config, YAML or JSON.")]
Scale = Annotated[str | None, typer.Option(help="Size of the study: a name under its scales; default: its own.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads; part of what makes results repeat bit for bit.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 1, a traceback only with NCPIPE_TRACEBACK=1."""
    try:
        app()
    except UserError as error:
        if os.environ.get("NCPIPE_TRACEBACK") == "1":
            raise
        sys.exit(f"ncpipe: {error}")
    except SystemExit as stop:
        if message := getattr(stop, "message", None):  # a job that was told to stop, and has saved
            print(f"ncpipe: {message}", file=sys.stderr, flush=True)
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sys.exit(f"ncpipe: no file has a name as long as {str(error.filename)[:40]!r}...")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        sys.exit(f"ncpipe: {unwritable(error.filename, error)}")


def _named(items: Mapping[str, Item], name: str, kind: str) -> Item:
    try:
        return items[name]
    except KeyError:
        raise UserError(f"the study has no {kind} {name!r}; `ncpipe plan` lists them") from None


def _use_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


# --- studies and files ----------------------------------------------------------------------------


@app.command(rich_help_panel=PEOPLE)
def plan(
    study: StudyFile = Path("config.yaml"),
    estimate: Annotated[bool, typer.Option(help="Time and memory, from a few steps timed on this machine.")] = True,
    profile: Annotated[bool, typer.Option("--profile", help="Instead: where the time of the last run went.")] = False,
    every: Annotated[
        bool, typer.Option("--every", help="List every unit of a large study, not stages alone.")
    ] = False,
    scale: Scale = None,
) -> None:
    """Print what a study would run, what is done, and what the rest should take of time and memory."""
    from ncpipe.plan import print_plan, print_profile

    s = Study.read(study, scale)
    print_profile(s.layout) if profile else print_plan(s, estimate, every)


@app.command(rich_help_panel=PEOPLE)
def measure(
    file: Annotated[Path, typer.Argument(help="safetensors or npz file with 'features' (N, d) and 'labels' (N,);"
                                              " optional 'weight' (K, d), 'bias' (K,), 'train_means' (K, d) and"
                                              " 'ood_features' (N', d); or the features.safetensors of a run.")],
    of: Annotated[str | None, typer.Option(help="Of a run's kept features: epoch/layer/split; default: the last"
                                                " epoch, 'features', train.")] = None,
    num_classes: Annotated[int | None, typer.Option(help="K, where the largest label does not tell.")] = None,
    ridge: Annotated[float | None, typer.Option(help="Penalty of the weight; adds the split of the squared"
                                                     " error.")] = None,
    bias_decay: Annotated[float | None, typer.Option(help="Penalty of the bias in that split; default: the"
                                                          " ridge; 0: free, inf: fixed.")] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also break down by class.")] = False,
    present_only: Annotated[bool, typer.Option("--present-only", help="Leave classes without a sample out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Print the collapse metrics of features stored in a file; docs/metrics.md defines them."""
    from ncpipe.cli.foreign import read_arrays
    from ncpipe.collapse import measure as measure_arrays

    arrays = read_arrays(file, of)
    try:
        row = measure_arrays(
            **arrays,
            num_classes=num_classes,
            ridge=ridge,
            bias_decay=bias_decay,
            per_class=per_class,
            present_only=present_only,
        )
    except ValueError as error:
        raise UserError(f"{file}: {as_options(str(error))}") from None
    row.undefined = {name: as_options(why) for name, why in row.undefined.items()}
    if absent := next((why for why in row.undefined.values() if why.startswith("no sample of class")), None):
        print(f"{file}: {absent}; --present-only measures the other classes", file=sys.stderr)
    breakdown = {name: [_finite(value) for value in values.tolist()] for name, values in row.per_class.items()}
    if as_json:
        content: dict[str, object] = {name: _finite(value) for name, value in row.items()}
        content |= {"undefined": row.undefined} if row.undefined else {}
        infinite = [name for name, value in row.items() if math.isinf(value)]
        content |= {"infinite": infinite} if infinite else {}
        content |= {"per_class": breakdown} if per_class else {}
        print(json.dumps(content, indent=2))
        return
    for name, value in row.items():
        print(f"{name:28s} {value:.6g}" + (f"  ({row.undefined[name]})" if name in row.undefined else ""))
    for name, values in breakdown.items():
        print(f"per class {name:18s} " + " ".join("-" if value is None else f"{value:.4g}" for value in values))


def as_options(message: str) -> str:
    """A message of ``ncpipe.measure`` in the words of the command line."""
    for name, option in {"present_only=True": "--present-only", "num_classes": "--num-classes"}.items():
        message = message.replace(name, option)
    return message


def _finite(value: float) -> float | None:
    """A number that JSON has."""
    return value if math.isfinite(value) else None


@app.command(rich_help_panel=PEOPLE)
def ufm(
    classes: Annotated[int, typer.Option(help="K.")],
    samples: Annotated[str, typer.Option(help="Per class; one number per class as 20,10,5,5; with a pick_all_labels"
                                              " loss per set of so many tags, as 1:30,2:10.")] = "50",
    dim: Annotated[str | None, typer.Option(help="Width of the features, or one per weight layer as 40,20; default:"
                                                 " the larger of 20 and 2 K.")] = None,
    loss: Annotated[str, typer.Option(help="mse, ce, label_smoothing, focal, pick_all_labels or"
                                           " pick_all_labels_normalized.")] = "mse",
    weight_decay: Annotated[list[float] | None, typer.Option(help="Penalty of a weight layer, once per layer from the"
                                                                  " first; default: 0.005, one layer.")] = None,
    feature_decay: Annotated[float | None, typer.Option(help="Penalty of the features; default: 0.001.")] = None,
    bias: Annotated[str, typer.Option(help="none, free, or its penalty.")] = "none",
    activation: Annotated[str, typer.Option(help="linear or relu, between weight layers.")] = "linear",
    smoothing: Annotated[float, typer.Option(help="label_smoothing: alpha.")] = 0.0,
    gamma: Annotated[float, typer.Option(help="focal: the exponent.")] = 0.0,
    rescale: Annotated[tuple[float, float], typer.Option(help="mse: weight k and target M of the true class.")]
    = (1.0, 1.0),
    temperature: Annotated[float | None, typer.Option(help="ce: unit features and weight rows, logits scaled by this;"
                                                           " no penalties.")] = None,
    classifier: Annotated[str, typer.Option(help="free, or etf: frozen at a simplex ETF.")] = "free",
    nonnegative: Annotated[bool, typer.Option("--nonnegative", help="Constrain the features to be >= 0.")] = False,
    solver: Annotated[str, typer.Option(help="lbfgs, gradient_descent, gradient_flow or construction.")] = "lbfgs",
    starts: Annotated[int | None, typer.Option(help="lbfgs: random starts; default: 8.")] = None,
    max_iterations: Annotated[int | None, typer.Option(help="lbfgs; default: 5000.")] = None,
    steps: Annotated[int | None, typer.Option(help="gradient_descent, gradient_flow; default: 100000.")] = None,
    step_size: Annotated[float | None, typer.Option(help="gradient_descent, gradient_flow; default: 0.1.")] = None,
    momentum: Annotated[float | None, typer.Option(help="gradient_descent; default: 0.")] = None,
    init_scale: Annotated[float | None, typer.Option(help="Standard deviation of the start; default: 1.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random starts.")] = 0,
    optimum_only: Annotated[bool, typer.Option("--optimum-only", help="Print the closed form, fit nothing.")] = False,
    save: Annotated[Path | None, typer.Option(help="Also write features, labels and weights to this .safetensors"
                                                   " file, which `ncpipe measure` reads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with all metrics of every layer.")] = False,
) -> None:  # fmt: skip
    """Solve one unconstrained-features model: its optimum, what is reached, and how collapsed that is."""
    from ncpipe.cli import ufm as ufm_command

    if save is not None:
        ufm_command.check_target(save, not optimum_only)
    problem = ufm_command.declare(
        {
            "classes": classes,
            "samples": samples,
            "dim": dim,
            "loss": loss,
            "weight_decay": weight_decay,
            "feature_decay": feature_decay,
            "bias": bias,
            "activation": activation,
            "smoothing": smoothing,
            "gamma": gamma,
            "rescale": rescale,
            "temperature": temperature,
            "classifier": classifier,
            "nonnegative": nonnegative,
        }
    )
    options = {
        "starts": starts,
        "max_iterations": max_iterations,
        "steps": steps,
        "step_size": step_size,
        "momentum": momentum,
        "init_scale": init_scale,
    }
    result = None if optimum_only else ufm_command.solve(problem, solver, seed, options)
    content = ufm_command.describe(problem, result)
    print(json.dumps(content, indent=2) if as_json else "\n".join(ufm_command.lines(content)))
    if save is not None and result is not None:
        ufm_command.save(result, save)


@app.command(rich_help_panel=PEOPLE)
def doctor(
    study: Annotated[Path | None, typer.Argument(help="Also check this study.")] = None, scale: Scale = None
) -> None:
    """Check versions, devices, data sources and the store."""
    from ncpipe.cli.doctor import print_diagnosis

    print_diagnosis(None if study is None else Study.read(study, scale))


@app.command(rich_help_panel=PEOPLE)
def schema(target: Annotated[Path | None, typer.Argument(help="File to write; default: print.")] = None) -> None:
    """Print the JSON schema of config files, for editors."""
    from ncpipe.study.config import Config
    from ncpipe.system.files import write_text

    text = json.dumps(Config.model_json_schema(), indent=2, sort_keys=True) + "\n"
    print(text, end="") if target is None else write_text(target, text)


@app.command(rich_help_panel=PEOPLE)
def ui(
    study: StudyFile = Path("config.yaml"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    scale: Scale = None,
) -> None:
    """Open the MLflow UI on the study's store, on this machine only."""
    from ncpipe.tracking.experiment import experiment_name
    from ncpipe.tracking.store import create_store
    from ncpipe.tracking.ui import run_ui

    s = Study.read(study, scale)
    if not s.config.tracking.enabled:
        raise UserError("tracking is off in this study; set tracking.enabled: true and run it again")
    uri = create_store(s.config.tracking.uri, s.layout.mlflow)
    run_ui(uri, experiment_name(s.config), port=port)


@app.command(rich_help_panel=PEOPLE)
def claims(
    results: Annotated[list[Path], typer.Argument(help="Results folders of studies, as results/*-small.")],
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("results/claims.html"),
    markdown: Annotated[bool, typer.Option("--markdown", help="Instead: print the verdicts as Markdown.")] = False,
) -> None:
    """Write one page of the claims of several studies, paper by paper, with links to the evidence."""
    from ncpipe.claims.evidence.wording import markdown as as_markdown
    from ncpipe.report.claims_page import read_claims, write_claims_page

    studies = [read_claims(folder) for folder in results]
    if markdown:
        print(as_markdown(claim for study in studies for claim in study.claims or ()))
    else:
        write_claims_page(studies, output)
        print(f"wrote {output}", flush=True)


@app.command(rich_help_panel=PEOPLE)
def compare(
    a: Annotated[str, typer.Argument(help="Results folder of a study, or a run: RESULTS/RUN_ID or its beginning.")],
    b: Annotated[str, typer.Argument(help="Another.")],
    output: Annotated[Path | None, typer.Option(help="Also write a page to this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Put two runs or two studies side by side; of a rerun the first line says whether it is equal."""
    from ncpipe.compare import compare as compare_sources
    from ncpipe.compare.terminal import print_comparison
    from ncpipe.compare.wording import as_json as in_json

    comparison = compare_sources(a, b)
    if output is not None:
        from ncpipe.report.compare_page import write_compare_page  # loads matplotlib

        write_compare_page(comparison, output)
        print(f"wrote {output}", file=sys.stderr, flush=True)
    print(in_json(comparison)) if as_json else print_comparison(comparison)


@app.command(rich_help_panel=PEOPLE)
def reproduce(
    run: Annotated[str, typer.Argument(help="A run: RESULTS/RUN_ID or its beginning.")],
    study: Annotated[Path | None, typer.Option(help="Config of its study; default: study.json in RESULTS.")] = None,
    scale: Scale = None,
    keep: Annotated[Path | None, typer.Option(help="Keep the rerun in this new folder.")] = None,
) -> None:
    """Make a run again from its recorded settings, and compare. Exit code 0: equal, 1: different, 2: not made."""
    from ncpipe.reproduce import reproduce as make_again
    from ncpipe.reproduce.result import print_reproduction

    try:
        found = make_again(run, study, scale, keep)
    except UserError as error:
        print(f"ncpipe: {error}", file=sys.stderr, flush=True)
        raise typer.Exit(2) from None
    print_reproduction(found)
    raise typer.Exit(0 if found.equal else 1)


@app.command(rich_help_panel=PEOPLE)
def query(
    sql: Annotated[str | None, typer.Argument(help="A SELECT of DuckDB; default: print the tables' columns.")] = None,
    study: StudyFile = Path("config.yaml"),
    tables: Annotated[Path | None, typer.Option(help="Instead of a study: its tables or results folder.")] = None,
    output: Annotated[Path | None, typer.Option(help="Write all rows to this .parquet, .csv or .json file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    scale: Scale = None,
) -> None:
    """Query the tables of a study in SQL: runs, history, collapse, grams, ufm, claims and timings."""
    from ncpipe.cli.query import run_query

    run_query(sql, tables or Study.read(study, scale).layout.tables, output, as_json)


@app.command(rich_help_panel=PEOPLE)
def figure(
    name: Annotated[str | None, typer.Argument(help="Figure to draw; with --study the name of its file.")] = None,
    tables: Annotated[Path | None, typer.Option(help="Folder of tables to draw from, as results/tables.")] = None,
    output: Annotated[Path | None, typer.Option(help="With --tables: .svg, .pdf or .png file, or all three without an"
                                                     " ending; default: the figure's name.")] = None,
    metrics: Annotated[str | None, typer.Option(help="With --tables: names of docs/metrics.md, with commas.")] = None,
    split: Annotated[str | None, typer.Option(help="With --tables: train or test; default: train.")] = None,
    over: Annotated[str | None, typer.Option(help="With --tables: setting on the axis of 'sweep', as"
                                                  " model.width.")] = None,
    width: Annotated[float | None, typer.Option(help="With --tables: inches; default: 6.75.")] = None,
    study: Annotated[Path | None, typer.Option(help="Draw a figure of this study into its results instead, as it"
                                                    " declares it.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Instead: print all figures and what they show.")] = False,
) -> None:  # fmt: skip
    """Draw a figure from tables: from those of any folder, or as the workflow from those of a study."""
    from ncpipe.cli.figure import figure_list, figure_options, save_from_tables
    from ncpipe.figures import save_figure

    options = {"metrics": metrics, "split": split, "over": over, "width": width}
    if names:
        print("\n".join(figure_list()))
    elif name is None or (tables is None) == (study is None):
        raise UserError("name a figure and where its tables are, as `ncpipe figure frames --tables results/tables`;"
                        " `ncpipe figure --list` names all")  # fmt: skip
    elif tables is not None:
        for path in save_from_tables(figure_options(name, **options), tables, output):  # type: ignore[arg-type]
            print(f"wrote {path}", flush=True)
    elif given := [key for key, value in {"output": output, **options}.items() if value is not None]:
        raise UserError(f"--{given[0]} goes with --tables; a study declares it under 'figures'")
    else:
        s = Study.read(study)  # type: ignore[arg-type]
        with work():
            save_figure(_named(s.figures, name, "figure"), s.layout.tables, s.layout.figures / name)


@app.command(rich_help_panel=PEOPLE)
def animate(
    run: Annotated[Path, typer.Argument(help="Folder of a trained network that kept its features, as"
                                             " results/runs/ID.")],
    classes: Annotated[str, typer.Option(help="Three of its classes.")] = "0,1,2",
    output: Annotated[Path, typer.Option(help="The .gif to write, or with ffmpeg an .mp4.")] = Path("collapse.gif"),
) -> None:  # fmt: skip
    """Show collapse over epochs: samples, class means and classifier rows of three classes on the ETF's plane."""
    from ncpipe.figures.drawing.animation import animate as write_animation

    try:
        chosen = [int(part) for part in classes.split(",")]
    except ValueError:
        raise UserError(f"--classes: got {classes!r}; needs three classes, as 0,1,2") from None
    print(f"wrote {write_animation(run, chosen, output)}", flush=True)


@app.command(rich_help_panel=PEOPLE)
def register(
    study: StudyFile,
    network: Annotated[str, typer.Argument(help="Run id of a trained network.")],
    name: Annotated[str | None, typer.Option(help="Of the registered model; default: the study's name.")] = None,
    scale: Scale = None,
) -> None:
    """Put the weights of a trained network into MLflow's model registry."""
    from ncpipe.tracking.register import register as register_network

    model, version = register_network(Study.read(study, scale), network, name)
    print(f"registered model {model}, version {version}", flush=True)


# --- stages ---------------------------------------------------------------------------------------


@app.command(rich_help_panel=STAGES)
def dataset(study: StudyFile, name: Annotated[str, typer.Argument(help="Id of the data set.")]) -> None:
    """Prepare a data set."""
    from ncpipe.data import prepare

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is half written is removed
    s = Study.read(study, check=False)
    with work():
        prepare(_named(s.prepared, name, "data set"), s.layout.dataset(name), s.data_path)


@app.command(rich_help_panel=STAGES)
def train(
    study: StudyFile,
    run: Annotated[str, typer.Argument(help="Id of the network.")],
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Train a network; goes on where a killed job stopped. Told to stop (SIGTERM, SIGUSR1), it saves and ends with
    code 75."""
    from ncpipe.stages.devices import train_job
    from ncpipe.training.computation import choose_device

    choose_device(device)  # a mistake in it is told first
    _use_threads(threads)
    s = Study.read(study, check=False)
    train_job(s, _named(s.networks, run, "network"), study, device, threads)


@app.command(rich_help_panel=STAGES)
def features(
    study: StudyFile,
    run: Annotated[str, typer.Argument(help="Id of the network.")],
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Measure all checkpoints of a trained network: statistics, and the raw features to keep."""
    from ncpipe.features.extraction import extract_features
    from ncpipe.stages.devices import feature_job
    from ncpipe.training.computation import choose_device

    choose_device(device)
    _use_threads(threads)
    s = Study.read(study, check=False)
    planned = _named(s.networks, run, "network")
    with feature_job(s, planned, device) as (data, chosen):
        extract_features(planned, s.config.measure, data, s.layout.run(run), chosen)


@app.command(rich_help_panel=STAGES)
def collapse(statistics: Path, source: Annotated[str, typer.Argument(help="net or ufm.")], target: Path) -> None:
    """Compute the collapse metrics of a statistics file, and beside TARGET the Grams (grams.parquet)."""
    from ncpipe.stages.collapse import write_collapse

    if source not in ("net", "ufm"):
        raise UserError(f"source must be net or ufm, got {source!r}")
    with work():
        write_collapse(statistics, source, target)


@app.command(rich_help_panel=STAGES)
def fit(
    study: StudyFile, batch: Annotated[str, typer.Argument(help="Id of the batch.")], threads: Threads = 1
) -> None:
    """Solve a batch of declared UFM problems."""
    from ncpipe.stages.fit import fit_batch

    _use_threads(threads)
    s = Study.read(study, check=False)
    with work():
        fit_batch(_named(s.ufm_batches, batch, "UFM batch"), s.layout.ufm(batch))


@app.command(rich_help_panel=STAGES)
def match(
    study: StudyFile, run: Annotated[str, typer.Argument(help="Id of the network.")], threads: Threads = 1
) -> None:
    """Match the UFMs to a trained network, predict its last layer, and compute the prediction's collapse metrics."""
    from ncpipe.stages.collapse import write_collapse
    from ncpipe.stages.fit import match_network

    _use_threads(threads)
    s = Study.read(study, check=False)
    planned = _named(s.networks, run, "network")
    folder = s.layout.ufm(planned.matched_id)
    with work():
        match_network(planned, s.config.ufm.matched, s.layout.run(run), folder)
        write_collapse(folder / "statistics.safetensors", "ufm", folder / "collapse.parquet")


@app.command(rich_help_panel=STAGES)
def continual(
    study: StudyFile,
    run: Annotated[str, typer.Argument(help="Id of the network.")],
    threads: Threads = 1,
    device: Device = "auto",
) -> None:
    """Teach new classes to the classifier of a trained network, in all ways that the study declares."""
    from ncpipe.data import load
    from ncpipe.stages.continual import learn_classes
    from ncpipe.stages.devices import feature_job
    from ncpipe.training.computation import choose_device

    choose_device(device)
    _use_threads(threads)
    s = Study.read(study, check=False)
    planned = _named(s.continual, run, "continual learning on a network")
    with feature_job(s, planned.network, device) as (data, chosen):
        whole = load(s.layout.dataset(planned.dataset_id))
        learn_classes(planned, data, whole, s.layout.run(run), s.layout.continual(run), chosen)


@app.command(rich_help_panel=STAGES)
def tables(study: StudyFile = Path("config.yaml")) -> None:
    """Collect the records of all runs into the tables; planned runs without records are 'missing'."""
    from ncpipe.stages.tables import write_tables

    s = Study.read(study)
    with work():
        write_tables(s)


@app.command(rich_help_panel=STAGES)
def report(study: StudyFile = Path("config.yaml")) -> None:
    """Write the report from the tables and figures."""
    from ncpipe.report import write_report
    from ncpipe.tracking.view import study_page

    s = Study.read(study)
    drawn = {name: s.layout.figures / name for name in s.figures}
    with work():
        write_report(s.config.study, s.layout.tables, drawn, s.layout.report, study_page(s.layout.mlflow))


@app.command(rich_help_panel=STAGES)
def store(study: StudyFile = Path("config.yaml")) -> None:
    """Create the MLflow store and the study's experiment; a store that does not answer is left to the sync."""
    from ncpipe.system.files import write_json
    from ncpipe.tracking.client import redacted
    from ncpipe.tracking.experiment import prepare

    s = Study.read(study)
    with work():
        try:
            uri, experiment = prepare(s.config, s.layout)
        except UserError as error:  # no reason to stop what computes
            print(f"ncpipe: {error}", file=sys.stderr, flush=True)
            uri, experiment = s.config.tracking.uri or "", None
        write_json(s.layout.mlflow / "store.json", {"uri": redacted(uri), "experiment_id": experiment})


@app.command(rich_help_panel=STAGES)
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


@app.command(rich_help_panel=STAGES)
def sync(study: StudyFile = Path("config.yaml")) -> None:
    """Make the MLflow mirror equal to the tables; can be repeated at any time."""
    from ncpipe.system.files import write_json
    from ncpipe.tracking.client import redacted
    from ncpipe.tracking.sync import sync as sync_study

    s = Study.read(study)
    with work():
        summary = sync_study(s.config, s.layout)
        print(f"MLflow: {summary}", flush=True)
        write_json(s.layout.mlflow / "sync.json", asdict(summary) | {"uri": redacted(summary.uri)})
