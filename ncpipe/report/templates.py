"""The templates of the pages, with the filters that write numbers, and links between files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from ncpipe.claims.wording import SYMBOLS, held, needs, number, short_id, span


def template(name: str) -> jinja2.Template:
    """A template of this folder; what it is given is escaped, and what it is not given is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(number=number, text=_text, percent=_percent)
    environment.filters.update(needs=needs, held=held, span=span, symbol=SYMBOLS.__getitem__, short_id=short_id)
    return environment.get_template(name)


def link(path: Path, page_folder: Path) -> str:
    """The path as a page in this folder links to it."""
    return Path(os.path.relpath(path, page_folder)).as_posix()


def _text(value: Any) -> str:
    return "–" if _unknown(value) else str(value)


def _percent(value: Any) -> str:
    return "–" if _unknown(value) else f"{100 * value:.2f}"


def _unknown(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value))
