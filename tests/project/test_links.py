"""Links between pages of the repository: files that are there, and headings that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("docs/*.ipynb")]
)
LINK = re.compile(r"!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+(?:\([^()]*\))?)\)")


def text(page: Path) -> str:
    """Markdown of a page without its code."""
    content = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        content = "\n\n".join(
            "".join(cell["source"]) for cell in json.loads(content)["cells"] if cell["cell_type"] == "markdown"
        )
    return re.sub(r"^(```+)(?!\{).*?^\1", "", content, flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Headings as links name them: small letters, no punctuation, hyphens for spaces."""
    headings = re.findall(r"^#+ +(.*?) *$", text(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    wrong = []
    for link in LINK.findall(re.sub(r"`[^`\n]*`", "", text(page))):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](page.md#one-two) ![d](missing.png)\n", encoding="utf-8")
    assert broken(page) == ["#three", "missing.png"]


def test_the_gallery_has_every_figure():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    figures = {path.stem for path in (ROOT / "ncpipe" / "figures").glob("[a-z]*.py")}
    assert figures == set(re.findall(r"\(images/figures/(\w+)\.png\)", page)), "python docs/figures/gallery.py"


def test_every_page_stands_in_the_site():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/*]+)$", index, flags=re.MULTILINE))
    pages = {page.stem for page in PAGES if page.parent == ROOT / "docs"} - {"index", "paper"}
    assert pages <= listed
