"""What a workflow says on a terminal and in a log, by Snakemake's logger `ncpipe`."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from snakemake_logger_plugin_ncpipe import Pace, extras

SNAKEFILE = """
rule all:
    input: expand("made/{name}", name=["a", "b", "c"])
rule make_one:
    output: "made/{name}"
    log: "logs/{name}.log"
    shell: "echo the reason of {wildcards.name} > {log}; [ {wildcards.name} != {config[bad]} ] && touch {output}"
"""


def run(folder: Path, *options: str, bad: str = "none") -> subprocess.CompletedProcess[str]:
    (folder / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--logger", "ncpipe", "--show-failed-logs"]
    command += ["--printshellcmds", "--config", f"bad={bad}", *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_log_has_a_line_for_every_job(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert "3 jobs: 3 make one" in lines
    told = [line for line in lines if line.startswith("[")]
    assert [line.split(":")[0].rsplit(" ", 1)[0] for line in told] == [f"[{n}/3] make one" for n in (1, 2, 3)]
    assert "left" in told[0]
    assert "left" not in told[-1]
    assert len(lines) < 10, done.stderr
    [log] = (tmp_path / ".snakemake/log").glob("*.log")
    assert "touch made/a" in log.read_text()  # the complete log has the commands
    assert str(log) in done.stderr


def test_a_failed_job_shows_its_log(tmp_path):
    done = run(tmp_path, "--keep-going", bad="b")
    assert done.returncode != 0
    assert "the reason of b" in done.stderr
    assert "Error in rule make_one" in done.stderr
    assert "[2/3]" in done.stderr  # the others have run


@pytest.mark.every(2)
@pytest.mark.parametrize("options", [["--dry-run"], ["--verbose"]])
def test_who_asks_for_more_sees_all(tmp_path, options):
    done = run(tmp_path, *options)
    assert "rule make_one:" in done.stdout + done.stderr
    assert "touch made/a" in done.stdout + done.stderr


def test_time_left_follows_from_jobs_of_the_same_rule(monkeypatch):
    now = 0.0
    monkeypatch.setattr("snakemake_logger_plugin_ncpipe.time.monotonic", lambda: now)
    pace = Pace(Counter(train=3, figure=10))
    assert pace.left() is None
    for job, (rule, seconds) in enumerate([("train", 100.0), ("figure", 2.0)]):
        pace.start(job, rule)
        now += seconds
        assert pace.end(job) == (rule, seconds)
    assert pace.left() == pytest.approx(2 * 100 + 9 * 2)
    pace.start(2, "train")
    pace.start(3, "train")
    now += 50  # two at a time
    assert pace.left() == pytest.approx((2 * 100 + 9 * 2 - 2 * 50) / ((102 + 100) / 152))
    pace.fail(2)
    pace.fail(3)
    assert not pace.running
    now += 500  # a job that has failed does not shorten what is left
    assert pace.left() == pytest.approx((2 * 100 + 9 * 2) / (102 / 652))


@pytest.mark.parametrize("of_variable", [False, True])
def test_a_profile_whose_extra_is_missing_names_the_remedy(tmp_path, monkeypatch, of_variable):
    monkeypatch.setattr(extras, "find_spec", lambda package: None)
    profile = tmp_path / "config.yaml"
    profile.write_text("executor: kubernetes\ndefault-storage-provider: s3\n", encoding="utf-8")
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(tmp_path) if of_variable else "")
    named = [] if of_variable else ["--profile", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        extras.require_extras([*named, "--cores", "all", "target"])
    remedy = "executor: kubernetes needs snakemake-executor-plugin-kubernetes: pip install 'ncpipe[kubernetes]'"
    assert stop.value.code == remedy
    with pytest.raises(SystemExit, match=r"snakemake-storage-plugin-s3: pip install 'ncpipe\[s3\]'"):
        extras.require_extras([*named, "--executor", "local"])
    profile.write_text("executor: slurm\n", encoding="utf-8")
    extras.require_extras(named)
    monkeypatch.undo()
    profile.write_text("executor: kubernetes\n", encoding="utf-8")
    extras.require_extras(["--profile", str(tmp_path)])  # installed here
