"""Draw docs/images/figures: one picture of every figure, from the tables of the studies that are there.

Run after the studies, in the folder that holds ``results``: python docs/figures/gallery.py [FIGURE ...]
"""

import sys
from pathlib import Path

from ncpipe.figures import draw
from ncpipe.figures.drawing.style import style
from ncpipe.records.reading import read_tables
from ncpipe.study.config import FIGURES, FigureOptions
from ncpipe.tables.selection import compared

IMAGES = Path(__file__).resolve().parent.parent / "images" / "figures"
DPI = 130
OTHERS = {
    "central_path": "han2022-small",
    "continual_curves": "harun2025-small",
    "level_curves": "tirer2022-small",
    "matched_sweep": "tirer2022-small",
    "nc_curves": "tirer2022-small",
    "predictions": "tirer2022-small",
    "stationarity": "tirer2022-small",
    "sweep": "zhou2022-small",
    "ufm_phase": "tirer2022-small",
    "ufm_success": "sukenik2023-small",
}
"""Figures of which the default study has nothing to show, and a study that has."""


def main() -> None:
    for name in sys.argv[1:] or FIGURES:
        tables = Path("results", OTHERS.get(name, ""), "tables")
        if not tables.is_dir():
            print(f"{name}: no {tables}")
            continue
        options = FigureOptions.model_validate({"name": name} | ({"over": "model.width"} if name == "sweep" else {}))
        figure = draw(compared(read_tables(tables)), options)
        IMAGES.mkdir(parents=True, exist_ok=True)
        with style():
            figure.savefig(IMAGES / f"{name}.png", dpi=DPI, metadata={"Software": None})
        print(f"{name}: {IMAGES / name}.png")


if __name__ == "__main__":
    main()
