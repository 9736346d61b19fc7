"""The claims page: every paper, claim and link; what did not run; and the workflow that makes it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from synthetic_tables import CLAIM
from typer.testing import CliRunner

from ncpipe.claims.evidence.wording import COLUMNS, counted, held, markdown, needs, number, span
from ncpipe.cli.main import app
from ncpipe.records.schemas import CLAIMS, RUNS
from ncpipe.records.writing import write_rows
from ncpipe.report.claims_page import read_claims, write_claims_page
from ncpipe.study.config import PAPERS
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
METADATA = {"study": "made-up", "scale": "small", "ncpipe_version": "0.1.0", "git_commit": "abc123"}
SILENT = dict.fromkeys(("effect", "low", "high", "interval_low", "interval_high", "resolution"))
SILENT |= {"count": 0, "holds": 0, "seeds": 0, "data": "", "verdict": "undecided", "reason": "no run speaks of it"}


def claim(paper: str, number: str, **changes: Any) -> dict[str, Any]:
    return CLAIM | {"paper": paper, "claim_id": f"{paper}-{number}"} | changes


def write(folder: Path, *claims: dict[str, Any], **metadata: str) -> Path:
    write_rows(folder / "tables/claims.parquet", CLAIMS, claims, METADATA | metadata)
    (folder / "report.html").write_text("report")
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures/frames.svg").write_text("<svg/>")
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the text with single blanks."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.parts.append(data)

    def all(self, name: str, attribute: str) -> list[str]:
        return [value for tag, attributes in self.tags if tag == name and (value := attributes.get(attribute))]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    results = tmp_path / "results"
    write(
        results / "tirer2022-small",
        claim("tirer2022", "1", statistic="the statistic", data="UFM (K = 4, N = 200)"),
        claim("tirer2022", "2a", verdict="contradicted", holds=0, effect=0.25, statement="<b>Bold</b> & brave."),
        claim("tirer2022", "3", **SILENT),
    )
    write(results / "both-small", claim("tirer2022", "1"), claim("han2022", "1", verdict="undecided", holds=1))
    (results / "li2024-small").mkdir()
    return results


@pytest.fixture
def page(results: Path) -> Page:
    studies = [read_claims(results / name) for name in ("tirer2022-small", "both-small", "li2024-small")]
    write_claims_page(studies, results / "claims.html")
    return Page(results / "claims.html")


def test_every_claim_has_its_tile_and_its_numbers(page):
    tiles = [attributes for tag, attributes in page.tags if tag == "a" and "tile" in (attributes.get("class") or "")]
    verdicts = [tile["class"].split()[1] for tile in tiles]
    assert verdicts == ["undecided", "supported", "contradicted", "no-run", "supported"]
    opened = page.all("details", "id")
    assert [tile["href"] for tile in tiles] == [f"#{claim}" for claim in opened]  # every tile leads to its claim
    assert len(set(opened)) == 5
    assert tiles[1]["title"].startswith("The bias-free MSE UFM ends at an orthogonal frame. Supported: the statistic")
    for part in (
        "✓ 2 supported",
        "✗ 1 contradicted",
        "? 1 undecided",
        "○ 1 no run speaks of",
        f"2 of {len(PAPERS)} papers have results here",
    ):
        assert part in page.text
    assert "reason no run speaks of it" in page.text
    for part in (
        "reason the interval over seeds: on the stated side",
        "resolution 2e-10",
        "needs < 0.01",
        "statistic the statistic",
        "range 1e-10 … 2e-09",
        "data UFM (K = 4, N = 200)",
    ):
        assert part in page.text
    assert "✗ contradicted 0.25 8e-10 … 1.2e-09 0 of 3 2" in page.text
    for part in ("✓ 1 supported 1e-09", "✗ 2a contradicted 0.25", "○ 3 no run no run"):  # said, not only coloured
        assert part in page.text
    assert "○ no run – – none 0" in page.text


def test_a_sentence_a_paper_stands_in_the_matrix_and_below_it_what_would_decide_the_others(page):
    sentence = (
        "3 claims: 1 supported, “The bias-free MSE UFM ends at an orthogonal frame” (1);"
        " 1 contradicted, “<b>Bold</b> & brave” (2a); no run speaks of 1."
    )
    matrix, others = page.text.index(sentence), page.text.index("What would decide the others")
    assert matrix < others < page.text.index("Effect Interval Runs Seeds")
    listed = page.text[others : page.text.index("Effect Interval Runs Seeds")]
    assert "Han, Papyan & Donoho 2022, 1" in listed
    assert re.search(r"Tirer & Bruna 2022, 3 .* no run speaks of it: it takes “nc2_means_of at the last", listed)
    assert not re.search(r"Tirer & Bruna 2022, (1|2a)\b", listed)
    assert page.text.count("to decide no run speaks of it") == 1  # and with the claim itself


def test_decided_claims_leave_nothing_to_decide(tmp_path):
    write(tmp_path / "a", claim("tirer2022", "1"))
    write_claims_page([read_claims(tmp_path / "a")], tmp_path / "claims.html")
    assert "What would decide" not in Page(tmp_path / "claims.html").text


def test_every_paper_has_its_place(page):
    for reference in (module.REFERENCE for module in PAPERS.values()):
        assert reference.short in page.text
    absent = [paper for paper in PAPERS if paper not in ("tirer2022", "han2022")]
    for paper in absent:
        command = f"snakemake --cores all --configfile studies/{paper}.yaml"
        assert f"{PAPERS[paper].REFERENCE.short} did not run: {command}" in page.text
    assert page.text.count("did not run") == len(absent)
    assert re.search(r"not ended: \S*li2024-small\.", page.text)


def test_links_lead_to_what_there_is(page, results):
    links = [link for link in page.all("a", "href") if not link.startswith("#")]
    assert {"tirer2022-small/report.html", "both-small/figures/frames.svg"} <= set(links)
    assert len(set(links)) == 6  # report, figure and table of claims: the other tables are not there
    assert all((results / link).exists() for link in links)
    anchors = set(page.all("details", "id")) | set(page.all("h2", "id"))
    assert {link[1:] for link in page.all("a", "href") if link.startswith("#")} <= anchors


def test_text_is_escaped_and_nothing_loaded(page, results):
    html = (results / "claims.html").read_text(encoding="utf-8")
    assert "<b>Bold" not in html
    assert "&lt;b&gt;Bold&lt;/b&gt; &amp; brave." in html
    assert not any(tag in ("link", "iframe", "img", "object") for tag, _ in page.tags)
    assert not page.all("script", "src")
    assert not re.search(r"@import|url\(|https?://|fetch\(", html)


def test_the_page_is_equal_on_rewriting(page, results):
    before = (results / "claims.html").read_bytes()
    folders = [results / name for name in ("tirer2022-small", "both-small", "li2024-small")]
    write_claims_page(map(read_claims, folders), results / "claims.html")
    assert (results / "claims.html").read_bytes() == before


def test_wrong_folders_are_told(tmp_path):
    with pytest.raises(UserError, match=r"no results folder .*nowhere; run the study first"):
        read_claims(tmp_path / "nowhere")
    write_rows(tmp_path / "old/tables/claims.parquet", RUNS, [])
    with pytest.raises(UserError, match="has no column 'paper': write the tables again"):
        read_claims(tmp_path / "old")
    write(tmp_path / "empty", claim("tirer2022", "1", reason=None))
    with pytest.raises(UserError, match="column 'reason' holds a null: write the tables again"):
        read_claims(tmp_path / "empty")


def test_the_command_writes_the_page_and_the_markdown(results, tmp_path):
    target = tmp_path / "elsewhere/claims.html"
    done = CliRunner().invoke(app, ["claims", *map(str, results.glob("*-small")), "--output", str(target)])
    assert done.exit_code == 0, done.output
    assert "../results/tirer2022-small/report.html" in Page(target).all("a", "href")
    done = CliRunner().invoke(app, ["claims", str(results / "tirer2022-small"), "--markdown"])
    lines = done.output.splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == list(COLUMNS)
    assert lines[2] == (
        "| **1** The bias-free MSE UFM ends at an orthogonal frame. | ✓ supported | the statistic, needs < 0.01 "
        "| 1e-09 | 1e-10 … 2e-09 | 8e-10 … 1.2e-09 | 3 of 3 | 2 | UFM (K = 4, N = 200) |"
    )
    assert len(lines) == 5


def test_words():
    assert (number(None), number(float("nan")), number(0.0), number(1234.5)) == ("–", "–", "0", "1.23e+03")
    assert (number(4.18e-16), number(-4.18e-16), number(1.18e-12)) == ("4e-16", "-4e-16", "1.18e-12")
    assert (span(1, 2), span(1, None), span(float("nan"), 2)) == ("1 … 2", "–", "–")
    assert (needs(claim("x", "1")), needs(claim("x", "1", direction="above"))) == ("< 0.01", "> 0.01")
    assert (held(claim("x", "1")), held(claim("x", "1", count=0))) == ("3 of 3", "none")
    assert counted(["undecided", "supported", "undecided"]) == {"supported": 1, "contradicted": 0, "undecided": 2}
    assert r"\|W\|" in markdown([claim("x", "1", statement="|W| falls.")])


# --- the workflow ----------------------------------------------------------------------


class Workplace:
    """A copy of the workflow with tiny studies of all papers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for file in ("config.yaml", "Snakefile"):
            shutil.copy(ROOT / file, folder)
        for tree in ("workflow", "profiles"):
            shutil.copytree(ROOT / tree, folder / tree)
        (folder / "studies").mkdir()
        for paper in PAPERS:
            self.study(paper, samples=3)

    def study(self, paper: str, **base: Any) -> None:
        base = {"classes": 3, "dim": 6, "weight_decay": 5e-3, "feature_decay": 1e-3} | base
        config = {
            "study": {"name": paper},
            "scale": "small",
            "scales": {"small": {}, "paper": {"ufm": {"base": {"samples": 4}}}},
            "ufm": {"base": base | {"solver": {"name": "lbfgs", "starts": 2}}},
            "claims": [paper],
            "figures": [],
            "tracking": {"enabled": False},
        }
        (self.folder / f"studies/{paper}.yaml").write_text(yaml.safe_dump(config))

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "snakemake", *options, "--cores", "1"]
        command += ["--config", f"study={{data_path: ['{self.folder}']}}"]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_all_studies_are_planned_and_nothing_of_the_default_one(tmp_path):
    done = Workplace(tmp_path).run("claims", "--dry-run")
    assert done.returncode == 0, done.stderr
    stats = dict(re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.M))
    assert stats == {"claims": "1", "study_claims": str(len(PAPERS)), "total": str(len(PAPERS) + 1)}


@pytest.mark.thorough
def test_a_study_runs_in_a_snakemake_of_its_own_at_its_scale(tmp_path):
    place = Workplace(tmp_path)
    place.study("han2022", samples="many")
    paper, broken = "results/claims/tirer2022-paper.parquet", "results/claims/han2022-small.parquet"
    done = place.run(broken, paper)
    assert done.returncode != 0
    assert "ncpipe: ufm.base.samples" in done.stdout + done.stderr  # why it failed; the other went on
    assert not (tmp_path / broken).exists()
    study = Study.read(tmp_path / "results/tirer2022-paper/study.json")
    assert study.config.scale == "paper"
    assert study.config.study.data_path == (str(tmp_path),)
    assert (tmp_path / paper).read_bytes() == (
        tmp_path / "results/tirer2022-paper/tables/claims.parquet"
    ).read_bytes()
    assert "Nothing to be done" in place.run(paper).stderr
