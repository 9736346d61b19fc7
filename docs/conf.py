"""The documentation site: `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import ncpipe  # noqa: E402

project, author, release = "ncpipe", "The ncpipe authors", ncpipe.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.napoleon", "sphinx.ext.mathjax",
              "sphinx.ext.viewcode", "sphinx_copybutton", "sphinxcontrib.mermaid"]  # fmt: skip
html_theme = "furo"
html_title = f"ncpipe {release}"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_fence_as_directive = ["mermaid"]
nb_execution_mode = "off"  # the tests execute them
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
exclude_patterns = ["paper.md"]
suppress_warnings = ["myst.header"]  # README begins its sections anew


CODE_OR_BAR = re.compile(r"(``.*?``|`[^`]*`)|\|")


def bars_are_bars(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """|W| in a docstring is a norm, and no substitution of reStructuredText."""
    in_math = False
    for number, line in enumerate(lines):
        in_math = line.lstrip().startswith(".. math::") or (in_math and (not line.strip() or line.startswith(" ")))
        if not in_math:
            lines[number] = CODE_OR_BAR.sub(lambda match: match[1] or r"\|", line)


OF_OTHER_FOLDERS = {
    "index": "README.md",
    "deploying": "config/README.md",
    "changelog": "CHANGELOG.md",
    "contributing": "CONTRIBUTING.md",
}
LINKS = {
    "](docs/": "](",
    "](../docs/": "](",
    "](../config/README.md)": "](deploying.md)",
    "](config/README.md)": "](deploying.md)",
    "](../README.md)": "](index.md)",
    "](CHANGELOG.md)": "](changelog.md)",
    "](CONTRIBUTING.md)": "](contributing.md)",
    "[How we treat each other](CODE_OF_CONDUCT.md).": "",
    "[CITATION.cff](CITATION.cff)": "CITATION.cff",
}


def inside_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """Put pages of other folders in their place, and lead links to them there."""
    if page in OF_OTHER_FOLDERS:
        source[0] = (ROOT / OF_OTHER_FOLDERS[page]).read_text(encoding="utf-8") + source[0]
    for outside, inside in LINKS.items():
        source[0] = source[0].replace(outside, inside)


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", bars_are_bars)
    app.connect("source-read", inside_the_site)
