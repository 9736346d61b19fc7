"""The last words of a workflow on the terminal."""

from __future__ import annotations

import os

from synthetic_tables import MadeUp
from workplace import STUDY

from ncpipe.report.closing import closing
from ncpipe.settings.sweep import laid_over
from ncpipe.study.study import Study


def study_in(folder, tracking=False):
    changes = {"study.results": str(folder), "study.title": "Digits", "tracking.enabled": tracking}
    return Study(laid_over(STUDY, changes))


def test_says_what_was_found_and_where_it_is(tmp_path):
    MadeUp().write(tmp_path / "tables")
    (tmp_path / "report.html").touch()
    (tmp_path / "mlflow").mkdir()
    lines = closing(study_in(tmp_path, tracking=True)).split("\n")
    assert lines[1].startswith("Digits: done in ")
    assert lines[2].startswith("After zero error, NC1 ")
    [claims] = [line for line in lines if line.startswith("Claims: ")]
    assert "1 supported" in claims
    assert f"report   {tmp_path / 'report.html'}" in lines
    assert f"tables   {tmp_path / 'tables'}" in lines
    assert lines[-1].startswith("MLflow   ncpipe ui ")


def test_leaves_out_what_this_workflow_has_not_made(tmp_path):
    MadeUp().write(tmp_path / "tables")
    (tmp_path / "report.html").touch()
    os.utime(tmp_path / "report.html", (0, 0))
    text = closing(study_in(tmp_path))
    assert "trained" not in text
    assert "Claims" not in text
    assert "figures" not in text
    assert "MLflow" not in text
