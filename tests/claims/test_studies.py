"""The nine studies: their files are sound at every scale, and the smallest form of each runs and decides."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from in_one_process import run_study

from ncpipe.records.reading import read_tables
from ncpipe.study.config import PAPERS
from ncpipe.study.study import Study
from ncpipe.ufm import matched

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_RUNS_AT_TEST_SCALE = {"zhou2022": {"zhou2022-5a", "zhou2022-5b"}}
"""Claims that need more networks than the smallest form has."""


@pytest.mark.parametrize("scale", ["test", "small", "paper"])
@pytest.mark.parametrize("paper", PAPERS)
def test_study_is_sound(paper, scale):
    study = Study.read(ROOT / "studies" / f"{paper}.yaml", scale)
    assert study.config.claims == (paper,)
    assert study.config.study.results == f"results/{paper}-{scale}"
    assert study.networks
    seeds = {run.spec.seed for run in study.networks.values()}
    assert len(seeds) >= {"test": 1, "small": 2, "paper": 3}[scale]
    assert scale == "paper" or all(spec.name != "cifar10" for spec in study.datasets.values())


def under_snakemake(paper: str, folder: Path) -> None:
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "-s", str(ROOT / "Snakefile")]
    command += ["--configfile", str(ROOT / "studies" / f"{paper}.yaml"), "--directory", str(folder)]
    command += ["--config", "scale=test", "tracking={'enabled': False}", "--quiet", "all"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def in_one_process(paper: str, folder: Path) -> None:
    config = yaml.safe_load((ROOT / "studies" / f"{paper}.yaml").read_text(encoding="utf-8"))
    config["study"]["results"] = str(folder / "results" / f"{paper}-test")
    run_study(Study(with_momentum(config) | {"scale": "test"}))


def with_momentum(config: Any) -> Any:
    """The config in which gradient descent on UFMs arrives in a tenth of its steps."""
    if isinstance(config, list):
        return [with_momentum(entry) for entry in config]
    if not isinstance(config, dict):
        return config
    config = {name: with_momentum(value) for name, value in config.items()}
    if config.get("name") == "gradient_descent" and config.get("steps", 0) > 50_000:
        config |= {"steps": config["steps"] // 10, "momentum": 0.9}
    return config


def check_study(paper: str, folder: Path) -> None:
    """Every claim is decided by numbers beside it, stands on the page, and every figure is drawn."""
    results = folder / "results" / f"{paper}-test"
    claims = read_tables(results / "tables")["claims"]
    assert list(claims["claim_id"]) == [claim.id for claim in PAPERS[paper].CLAIMS]
    without = set(claims.loc[claims["count"] == 0, "claim_id"])
    assert without == WITHOUT_RUNS_AT_TEST_SCALE.get(paper, set())
    _check_verdicts(claims)
    page = html.unescape((results / "report.html").read_text(encoding="utf-8"))
    assert [claim.id for claim in PAPERS[paper].CLAIMS if claim.statement not in page] == []
    drawn = {path.stem for path in (results / "figures").glob("*.svg")}
    study = Study.read(ROOT / "studies" / f"{paper}.yaml", "test")
    assert drawn == set(study.figures)


@pytest.mark.slow
@pytest.mark.parametrize("paper", PAPERS)
def test_smallest_form_decides_every_claim(paper, tmp_path, monkeypatch):
    monkeypatch.setattr(matched, "STARTS", {1.0: 1, 0.1: 1})
    in_one_process(paper, tmp_path)
    check_study(paper, tmp_path)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_study_runs_under_snakemake(tmp_path):
    """With the rule that test_workflow.py leaves out: class-incremental learning."""
    under_snakemake("harun2025", tmp_path)
    check_study("harun2025", tmp_path)


def _check_verdicts(claims: pd.DataFrame) -> None:
    """The verdict follows from the numbers beside it, but for those of ties."""
    for _, claim in claims[(claims["count"] > 0) & ~claims["reason"].str.endswith("rounding")].iterrows():
        if claim["reason"].startswith("the medians"):
            continue
        ends = "interval_{}" if claim["reason"].startswith("the interval") else "{}"
        low, high, limit = claim[ends.format("low")], claim[ends.format("high")], claim["threshold"]
        sides = {low < limit, high < limit} if claim["direction"] == "below" else {low > limit, high > limit}
        verdict = {(True,): "supported", (False,): "contradicted"}.get(tuple(sides), "undecided")
        assert claim["verdict"] == verdict, claim["claim_id"]


@pytest.mark.parametrize("paper", PAPERS)
def test_page_gives_every_verdict_with_its_numbers(paper):
    page = (ROOT / "docs" / "studies" / f"{paper}.md").read_text(encoding="utf-8")
    for claim in PAPERS[paper].CLAIMS:
        number = claim.id.removeprefix(f"{paper}-")
        rows = [line for line in page.splitlines() if line.startswith(f"| **{number}** ")]
        assert len(rows) == page.count("### Verdicts"), "one in the table of every scale that was run"
        for row in rows:
            assert claim.statement.replace("|", r"\|") in row
            assert any(word in row for word in ("supported", "contradicted", "undecided"))
    for image in re.findall(r"\]\((\.\./images/[^)]+)\)", page):
        assert (ROOT / "docs" / "studies" / image).exists()
