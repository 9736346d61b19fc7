"""Files from the future, of a clock that was set back."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from ncpipe.system.dates import bring_back

DAY = 86_400


def tree(results: Path, ahead: float) -> list[Path]:
    """Four files, the last two at the same time, each other a minute after the one before, and their folders."""
    names = ["runs/a/spec.json", "tables/runs.parquet", "report.html", "figures/frames.svg"]
    paths = [results / name for name in names]
    start = time.time() + ahead
    for place, path in zip((0, 1, 2, 2), paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
        moment = start + 60 * place
        for one in (path, path.parent):
            os.utime(one, (moment, moment))
    return paths


def test_files_from_the_future_are_dated_to_now_in_their_order(tmp_path, capsys):
    paths = tree(tmp_path, DAY)
    os.utime(tmp_path, (time.time() + DAY,) * 2)
    bring_back(tmp_path)
    assert tmp_path.stat().st_mtime_ns <= time.time_ns()
    times = [path.stat().st_mtime_ns for path in paths]
    assert times == sorted(times)
    assert len(set(times)) == 3
    assert times[2] == times[3]
    assert time.time_ns() - 60 * 10**9 < times[0] < times[-1] <= time.time_ns()
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(tmp_path) in printed


def test_a_link_is_dated_and_what_it_leads_to_is_not(tmp_path):
    results, other = tmp_path / "results", tmp_path / "other"
    tree(results, DAY)
    other.write_text("of another program")
    link = results / "link"
    link.symlink_to(other)
    for path in (other, link):
        os.utime(path, (time.time() + DAY,) * 2, follow_symlinks=False)
    bring_back(results)
    assert link.lstat().st_mtime <= time.time() < other.stat().st_mtime


@pytest.mark.parametrize("missing", [False, True])
def test_files_of_the_past_stay_as_they_are(missing, tmp_path, capsys):
    results = tmp_path / "results"
    paths = [] if missing else tree(results, -DAY)
    before = [path.stat().st_mtime_ns for path in paths]
    bring_back(results)
    assert [path.stat().st_mtime_ns for path in paths] == before
    assert capsys.readouterr().err == ""
