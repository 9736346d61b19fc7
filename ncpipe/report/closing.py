"""The last words of a workflow on the terminal: what the study found, and where to look."""

from __future__ import annotations

import time

from ncpipe.claims.evidence.wording import counted
from ncpipe.plan.units import clock
from ncpipe.records.reading import read_tables
from ncpipe.report.summary import sentences
from ncpipe.study.study import Study
from ncpipe.system.process import process_age
from ncpipe.tables.selection import compared

SENTENCES = 2


def closing(study: Study) -> str:
    """The first sentences of the report, the verdicts counted, and the paths of what was made; what is not there, as
    where a part of the workflow was asked for, is left out."""
    info, layout = study.config.study, study.layout
    age = process_age()
    lines = [f"{info.title or info.name}: done in {clock(age)}"]
    if layout.report.exists() and layout.report.stat().st_mtime > time.time() - age:
        tables = compared(read_tables(layout.tables))
        lines += sentences(tables)[:SENTENCES]
        if len(claims := tables["claims"]):
            verdicts = counted(claims.loc[claims["count"] > 0, "verdict"])
            lines.append("Claims: " + ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items()))
    places = {"report": layout.report, "figures": layout.figures, "tables": layout.tables}
    lines += [f"{name:<8} {path}" for name, path in places.items() if path.exists()]
    if study.config.tracking.enabled and layout.mlflow.exists():
        lines.append(f"MLflow   ncpipe ui {layout.results / 'study.json'}")
    return "\n".join(["", *lines])
