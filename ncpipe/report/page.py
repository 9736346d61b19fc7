"""The page: tables and figures of a study put into the template."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from ncpipe.claims.evidence.selectors import final
from ncpipe.claims.evidence.wording import by_paper
from ncpipe.figures.drawing.runs import Tables
from ncpipe.figures.matched_ufm import matched_fits
from ncpipe.records.checks import reading
from ncpipe.records.reading import metadata, read_tables, read_whole
from ncpipe.records.schemas import TABLES
from ncpipe.report.explorer import explorer
from ncpipe.report.summary import sentences
from ncpipe.report.templates import link, script, template, text
from ncpipe.study.config import PAPERS, StudyInfo
from ncpipe.system.files import read_sealed, sealed, write_text
from ncpipe.system.provenance import run_command, study_command
from ncpipe.tables.selection import compared

SVG_BYTES = 2_500_000
"""Figures are embedded as SVG up to this size together; the largest of them become PNG past it."""
MOST_ROWS = 2000
"""Rows of a table in the page: past it, browsers become slow."""
CONTENTS = {
    "runs": "every planned run: its settings and its outcome",
    "history": "losses, accuracies and objectives at every time",
    "collapse": "every metric of every layer at every measured time",
    "grams": "Gram matrices of last class means and of classifiers at the last time",
    "ufm": "every fitted UFM: its penalties, its optimum, and how a matched one compares with its network",
    "claims": "statistics of the claims, with their verdicts",
    "timings": "wall clock of training and fitting",
}
"""The tables in a few words. In full: docs/tables.md."""
PROVENANCE = ("ncpipe_version", "git_commit", "study", "study_hash")
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


@dataclass(frozen=True)
class Picture:
    """A figure as the page holds it."""

    name: str
    source: str
    """data: URI"""
    caption: str
    files: dict[str, str]
    """Links to the files, relative to the page."""


def write_report(
    study_info: StudyInfo,
    tables_folder: Path,
    figures: Mapping[str, Path],
    target: Path,
    mlflow_view: str | None = None,
) -> None:
    """Write the report as one HTML file that loads nothing from anywhere.

    Args:
        study_info: title and description.
        tables_folder: holds the Parquet tables.
        figures: paths of drawn figures, without suffix, by name; those not on disk are passed over.
        target: the HTML file.
        mlflow_view: address of the study's list of runs in MLflow, for links to it; without it there are none.
    """
    stored = read_tables(tables_folder)
    stored.check_whole()
    with reading(tables_folder):
        about = metadata(tables_folder / "runs.parquet")
        tables = compared(stored)
        runs, matched, config = run_rows(tables), list(matched_rows(tables)), target.parent / "study.json"
        papers = by_paper(read_whole(tables_folder / "claims.parquet").to_pylist())
        page = template("template.html").render(
            study=study_info,
            title=study_info.title or study_info.name,
            summary=[*sentences(tables), *([about["selection"]] if "selection" in about else [])],
            explorer=explorer(tables),
            pictures=pictures(figures, target.parent),
            papers=papers,
            bibliography={paper: PAPERS[paper].REFERENCE for paper in papers},
            scale=metadata(tables_folder / "claims.parquet").get("scale", ""),
            runs=runs,
            choices=choices(runs),
            runs_script=script("runs_table.js"),
            mlflow_view=mlflow_view,
            matched=matched,
            bases=bases(matched[:MOST_ROWS]),
            most_rows=MOST_ROWS,
            provenance={key: about[key] for key in PROVENANCE if key in about},
            origins=origins(about, tables["runs"].get("provenance", pd.Series(dtype=object))),
            commands=[study_command(target.parent), run_command(target.parent, "RUN_ID")],
            table_files={name: link(tables_folder / f"{name}.parquet", target.parent) for name in TABLES},
            contents=CONTENTS,
            config=link(config, target.parent) if config.exists() else None,
        )
    write_text(target, sealed(page))


def pictures(figures: Mapping[str, Path], page_folder: Path) -> list[Picture]:
    """The drawn figures, as SVG while they are small together and as PNG past that."""
    drawn = {name: path for name, path in figures.items() if path.with_name(f"{path.name}.svg").exists()}
    sizes = {name: path.with_name(f"{path.name}.svg").stat().st_size for name, path in drawn.items()}
    small, total = set(), 0
    for name in sorted(sizes, key=sizes.__getitem__):
        total += sizes[name]
        if total <= SVG_BYTES:
            small.add(name)
    return [_picture(name, path, "svg" if name in small else "png", page_folder) for name, path in drawn.items()]


def _picture(name: str, path: Path, kind: str, page_folder: Path) -> Picture:
    svg = read_sealed(path.with_name(f"{path.name}.svg")).encode()
    # An image, not inline SVG: ids of two figures in one document would clash.
    data = svg if kind == "svg" else path.with_name(f"{path.name}.png").read_bytes()
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    files = {suffix: path.with_name(f"{path.name}.{suffix}") for suffix in ("svg", "pdf", "png")}
    return Picture(
        name=name,
        source=f"data:{mime};base64,{base64.b64encode(data).decode()}",
        caption=ElementTree.fromstring(svg).findtext(f".//{DESCRIPTION}", ""),  # noqa: S314 - drawn by ncpipe
        files={suffix: link(file, page_folder) for suffix, file in files.items() if file.exists()},
    )


def run_rows(tables: Tables) -> list[dict[str, Any]]:
    """Networks and declared UFMs with their final values; a missing run has its row."""
    runs = tables["runs"].query("kind != 'matched'")
    metrics, ids = ("nc1_pinv", "nc2_weights_of", "nc2_weights_etf"), pd.Index(runs["run_id"])
    columns = {name: runs["run_id"].map(final(tables, ids, name)) for name in metrics}
    whole = runs.assign(**columns).astype({"seed": "Int64", "zero_error_epoch": "Int64", "final_epoch": "Int64"})
    return [{str(key): value for key, value in row.items()} for row in whole.to_dict("records")]


def matched_rows(tables: Tables) -> Iterator[dict[str, Any]]:
    """Predictions of the matched UFMs beside the measurements, a row per fit."""
    for fit in matched_fits(tables).to_dict("records"):
        yield {str(key): value for key, value in fit.items()}


def choices(runs: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Values that the runs table can be narrowed to, by column, where there are several."""
    rows = list(runs)
    found = {name: list(dict.fromkeys(text(row[name]) for row in rows)) for name in ("kind", "dataset", "loss")}
    return {name: values for name, values in found.items() if len(values) > 1}


def bases(matched: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """A letter for every basis of a prediction, in order of appearance."""
    names = dict.fromkeys(fit["basis"] for fit in matched if isinstance(fit["basis"], str))
    return {name: _letters(i) for i, name in enumerate(names)}


def _letters(number: int) -> str:
    """a to z, then aa, ab, .."""
    rest, last = divmod(number, len(ascii_lowercase))
    return (_letters(rest - 1) if rest else "") + ascii_lowercase[last]


def origins(about: Mapping[str, str], keys: pd.Series) -> list[tuple[int, dict[str, Any]]]:
    """Code, packages and hardware that made the runs, with how many: the most frequent first."""
    by_key = json.loads(about.get("provenance", "{}"))
    return [(int(count), by_key[key]) for key, count in keys.value_counts().items() if key in by_key]
