"""The page: tables and figures of a study put into the template."""

from __future__ import annotations

import base64
import json
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import count, product
from pathlib import Path
from string import ascii_lowercase
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from ncpipe.claims.evidence.selectors import final
from ncpipe.claims.evidence.wording import by_paper, by_subject, counted
from ncpipe.figures.drawing.runs import Tables
from ncpipe.figures.matched_ufm import matched_fits
from ncpipe.records.checks import reading
from ncpipe.records.reading import metadata, read_tables, read_whole
from ncpipe.records.schemas import TABLES
from ncpipe.report.explorer import Explorer, explorer
from ncpipe.report.parcel import parcel
from ncpipe.report.summary import sentences
from ncpipe.report.templates import link, template, text
from ncpipe.study.config import PAPERS, StudyInfo
from ncpipe.study.layout import Layout
from ncpipe.system.files import read_sealed, sealed, write_text
from ncpipe.system.provenance import run_command, study_command
from ncpipe.tables.selection import compared

Row = dict[Hashable, Any]

HEADLINE = "stationarity"
"""The figure that opens the page where the study has it: misfit against stationarity."""
SVG_BYTES = 2_500_000
"""Figures are embedded as SVG up to this size together; the largest of them become PNG past it."""
PAGE_BYTES, TEXT_BYTES = 4 * 2**20, 200_000
"""Size of a page up to which it holds the tables too, and what of it is neither figures nor the explorer."""
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
CONSTANTS: dict[str, Any] = {"contents": CONTENTS, "most_rows": 2000, "many_rows": 20}
"""What every page says alike: of a table at most ``most_rows``, past which browsers become slow; of more than
``many_rows`` it is folded."""
PROVENANCE = ("ncpipe_version", "git_commit", "study", "study_hash")
DESCRIPTION = "{http://purl.org/dc/elements/1.1/}description"


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
        runs, matched = run_rows(tables), matched_fits(tables).to_dict("records")
        claims = read_whole(tables_folder / "claims.parquet").to_pylist()
        subjects, tested = by_subject(claims), [claim for claim in claims if claim["count"]]
        drawn = sorted(pictures(figures, target.parent), key=lambda picture: picture["name"] != HEADLINE)
        explored = explorer(tables)
        page = template("template.html").render(
            study=study_info,
            summary=[*sentences(tables), *([about["selection"]] if "selection" in about else [])],
            explorer=explored,
            pictures=drawn,
            parcel=parcel(parcelled(tables_folder, target), room(drawn, explored)),
            subjects=subjects,
            counts=counted(claim["verdict"] for claim in tested),
            silent=len(claims) - len(tested),
            bibliography={paper: PAPERS[paper].REFERENCE for paper in by_paper(claims) if paper in PAPERS},
            scale=metadata(tables_folder / "claims.parquet").get("scale", ""),
            runs=runs,
            choices=choices(runs),
            mlflow_view=mlflow_view,
            matched=matched,
            bases=bases(matched[: CONSTANTS["most_rows"]]),
            provenance={key: about[key] for key in PROVENANCE if key in about},
            origins=origins(about, tables["runs"].get("provenance", pd.Series(dtype=object))),
            commands=commands(target.parent),
            table_files={name: link(tables_folder / f"{name}.parquet", target.parent) for name in TABLES},
            config="study.json" if target.with_name("study.json").exists() else None,
            **CONSTANTS,
        )
    write_text(target, sealed(page))


def parcelled(tables_folder: Path, target: Path) -> list[Path]:
    """The files that a page should hold: tables, and the settings if they lie beside it."""
    settings = target.with_name("study.json")
    return [*(tables_folder / f"{name}.parquet" for name in TABLES), *([settings] if settings.exists() else [])]


def room(drawn: Iterable[Row], explored: Explorer | None) -> int:
    """Bytes that figures and explorer leave for the tables."""
    taken = sum(len(picture["source"]) for picture in drawn) + (len(explored.data) if explored else 0)
    return max(PAGE_BYTES - TEXT_BYTES - taken, 0)


def pictures(figures: Mapping[str, Path], page_folder: Path) -> list[Row]:
    """The drawn figures, as SVG while they are small together and as PNG past that."""
    drawn = {name: path for name, path in figures.items() if path.with_name(f"{path.name}.svg").exists()}
    sizes = {name: path.with_name(f"{path.name}.svg").stat().st_size for name, path in drawn.items()}
    small, total = set(), 0
    for name in sorted(sizes, key=sizes.__getitem__):
        total += sizes[name]
        if total <= SVG_BYTES:
            small.add(name)
    return [_picture(name, path, "svg" if name in small else "png", page_folder) for name, path in drawn.items()]


def _picture(name: str, path: Path, kind: str, page_folder: Path) -> Row:
    """Name, data: URI as ``source``, caption, and links to the ``files`` relative to the page."""
    svg = read_sealed(path.with_name(f"{path.name}.svg")).encode()
    # An image, not inline SVG: ids of two figures in one document would clash.
    data = svg if kind == "svg" else path.with_name(f"{path.name}.png").read_bytes()
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    files = {suffix: path.with_name(f"{path.name}.{suffix}") for suffix in ("svg", "pdf", "png")}
    return {
        "name": name,
        "source": f"data:{mime};base64,{base64.b64encode(data).decode()}",
        "caption": ElementTree.fromstring(svg).findtext(f".//{DESCRIPTION}", ""),  # noqa: S314 - drawn by ncpipe
        "files": {suffix: link(file, page_folder) for suffix, file in files.items() if file.exists()},
    }


def run_rows(tables: Tables) -> list[Row]:
    """Networks and declared UFMs with their final values; a missing run has its row."""
    runs = tables["runs"].query("kind != 'matched'")
    metrics, ids = ("nc1_pinv", "nc2_weights_of", "nc2_weights_etf"), pd.Index(runs["run_id"])
    columns = {name: runs["run_id"].map(final(tables, ids, name)) for name in metrics}
    whole = runs.assign(**columns).astype({"seed": "Int64", "zero_error_epoch": "Int64", "final_epoch": "Int64"})
    return whole.to_dict("records")


def choices(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Values that the runs table can be narrowed to, by column, where there are several."""
    found = {name: list(dict.fromkeys(text(row[name]) for row in rows)) for name in ("kind", "dataset", "loss")}
    return {name: values for name, values in found.items() if len(values) > 1}


def bases(matched: Iterable[Row]) -> dict[str, str]:
    """A letter for every basis of a prediction, in order of appearance: a to z, then aa, ab, .."""
    names = dict.fromkeys(fit["basis"] for fit in matched if isinstance(fit["basis"], str))
    letters = ("".join(letters) for length in count(1) for letters in product(ascii_lowercase, repeat=length))
    return dict(zip(names, letters))


def origins(about: Mapping[str, str], keys: pd.Series) -> list[tuple[int, Row]]:
    """Code, packages and hardware that made the runs, with how many: the most frequent first."""
    by_key = json.loads(about.get("provenance", "{}"))
    return [(int(runs), by_key[key]) for key, runs in keys.value_counts().items() if key in by_key]


def commands(results: Path) -> list[str]:
    """What makes the study, and a run of it, again; nothing of recorded runs."""
    return [] if Layout(results).recording.exists() else [study_command(results), run_command(results, "RUN_ID")]
