"""The page of a comparison: two runs or two studies side by side in one HTML file."""

from __future__ import annotations

import base64
from pathlib import Path

from ncpipe.compare import RunComparison, StudyComparison, wording
from ncpipe.compare.picture import LOOKS, curves_svg
from ncpipe.report.templates import template
from ncpipe.system.files import write_text


def write_compare_page(comparison: RunComparison | StudyComparison, target: Path) -> None:
    """Write the comparison as one HTML file that loads nothing from anywhere; equal comparisons give equal bytes."""
    picture = None
    if isinstance(comparison, RunComparison) and comparison.curves:
        picture = f"data:image/svg+xml;base64,{base64.b64encode(curves_svg(comparison)).decode()}"
    page = template("compare_page.html").render(
        c=comparison,
        runs=isinstance(comparison, RunComparison),
        picture=picture,
        looks=LOOKS,
        words=wording,
    )
    write_text(target, page)
