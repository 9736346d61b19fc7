"""The page of a comparison: two runs or two studies side by side in one HTML file."""

from __future__ import annotations

import base64
from pathlib import Path

from ncpipe.compare import Comparison
from ncpipe.compare.picture import LOOKS, curves_svg
from ncpipe.compare.wording import headline, sections, sentences
from ncpipe.report.templates import template
from ncpipe.system.files import write_text


def write_compare_page(comparison: Comparison, target: Path) -> None:
    """Write the comparison as one HTML file that loads nothing from anywhere; equal comparisons give equal bytes."""
    picture = None
    if comparison.curves:
        picture = f"data:image/svg+xml;base64,{base64.b64encode(curves_svg(comparison)).decode()}"
    page = template("compare_page.html").render(
        c=comparison,
        headline=headline(comparison),
        sentences=sentences(comparison),
        sections=sections(comparison),
        picture=picture,
        looks=LOOKS,
    )
    write_text(target, page)
