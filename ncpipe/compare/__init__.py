"""Two runs or two studies side by side, from their tables alone."""

from __future__ import annotations

from ncpipe.compare.runs import RunComparison, compare_runs
from ncpipe.compare.sources import RunSource, StudySource, find
from ncpipe.compare.studies import StudyComparison, compare_studies
from ncpipe.records.checks import reading
from ncpipe.system.errors import UserError


def compare(a: str, b: str) -> RunComparison | StudyComparison:
    """Compare what two names mean: results folders of studies, or runs (``find`` says how they are named).

    Raises:
        UserError: a name that means nothing or several runs, tables that are missing, or a study beside a run.
    """
    one, two = find(a), find(b)
    with reading(f"{a} and {b}"):
        if isinstance(one, StudySource) and isinstance(two, StudySource):
            return compare_studies(one, two)
        if isinstance(one, RunSource) and isinstance(two, RunSource):
            return compare_runs(one, two)
    study, run = (a, b) if isinstance(one, StudySource) else (b, a)
    raise UserError(f"{study} is a study and {run} a run; name two results folders or two runs")


__all__ = ["RunComparison", "StudyComparison", "compare", "compare_runs", "compare_studies", "find"]
