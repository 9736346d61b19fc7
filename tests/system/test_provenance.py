"""Where results come from: the state of the code, packages and hardware, and no more than that."""

from __future__ import annotations

import getpass
import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from synthetic_tables import METADATA, MadeUp

from ncpipe.compare.sources import read_study
from ncpipe.records.schemas import RUNS
from ncpipe.records.writing import read_table, write_rows
from ncpipe.report import write_report
from ncpipe.study.config import Config, StudyInfo
from ncpipe.study.layout import Layout
from ncpipe.system import provenance
from ncpipe.system.provenance import from_metadata, in_json, key, origin, run_command, study_command, summary
from ncpipe.tracking.records import StudyRecords

STATE = "import sys; sys.path.insert(0, sys.argv[1]); import provenance; print(provenance.git_state())"


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *who, "-C", str(folder), *arguments], check=True, capture_output=True)


def state(folder: Path) -> tuple[str, str | None]:
    done = subprocess.run([sys.executable, "-c", STATE, str(folder)], check=True, capture_output=True, text=True)
    return eval(done.stdout)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the module in it, not added yet."""
    git(tmp_path, "init", "--quiet")
    shutil.copy(provenance.__file__, tmp_path)
    (tmp_path / "tracked").write_text("1")
    git(tmp_path, "add", "tracked")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_state_of_the_code(checkout: Path) -> None:
    assert state(checkout) == ("unknown", None)  # installed into a folder that another project tracks
    git(checkout, "add", "provenance.py")
    git(checkout, "commit", "--quiet", "-m", "second")
    commit, changes = state(checkout)
    assert (len(commit), changes) == (40, None)
    (checkout / "tracked").write_text("2")
    _, two = state(checkout)
    (checkout / "tracked").write_text("3")
    _, three = state(checkout)
    assert two
    assert three
    assert two != three


def test_an_origin_names_code_packages_and_hardware_but_nobody() -> None:
    found = origin()
    assert {"ncpipe", "commit", "python", "torch", "numpy", "snakemake", "os", "cpu", "threads"} <= found.keys()
    assert "gpu" not in found
    text = in_json(found)
    assert from_metadata({b"provenance": text.encode()}) == found == json.loads(text)
    assert from_metadata({}) is None
    user = getpass.getuser()
    assert socket.gethostname() not in text
    assert not any(value == user for value in found.values())
    assert key(found) == key(dict(reversed(found.items())))
    assert key(found) != key(found | {"threads": 99})


def test_several_origins_in_words() -> None:
    assert summary([{"torch": "2.11", "threads": 1}, {"torch": "2.12", "threads": 1}]) == {
        "torch": "2.11, 2.12",
        "threads": "1",
    }
    assert summary([]) == {}


def test_commands_are_quoted() -> None:
    assert run_command(Path("my results"), "run-1") == "ncpipe reproduce 'my results/run-1'"
    assert study_command(Path("results")) == "snakemake --cores all --configfile results/study.json"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Tables of a study, all of whose runs have one origin."""
    path = MadeUp().write(tmp_path / "tables") / "runs.parquet"
    rows = [row | {"provenance": "0123abcd"} for row in read_table(path).to_pylist()]
    known = {"0123abcd": {"torch": "9.9+odd", "cpu": "Z80"}}
    write_rows(path, RUNS, rows, METADATA | {"provenance": json.dumps(known)})
    return tmp_path


def test_a_report_shows_what_made_the_runs_and_makes_them_again(results: Path) -> None:
    count = read_table(results / "tables/runs.parquet").num_rows
    write_report(StudyInfo(name="made-up"), results / "tables", {}, results / "report.html")
    page = (results / "report.html").read_text(encoding="utf-8")
    assert f"made {count} runs" in page
    assert "torch <code>9.9+odd</code>, cpu <code>Z80</code>" in page
    assert f"ncpipe reproduce {results}/RUN_ID" in page
    assert study_command(results) in page


def test_the_mirror_and_a_comparison_name_it_too(results: Path) -> None:
    config = Config.model_validate({"study": {"name": "made-up", "results": str(results)}})
    study, run, *_ = StudyRecords(config, Layout(results))
    assert study.origin["reproduce"] == study_command(results)
    assert run.origin["reproduce"] == run_command(results, run.id)
    assert json.loads(run.origin["provenance"]) == {"torch": "9.9+odd", "cpu": "Z80"}
    assert "provenance" not in run.params
    assert read_study(results).metadata["torch"] == "9.9+odd"
