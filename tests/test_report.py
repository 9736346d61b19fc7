"""The report: what it holds, that it loads nothing, and that it escapes what users write."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from synthetic_tables import CLAIM, METADATA, MadeUp

from ncpipe.figures import save_figure
from ncpipe.report import page, write_report
from ncpipe.report.summary import sentences
from ncpipe.study.spec import StudyInfo
from ncpipe.tables.collect import read_tables
from ncpipe.tables.records import write_rows
from ncpipe.tables.schemas import CLAIMS

INFO = StudyInfo(name="made-up", title="Digits <script>alert(1)</script> & frames", description="A <b>bold</b> claim")


class Parsed(HTMLParser):
    """Tags with their attributes, and the text outside of scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if not self.tags or self.tags[-1][0] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    MadeUp(labels=("mlp MSE no bias", "mlp <CE> bias")).write(results / "tables")
    for name in ("frames", "collapse_depth"):
        save_figure(name, results / "tables", results / "figures" / name)
    return results


@pytest.fixture(scope="module")
def html(results: Path) -> str:
    figures = {name: results / "figures" / name for name in ("frames", "collapse_depth", "never_drawn")}
    write_report(INFO, results / "tables", figures, results / "report.html")
    return (results / "report.html").read_text(encoding="utf-8")


def test_holds_claims_labels_and_provenance(html):
    text = " ".join(Parsed(html).text.split())
    for part in (
        "1 The bias-free MSE UFM ends at an orthogonal frame.",
        "supported",
        "1e-09",
        "mlp MSE no bias",
        "mlp <CE> bias",
        "extended relu MSE no bias",
    ):
        assert part in text
    for part in ("98.70", "abc123", "deadbeef", "0.1.0", "Tirer, Tom and Bruna, Joan", "a <theorem>"):
        assert part in text
    assert "version = {0.1.0}" in text
    assert "author = {{The ncpipe authors}}" in text


SEVERAL = (
    CLAIM,
    CLAIM | {"claim_id": "tirer2022-2a", "verdict": "contradicted", "holds": 0},
    CLAIM | {"paper": "han2022", "claim_id": "han2022-1", "verdict": "undecided", "holds": 1},
    CLAIM | {"paper": "han2022", "claim_id": "han2022-2", "verdict": "undecided", "data": "", "seeds": 0}
    | dict.fromkeys(("effect", "low", "high", "interval_low", "interval_high"))
    | {"count": 0, "holds": 0},
)  # fmt: skip


@pytest.fixture
def several(tmp_path: Path) -> Path:
    """Tables of a study at a scale, with claims of two papers."""
    tables = MadeUp().write(tmp_path / "tables")
    write_rows(tables / "claims.parquet", CLAIMS, SEVERAL, METADATA | {"scale": "small"})
    return tables


def test_claims_stand_by_paper_with_their_numbers(several, tmp_path):
    write_report(INFO, several, {}, tmp_path / "report.html")
    text = " ".join(Parsed((tmp_path / "report.html").read_text(encoding="utf-8")).text.split())
    order = ("Tirer & Bruna 2022", "✗ contradicted", "Han, Papyan & Donoho 2022", "? undecided")
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert "1 The bias-free MSE UFM ends at an orthogonal frame. nc2_means_of at the last" in text
    assert "needs < 0.01; UFM (K = 4, N = 200) ✓ supported 1e-09 1e-10 … 2e-09 8e-10 … 1.2e-09 3 of 3 2" in text
    assert "needs < 0.01 ? undecided – – – none 0" in text
    assert "Scale of the study: small." in text


def test_papers_with_claims_are_cited(several, tmp_path, html):
    write_report(INFO, several, {}, tmp_path / "report.html")
    cited = [Parsed(page).text for page in (html, (tmp_path / "report.html").read_text(encoding="utf-8"))]
    assert [("Tirer, Tom and" in text, "Neural Collapse Under MSE Loss" in text) for text in cited] == [
        (True, False),
        (True, True),
    ]


def test_figures_are_embedded_with_captions_and_links(html):
    tags = Parsed(html).tags
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert [image["src"].split(",")[0] for image in images] == ["data:image/svg+xml;base64"] * 2
    assert all("2 seeds" in image["alt"] for image in images)
    links = [attributes["href"] for tag, attributes in tags if tag == "a"]
    assert {"figures/frames.pdf", "tables/runs.parquet", "tables/collapse.parquet"} <= set(links)
    assert "never_drawn" not in html


def test_nothing_is_loaded_from_outside(html):
    for _, attributes in Parsed(html).tags:
        for name in ("src", "srcset", "data", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert not any(tag in ("link", "iframe", "object") for tag, _ in Parsed(html).tags)
    assert not re.search(r"@import|url\(|https?://|fetch\(", html)


def test_text_of_users_is_escaped(html):
    assert "<script>alert" not in html
    assert "<b>bold" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; frames" in html


def test_page_is_equal_on_rewriting(results, html):
    figures = {name: results / "figures" / name for name in ("frames", "collapse_depth")}
    write_report(INFO, results / "tables", figures, results / "again.html")
    assert (results / "again.html").read_text(encoding="utf-8") == html


def test_large_figures_become_png(results, monkeypatch):
    monkeypatch.setattr(page, "SVG_BYTES", 10)
    shown = page.pictures({"frames": results / "figures" / "frames"}, results)
    assert shown[0].source.startswith("data:image/png;base64,")
    assert shown[0].caption


@pytest.mark.parametrize(
    "case",
    [
        MadeUp(labels=(), ufm=False),
        MadeUp(status="diverged", matched=False),
        MadeUp(status="missing", matched=False, ufm=False),
        MadeUp(value=float("nan"), prediction=0.0),
    ],
)
def test_any_tables_make_a_page(tmp_path, case):
    write_report(StudyInfo(name="made-up"), case.write(tmp_path / "tables"), {}, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<title>made-up</title>" in html
    assert ">nan<" not in html


def test_summary_in_words(tmp_path):
    told = sentences(read_tables(MadeUp().write(tmp_path)))
    assert told[0] == "4 networks (2 labels, 2 seeds)."
    assert "4 of 4 networks reached zero training error, at epoch 3." in told
    assert "Of 1 claim put to the tables: 1 supported." in told


def test_claims_of_several_papers_in_words(several):
    assert sentences(read_tables(several))[-1] == (
        "Of 4 claims of 2 papers put to the tables: 1 supported, 1 contradicted, 2 undecided;"
        " no run of the study speaks of 1."
    )
