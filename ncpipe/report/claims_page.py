"""The claims page: papers and claims of several studies in one HTML file, with links to the evidence."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncpipe.claims.evidence.wording import NO_RUN, Row, by_paper, counted, verdict
from ncpipe.records.reading import metadata, read_whole
from ncpipe.records.schemas import TABLES
from ncpipe.report.templates import link, template
from ncpipe.study.config import PAPERS
from ncpipe.study.layout import Layout
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_text


@dataclass(frozen=True)
class StudyClaims:
    """What a study says of claims, and where it lies."""

    layout: Layout
    claims: tuple[Row, ...] | None
    """None: the study has not ended, so that there is no table."""
    metadata: Mapping[str, str]
    """What the table says of its making: study, scale, ncpipe_version, git_commit."""


def read_claims(results: Path) -> StudyClaims:
    """The claims of the study whose results lie in this folder.

    Raises ``UserError`` where there is no such folder, or where a table is damaged or of another version.
    """
    if not results.is_dir():
        raise UserError(f"no results folder {results}; run the study first")
    layout = Layout(results)
    path = layout.tables / "claims.parquet"
    if not path.exists():
        return StudyClaims(layout, None, {})
    return StudyClaims(layout, tuple(read_whole(path).to_pylist()), metadata(path))


def write_claims_page(studies: Iterable[StudyClaims], target: Path) -> None:
    """Write the matrix of papers and claims as one HTML file that loads nothing from anywhere.

    Every paper has its place, also those without a claim in these studies. Links lead to what there is of report,
    figures and tables of a study, relative to the page.
    """
    listed = list(studies)
    own = (claim["paper"] for study in listed for claim in study.claims or ())
    rows = [row for paper in dict.fromkeys([*PAPERS, *own]) for row in _verdicts(paper, listed, target.parent)]
    verdicts = [verdict(claim) for row in rows for claim in row["claims"]]
    decided = {row["paper"] for row in rows}
    page = template("claims_page.html").render(
        rows=rows,
        counts=counted(verdicts),
        silent=verdicts.count(NO_RUN),
        open=sorted(
            ((row, claim) for row in rows for claim in row["claims"] if verdict(claim) in ("undecided", NO_RUN)),
            key=lambda found: not found[1]["count"],
        ),
        papers=len(decided & {*PAPERS}),
        absent={paper: PAPERS[paper].REFERENCE for paper in PAPERS if paper not in decided},
        unfinished=[str(study.layout.results) for study in listed if study.claims is None],
    )
    write_text(target, page)


def _verdicts(paper: str, studies: Iterable[StudyClaims], page_folder: Path) -> Iterator[dict[str, Any]]:
    """Rows of the matrix: the claims of one paper, or of a study's own, as one study decides them."""
    for number, study in enumerate(studies):
        if claims := by_paper(study.claims or ()).get(paper):
            reference = PAPERS[paper].REFERENCE if paper in PAPERS else None
            yield {
                "key": f"{paper}-in-{number}",
                "paper": paper,
                "source": reference.short if reference else claims[0]["source"],
                "title": reference.title if reference else "",
                "study": study,
                "scale": study.metadata.get("scale", ""),
                "claims": claims,
                "links": _links(study.layout, page_folder),
            }


def _links(layout: Layout, page_folder: Path) -> dict[str, dict[str, str]]:
    """Links to what there is, by group and name."""
    files = {
        "report": {"report": layout.report},
        "figures": {path.stem: path for path in sorted(layout.figures.glob("*.svg"))},
        "tables": {name: layout.tables / f"{name}.parquet" for name in TABLES},
    }
    return {
        group: {name: link(path, page_folder) for name, path in paths.items() if path.exists()}
        for group, paths in files.items()
    }
