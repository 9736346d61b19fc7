"""Commands of people on studies, their tables and runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from ncpipe.cli.app import PEOPLE, Scale, StudyFile, app, named
from ncpipe.study.config import WIDTHS
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.stopwatch import work


@app.command(rich_help_panel=PEOPLE)
def init(folder: Annotated[Path, typer.Argument(help="Folder to make, or without files of these names.")]) -> None:
    """Write a project of your own: Snakefile, config, network and claims, which runs by `snakemake --cores all`."""
    from ncpipe.cli.new_project import write_project

    for path in write_project(folder):
        print(f"wrote {path}", flush=True)
    print(f"next: cd {folder} && snakemake --cores all", flush=True)


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
    s = Study.read(study, scale)
    if profile:
        from ncpipe.plan.profile import print_profile  # loads pandas

        print_profile(s.layout)
    else:
        from ncpipe.plan.table import print_plan

        print_plan(s, estimate, every)


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
    from ncpipe.tracking.store import create_store, follow
    from ncpipe.tracking.ui import run_ui

    s = Study.read(study, scale)
    if not s.config.tracking.enabled:
        raise UserError("tracking is off in this study; set tracking.enabled: true and run it again")
    follow(s.config.tracking.uri, s.layout.mlflow)
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
    width: Annotated[str | None, typer.Option(help=f"With --tables: inches, or {', '.join(WIDTHS)}.")] = None,
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
        for path in save_from_tables(figure_options(name, **options), tables, output):
            print(f"wrote {path}", flush=True)
    elif given := [key for key, value in {"output": output, **options}.items() if value is not None]:
        raise UserError(f"--{given[0]} goes with --tables; a study declares it under 'figures'")
    else:
        s = Study.read(study)  # type: ignore[arg-type]
        with work():
            save_figure(named(s.figures, name, "figure"), s.layout.tables, s.layout.figures / name)


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
