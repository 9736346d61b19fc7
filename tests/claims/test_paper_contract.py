"""What every paper promises: claims, reference, a study that is sound at every scale, and its page.

A new one is tested by being there; the smallest form of its study runs and decides."""

from __future__ import annotations

import html
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from in_one_process import run_study
from plugins import install
from synthetic_tables import METADATA, MadeUp
from test_claims_papers import curve, frames, network

from ncpipe.claims import claim_rows
from ncpipe.records.reading import read_tables
from ncpipe.records.schemas import CLAIMS
from ncpipe.records.writing import write_rows
from ncpipe.report import write_report
from ncpipe.study.config import PAPERS, StudyInfo
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.ufm import matched

ROOT = Path(__file__).resolve().parents[2]

WITHOUT_RUNS_AT_TEST_SCALE = {"zhou2022": {"zhou2022-5a", "zhou2022-5b"}}
"""Claims that need more networks than the smallest form has."""


each = pytest.mark.parametrize("paper", PAPERS)


@each
def test_claims_have_ids_of_their_own_and_say_what_they_are(paper):
    claims = PAPERS[paper].CLAIMS
    assert len({claim.id for claim in claims}) == len(claims) > 0
    assert all(claim.id.startswith(f"{paper}-") for claim in claims)
    assert all(claim.statement.endswith(".") and claim.statistic and claim.source for claim in claims)


@each
def test_it_is_cited_in_bibtex(paper):
    entry = PAPERS[paper].REFERENCE.bibtex(paper)
    assert re.match(rf"@\w+\{{{paper},\n", entry)
    assert entry.count("{") == entry.count("}")
    assert {"title", "author", "year"} <= set(re.findall(r"^  (\w+) +=", entry, re.M))
    assert str(PAPERS[paper].REFERENCE.year) == paper[-4:]


LIMBO = [
    network("diverged", status="diverged", zero_error_epoch=None),
    network("missing", status="missing", zero_error_epoch=None, temperature=5.0),
    network("never", zero_error_epoch=None, loss="pick_all_labels"),
]
NO_EVIDENCE = {
    "nothing": frames([]),
    "no measurements": frames([network("net"), network("sphere", temperature=1.0, head="temperature 1")]),
    "no run that counts": frames(LIMBO, *curve("diverged", "nc1_pinv", {0: 1, 20: 0.1})),
    "not a number": frames([network("net")], *curve("net", "nc1_pinv", {10: math.nan, 30: math.nan})),
}


@pytest.mark.parametrize("case", NO_EVIDENCE)
@each
def test_without_the_runs_a_claim_is_undecided(paper, case):
    for claim in PAPERS[paper].CLAIMS:
        row = claim.row(NO_EVIDENCE[case], "small")
        assert (row["verdict"], row["count"], row["effect"]) == ("undecided", 0, None), claim.id


@pytest.mark.parametrize("scale", ["test", "small", "paper"])
@each
def test_study_is_sound(paper, scale):
    study = Study.read(ROOT / "studies" / f"{paper}.yaml", scale)
    assert study.config.claims == (paper,)
    assert study.config.study.results == f"results/{paper}-{scale}"
    seeds = {run.spec.seed for run in study.networks.values()} or {spec.seed for spec in study.problems.values()}
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
    assert {claim.id for claim in PAPERS[paper].CLAIMS if claim.statement not in page} == without
    drawn = {path.stem for path in (results / "figures").glob("*.svg")}
    study = Study.read(ROOT / "studies" / f"{paper}.yaml", "test")
    assert drawn == set(study.figures)


DEAR = ("han2022", "tirer2022", "sukenik2023", "zhou2022", "li2024")


@pytest.mark.every(2)
@pytest.mark.slow
@pytest.mark.parametrize("paper", [pytest.param(p, marks=[pytest.mark.thorough] * (p in DEAR)) for p in PAPERS])
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


@each
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


A_PROBLEM = {
    "study": {"name": "x"},
    "ufm": {"matched": [], "base": {"classes": 3, "samples": 2, "dim": 3, "solver": {"name": "lbfgs"}}},
}
MINE = """
from ncpipe.claims.evidence.bibliography import ICML, Reference
from ncpipe.claims.evidence.claim import ClaimsOf
from ncpipe.claims.evidence.selectors import final, run_ids

REFERENCE = Reference("Mine 2026", ("Mine, Me",), "Means That Stay", ICML, 2026)
CLAIMS = (
    ClaimsOf("mine2026", REFERENCE)("1", "Means stay.", "last nc2_means_of", 0.01,
        lambda tables: final(tables, run_ids(tables, "kind == 'declared'"), "nc2_means_of")),
)
"""


def test_a_paper_of_another_package_is_one_of_ours(tmp_path, monkeypatch):
    install(PAPERS, "mine2026", MINE, tmp_path / "package", monkeypatch)
    assert Study(A_PROBLEM | {"claims": ["mine2026", "li2024"]}).config.claims == ("mine2026", "li2024")
    with pytest.raises(UserError, match=r"^claims\.0: unknown value 'mine2025'; did you mean 'mine2026'\?$"):
        Study(A_PROBLEM | {"claims": ["mine2025"]})
    tables = MadeUp().write(tmp_path / "tables")
    (row,) = claim_rows(read_tables(tables), ["mine2026"])
    assert (row["claim_id"], row["source"], row["verdict"]) == ("mine2026-1", "Mine 2026", "supported")
    write_rows(tables / "claims.parquet", CLAIMS, [row], METADATA)
    write_report(StudyInfo(name="x"), tables, {}, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Means stay." in page
    assert "{Means That Stay}" in page
