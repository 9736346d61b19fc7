"""Two runs or two studies side by side, from their tables alone."""

from __future__ import annotations

from ncpipe.compare.comparison import Comparison
from ncpipe.compare.runs import compare_runs
from ncpipe.compare.sources import RunSource, StudySource, find
from ncpipe.compare.studies import compare_studies
from ncpipe.records.checks import reading
from ncpipe.system.errors import UserError


def compare(a: str, b: str) -> Comparison:
    """Compare what two names mean: results folders of studies, or runs (``find`` says how they are named).

    Raises:
        UserError: a name that means nothing or several runs, tables that are missing, or a study beside a run.
    """
    source_a, source_b = find(a), find(b)
    with reading(f"{a} and {b}"):
        if isinstance(source_a, StudySource) and isinstance(source_b, StudySource):
            return compare_studies(source_a, source_b)
        if isinstance(source_a, RunSource) and isinstance(source_b, RunSource):
            return compare_runs(source_a, source_b)
    study, run = (a, b) if isinstance(source_a, StudySource) else (b, a)
    raise UserError(f"{study} is a study and {run} a run; name two results folders or two runs")


__all__ = ["Comparison", "compare", "compare_runs", "compare_studies", "find"]
