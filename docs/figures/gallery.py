"""Draw docs/images/figures, one picture of every figure, from the tables there are, and write docs/gallery.md.

Run after the studies, in the folder that holds ``results``: python docs/figures/gallery.py [FIGURE ...]
"""

import ast
import sys
from pathlib import Path

from ncpipe.figures import draw
from ncpipe.figures.drawing.style import style
from ncpipe.records.reading import read_tables
from ncpipe.study.config import FIGURES, FigureOptions
from ncpipe.tables.selection import compared

DOCS = Path(__file__).resolve().parent.parent
IMAGES = DOCS / "images" / "figures"
DPI = 130
OTHERS = {
    "central_path": "han2022-small",
    "collapse_stationarity": "wu2025-small",
    "continual_curves": "harun2025-small",
    "matched_sweep": "tirer2022-small",
    "minority_collapse": "dang2024-small",
    "nc_curves": "tirer2022-small",
    "predictions": "tirer2022-small",
    "stationarity": "tirer2022-small",
    "sweep": "yaras2022-small",
    "ufm_landscape": "tirer2022-small",
    "ufm_phase": "tirer2022-small",
    "ufm_success": "sukenik2023-small",
}
"""Figures of which the default study has nothing to show, and a study that has."""
COLUMNS = 3
HEAD = """# Gallery

Every figure, drawn from the tables of a study that has run: the default study, or the small form of the one that is
named. A click leads to what a figure shows and its options. `python docs/figures/gallery.py` draws them and writes
this page.

"""


def shows(name: str) -> str:
    """What a figure shows, as its module says in its first line."""
    module = DOCS.parent / "ncpipe" / "figures" / f"{name}.py"
    said = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))).splitlines()[0].removeprefix("Figure: ")
    return said[0].upper() + said[1:]


def page(names: list[str]) -> str:
    """All pictures with a line each."""

    def cell(name: str) -> str:
        study = OTHERS.get(name, "").removesuffix("-small")
        of = f" [{study}](studies/{study}.md)" if study else ""
        return f"[![{name}](images/figures/{name}.png)](figures.md#{name})<br>{shows(name)}{of}"

    rows = [names[start : start + COLUMNS] for start in range(0, len(names), COLUMNS)]
    lines = ["|" + " |" * COLUMNS, "|" + "---|" * COLUMNS]
    for row in rows:
        cells = [cell(name) for name in row] + [""] * (COLUMNS - len(row))
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    (DOCS / "gallery.md").write_text(page(list(FIGURES)), encoding="utf-8")
    for name in sys.argv[1:] or FIGURES:
        tables = Path("results", OTHERS.get(name, ""), "tables")
        if not tables.is_dir():
            print(f"{name}: no {tables}")
            continue
        options = FigureOptions.model_validate(
            {"name": name} | ({"over": "head.temperature"} if name == "sweep" else {})
        )
        figure = draw(compared(read_tables(tables)), options)
        IMAGES.mkdir(parents=True, exist_ok=True)
        with style():
            figure.savefig(IMAGES / f"{name}.png", dpi=DPI, metadata={"Software": None})
        print(f"{name}: {IMAGES / name}.png")


if __name__ == "__main__":
    main()
