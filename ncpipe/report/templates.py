"""The templates of the pages, with the filters that write numbers, and links between files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import pandas as pd
from markupsafe import Markup

from ncpipe.claims.evidence.deciding import would_decide
from ncpipe.claims.evidence.wording import SYMBOLS, by_paper, finding, held, needs, number, short_id, span, verdict
from ncpipe.report.bars import bar

FOLDER = Path(__file__).parent


def template(name: str) -> jinja2.Template:
    """A template of this folder; what it is given is escaped, and what it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals["script"] = _script
    environment.filters.update(number=number, text=text, percent=_percent, in_mlflow=_in_mlflow)
    environment.filters.update(would_decide=would_decide, finding=finding, verdict=verdict, by_paper=by_paper)
    environment.filters.update(
        needs=needs, held=held, span=span, bar=bar, symbol=SYMBOLS.__getitem__, short_id=short_id
    )
    return environment.get_template(name)


def link(path: Path, page_folder: Path) -> str:
    """The path as a page in this folder links to it."""
    return Path(os.path.relpath(path, page_folder)).as_posix()


def _script(name: str) -> Markup:
    """A script or style sheet of this folder, to stand in a page as it is."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))  # noqa: S704 - files of ncpipe


def _in_mlflow(run_id: str, view: str) -> str:
    """The address of the list of runs ``view``, narrowed to this run."""
    searched = f'tags."ncpipe.id" = "{run_id}"'
    # Ordered by creation, MLflow would show the run that it hangs beneath, folded.
    ordered = "tags.`mlflow.runName`"
    return f"{view}&orderByKey={quote(ordered, safe='')}&searchFilter={quote(searched, safe='')}"


def text(value: Any) -> str:
    return "–" if pd.isna(value) else str(value)


def _percent(value: Any) -> str:
    return "–" if pd.isna(value) else f"{100 * value:.2f}"
