"""The report: what it holds, that it loads nothing, and that it escapes what users write."""

from __future__ import annotations

import base64
import gzip
import io
import json
import re
import zipfile
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from synthetic_tables import CLAIM, METADATA, MadeUp

from ncpipe.figures import save_figure
from ncpipe.figures.drawing.definitions import HISTORY, definition
from ncpipe.figures.drawing.style import looks
from ncpipe.records.reading import read_tables
from ncpipe.records.schemas import CLAIMS, TABLES
from ncpipe.records.writing import read_table, write_rows
from ncpipe.report import page, write_report
from ncpipe.report.bars import bar
from ncpipe.report.explorer import explorer
from ncpipe.report.formulas import as_html
from ncpipe.report.parcel import parcel
from ncpipe.report.summary import in_words, sentences
from ncpipe.study.config import StudyInfo

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
    table = text.index("A statistic of every run")
    places = [text.index(part, table) for part in order]
    assert places == sorted(places)
    assert "1 The bias-free MSE UFM ends at an orthogonal frame. nc2_means_of at the last" in text
    drawn = "effect 1e-09, interval 8e-10 … 1.2e-09, range of runs 1e-10 … 2e-09, needs < 0.01"
    numbers = f"✓ supported 1e-09 1e-10 … 2e-09 {drawn} 8e-10 … 1.2e-09 3 of 3 2"
    assert f"needs < 0.01; UFM (K = 4, N = 200) {numbers}" in text
    assert "none 0" not in text  # the claim that no run speaks of has no row, and no verdict
    assert "✓ 1 supported, ✗ 1 contradicted, ? 1 undecided; no run of the study speaks of 1 more" in text
    assert "Scale of the study: small." in text


def test_a_claim_is_drawn_to_scale_beside_its_threshold():
    numbers = {"effect": -1.0, "low": -2.0, "high": 1.0, "interval_low": -4.0, "interval_high": 2.0, "threshold": 0.0}
    for direction, side in (("below", (0.0, 98.0)), ("above", (98.0, 52.0))):
        boxes = dict(re.findall(r'class="(\w+)" x="(.+?)" y', str(bar(CLAIM | numbers | {"direction": direction}))))
        width = re.search(r'class="side".*?width="(.+?)"', str(bar(CLAIM | numbers | {"direction": direction})))
        # 6 units of the axis are 150 - 2 * 6 wide, from the lower end of the interval on.
        places = [float(boxes[name]) for name in ("interval", "range", "threshold")]
        assert places == [6, 52, pytest.approx(98 - 0.75, abs=0.06)]
        assert (float(boxes["side"]), float(width[1])) == side
    assert 'cx="75.0"' in bar(CLAIM | numbers)
    of_one_seed = str(bar(CLAIM | numbers | {"interval_low": None}))
    assert ("range" in re.findall('class="(.+?)"', of_one_seed), 'class="interval"' in of_one_seed) == (True, False)
    assert bar(CLAIM | {"effect": None}) == ""


def test_a_page_alone_holds_the_tables(results, html, tmp_path):
    href = next(tag["href"] for _, tag in Parsed(html).tags if tag.get("id") == "parcel")
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(href.partition("base64,")[2]))) as archive:
        assert set(archive.namelist()) == {f"{name}.parquet" for name in TABLES}
        archive.extractall(tmp_path)
    for name in TABLES:
        assert read_table(tmp_path / f"{name}.parquet").equals(read_table(results / "tables" / f"{name}.parquet"))
    files = [results / "tables" / f"{name}.parquet" for name in TABLES]
    for room, fit in ((0, 0), (20_000, 3), (10**6, len(files))):
        small = parcel(files, room)
        assert len(small.source) < room + 100
        assert len(small.names) >= fit
        assert {*small.names, *small.left_out} == {file.name for file in files}


@pytest.mark.parametrize(("seeds", "folds"), [(2, 0), (12, 2)])
def test_long_tables_are_folded(tmp_path, seeds, folds):
    tables = MadeUp(seeds=seeds).write(tmp_path / "tables")
    write_report(INFO, tables, {}, tmp_path / "report.html")
    tags = [tag for tag, _ in Parsed((tmp_path / "report.html").read_text(encoding="utf-8")).tags]
    assert tags.count("details") == folds


def first_screen(folder: Path, claims: Any = SEVERAL, figures: Any = ()) -> Parsed:
    """The header and the first figure of the report of a study with these claims and drawn figures."""
    tables = MadeUp().write(folder / "tables")
    write_rows(tables / "claims.parquet", CLAIMS, claims, METADATA)
    for name in figures:
        save_figure("frames", tables, folder / name)
    write_report(INFO, tables, {name: folder / name for name in figures}, folder / "report.html")
    html = (folder / "report.html").read_text(encoding="utf-8")
    page = Parsed(html.partition('<h2 id="summary">')[0])
    page.text = " ".join(page.text.split())
    return page


def test_first_screen_is_sentence_verdicts_and_figure(tmp_path):
    on_networks = CLAIM | {"claim_id": "tirer2022-9", "data": "digits (K = 10, N = 1000)", "verdict": "undecided"}
    page = first_screen(tmp_path, [*SEVERAL, on_networks], ("frames", "stationarity"))
    found = sentences(read_tables(tmp_path / "tables"))[0]
    order = (found, "Networks", "? 9 undecided", "Models", "✓ 1 supported", "✗ 2a contradicted", "1 more")
    places = [page.text.index(part) for part in order]
    assert places == sorted(places)
    assert INFO.description not in page.text  # what the study is about stands below what it found
    assert [attributes["id"] for tag, attributes in page.tags if tag == "figure"] == ["figure-stationarity"]
    tiles = {tag["href"][1:] for _, tag in page.tags if "tile" in (tag.get("class") or "").split()}
    whole = Parsed((tmp_path / "report.html").read_text(encoding="utf-8"))
    rows = {tag["id"] for name, tag in whole.tags if name == "tr" and "id" in tag}
    assert tiles == rows  # every tile leads to the row of its claim
    assert "claim-han2022-2" not in tiles


@pytest.mark.parametrize(("claims", "said"), [([], None), (SEVERAL[3:], "no run of the study speaks of 1 more")])
def test_first_screen_without_verdicts_or_figures(tmp_path, claims, said):
    page = first_screen(tmp_path, claims, ("frames",))
    assert "tile" not in {attributes.get("class") for _, attributes in page.tags}
    assert [attributes["id"] for tag, attributes in page.tags if tag == "figure"] == ["figure-frames"]
    assert ("speaks of" in page.text) == bool(said)
    assert (said or "") in page.text
    assert "#claims" not in {attributes.get("href") for _, attributes in page.tags}


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
    namespace = html.replace("http://www.w3.org/2000/svg", "").replace("/*! https://github.com/leeoniya/uPlot", "")
    assert not re.search(r"@import|url\(|https?://|fetch\(", namespace)


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
    assert shown[0]["source"].startswith("data:image/png;base64,")
    assert shown[0]["caption"]


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
    told = sentences(read_tables(MadeUp(seeds=3).write(tmp_path)))
    assert [told[0], *told[-3:-1]] == [
        # exp(-2 · 3) / exp(-2 · 10) in every network, whatever its seed
        "After zero error, NC1 of the last training features (nc1_pinv) fell by a factor of 1.2·10⁶; it ended between"
        " 2.1·10⁻⁹ and 6.2·10⁻⁹.",
        "The study trained 6 networks (2 labels, 3 seeds) and fitted 8 declared UFMs (8 labels, 1 seed).",
        "All 6 networks reached zero training error, at epoch 3.",
    ]
    assert told[-1] == "Of 1 claim put to the tables, 1 is supported."


def test_summary_opens_with_how_well_models_predict(tmp_path):
    tables = read_tables(MadeUp().write(tmp_path))
    rows = tables["collapse"].query("split == 'train' and layer == 'features'")
    rows = rows.astype({"metric": object, "split": object}).assign(split="full_batch")
    means = rows[rows["metric"] == "nc2_means_of"]
    ends = rows.assign(value=0.25), means.assign(metric="stationarity", value=0.125)
    fits = tables["ufm"].query("kind == 'matched' and model == 'plain'")
    sizes = {"weight_norm": 1.01, "feature_norm": 0.98, "objective": 1.03}
    predicted = {f"predicted_{name}": 2.0 for name in sizes} | {f"measured_{n}": 2 * v for n, v in sizes.items()}
    told = sentences(
        tables
        | {"collapse": pd.concat([tables["collapse"], *ends]), "ufm": fits.assign(model="predicted", **predicted)}
    )
    assert told[0].startswith(
        "At the end of training the ReLU extended UFM misses the frames of the networks by 0.25 in 4 networks"
        " (BatchNorm below the head; 0.12 from a stationary point), in medians"
    )
    assert told[1] == (
        "From the weight decay alone, with nothing measured or matched, the non-negative UFM predicts |W| to 1 %, |H|"
        " to 2 % and the objective to 3 % (medians of 4 networks)."
    )


def test_summary_is_of_networks_with_an_end_phase_where_there_are_some(tmp_path):
    tables = read_tables(MadeUp().write(tmp_path))
    runs, rows = tables["runs"], tables["collapse"].query("split == 'train' and layer == 'features'")
    first = runs.loc[runs["kind"] == "network", "run_id"].iloc[0]
    settings = json.loads(runs.loc[runs["run_id"] == first, "settings"].item()) | {"terminal": {"iterations": 9}}
    runs = runs.assign(settings=runs["settings"].astype(object).where(runs["run_id"] != first, json.dumps(settings)))
    rows = rows.astype({"metric": object, "split": object}).assign(split="full_batch")
    values = rows["run_id"].map(lambda run: 0.01 if run == first else 0.25)
    ends = (
        rows.assign(value=values),
        rows[rows["metric"] == "nc2_means_of"].assign(metric="stationarity", value=0.125),
    )
    told = sentences(tables | {"runs": runs, "collapse": pd.concat([tables["collapse"], *ends])})
    assert told[0].startswith(
        "At the end of the end phase the ReLU extended UFM misses the frames of the networks by 0.01 in 1 network"
    )


def test_summary_of_a_study_without_a_good_end(tmp_path):
    told = sentences(read_tables(MadeUp(status="diverged", ufm=False).write(tmp_path)))
    assert told[:2] == ["The study trained 4 networks (2 labels, 2 seeds).", "Of the networks, 4 diverged."]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (42, "42"), (1534.2, "1,500"), (0.01234, "0.012"), (3.14e-9, "3.1·10⁻⁹"), (2e7, "2·10⁷")],
)
def test_numbers_in_words(value, text):
    assert in_words(value) == text


def test_claims_of_several_papers_in_words(several):
    assert sentences(read_tables(several))[-1] == (
        "Of 4 claims of 2 papers put to the tables, 1 is supported, 1 is contradicted, 1 is undecided and no run of"
        " the study speaks of 1."
    )


# --- explorer and tables of the page ---------------------------------------------------------------


def content(data: str) -> dict[str, Any]:
    return json.loads(gzip.decompress(base64.b64decode(data)))


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return read_tables(MadeUp().write(tmp_path_factory.mktemp("tables")))


def test_explorer_holds_the_values_of_the_tables(tables):
    data = content(explorer(tables).data)
    series = data["values"]["nc1_pinv"]["test"]["features"]
    runs = [data["runs"][run] for run, *_ in series]
    assert [run_id for run_id, _, _ in runs] == list(tables["runs"]["run_id"][:4])
    collapse = tables["collapse"].query("metric == 'nc1_pinv' and split == 'test' and layer == 'features'")
    for (_, depth, times, values), (run_id, _, _) in zip(series, runs):
        own = collapse[collapse["run_id"] == run_id]
        assert depth == 2
        assert data["times"][times] == own["time"].tolist()
        assert values == pytest.approx(own["value"].tolist(), rel=1e-4)
        assert all(len(f"{value:e}".split("e")[0].rstrip("0")) <= 6 for value in values)
    assert set(data["values"]["train_loss"]) == {""}
    assert data["definitions"]["nc3_duality"] == as_html(definition("nc3_duality"))


def test_explorer_has_the_colours_of_the_figures(tables):
    look = looks(tables["runs"])
    for label in content(explorer(tables).data)["labels"]:
        assert label["colour"] == look[label["text"]].colour


ORDER = (
    "the test split of inner layers",
    "inner layers but the first, the middle and the last",
    "inner layers",
    "the test split",
    "metrics but the usual ones",
)


def test_explorer_leaves_out_what_is_missed_least(tmp_path):
    tables = dict(read_tables(MadeUp(seeds=8).write(tmp_path)))
    collapse = tables["collapse"]
    deep = [collapse.assign(layer=f"layer{i}", depth=i) for i in range(1, 9)]
    rows = pd.concat([*deep, collapse.query("layer == 'features'").assign(depth=9)])
    tables["collapse"] = rows.assign(
        value=np.random.default_rng(0).random(len(rows))
    )  # as hard to compress as real ones
    whole = len(explorer(tables).data)
    seen, layers = set(), {}
    for share in np.geomspace(1, 0.01, 24):
        most = int(share * whole)
        kept = explorer(tables, most)
        if kept is None:
            break
        assert len(kept.data) <= most
        names = [name for name in kept.left_out if name in ORDER]
        assert names == sorted(names, key=ORDER.index)
        seen |= {*kept.left_out}
        layers[tuple(kept.left_out[-1:])] = set(content(kept.data)["values"]["nc1_pinv"]["train"])
    assert {ORDER[0], ORDER[1], ORDER[2]} <= seen
    assert layers[()] == {f"layer{i}" for i in range(1, 9)} | {"features"}
    assert layers[ORDER[1:2]] == {"layer1", "layer5", "layer8", "features"}
    assert layers[ORDER[2:3]] == {"features"}
    assert any(name.startswith("all but the first") for name in seen)
    assert explorer(tables, 10) is None


def test_page_of_a_large_study_stays_small(tmp_path):
    tables = MadeUp(labels=tuple(f"net{i} MSE" for i in range(30)), seeds=4, epochs=tuple(range(20)), value=None)
    write_report(INFO, tables.write(tmp_path / "tables"), {}, tmp_path / "report.html")
    assert (tmp_path / "report.html").stat().st_size < 5 * 2**20


@pytest.mark.parametrize("name", HISTORY)
def test_definitions_read_well_as_html(name):
    assert not re.search(r"[\\$^{}]", as_html(HISTORY[name]))


def test_a_symbol_that_is_not_known_stands_as_its_name():
    """A label of a metric of somebody's own may have any: the report is written all the same."""
    assert "omega" in as_html(r"$\omega$")


def test_long_tables_are_cut_and_say_so(results, monkeypatch, tmp_path):
    monkeypatch.setitem(page.CONSTANTS, "most_rows", 3)
    write_report(INFO, results / "tables", {}, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<tr data-kind", html)) == 3
    text = " ".join(Parsed(html).text.split())
    assert "The first 3 of 12 runs; all are in runs.parquet" in text
    assert "The first 3 of 8 fits" in text


def test_explorer_offers_every_split(results):
    tables = read_tables(results / "tables")
    collapse = tables["collapse"]
    others = [collapse[collapse["split"] == "train"].assign(split=name) for name in ("full_batch", "train_mode")]
    made = explorer(tables | {"collapse": pd.concat([collapse, *others], ignore_index=True)})
    values = json.loads(gzip.decompress(base64.b64decode(made.data)))["values"]["nc1_pinv"]
    assert list(values) == ["train", "test", "full_batch", "train_mode"]
    assert values["train_mode"] == values["full_batch"] == values["train"]


def test_runs_lead_to_mlflow(results, tmp_path, html):
    assert "searchFilter" not in Parsed(html).text
    view = "http://127.0.0.1:5000/#/experiments/1/runs?a=b"
    write_report(INFO, results / "tables", {}, tmp_path / "report.html", mlflow_view=view)
    tags = Parsed((tmp_path / "report.html").read_text(encoding="utf-8")).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a" and "searchFilter" in attributes["href"]]
    assert len(links) == 12
    assert links[0] == (
        f"{view}&orderByKey=tags.%60mlflow.runName%60"
        "&searchFilter=tags.%22ncpipe.id%22%20%3D%20%22mlp%20MSE%20no%20bias-0%22"
    )


def test_downloads_are_in_one_place(results, tmp_path):
    (tmp_path / "study.json").write_text("{}")
    write_report(INFO, results / "tables", {}, tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert '<a href="study.json">' in html
    assert page.CONTENTS.keys() == TABLES.keys()


def test_letters_name_the_bases():
    named = page.bases({"basis": f"theorem {i}"} for i in range(28))
    assert [named["theorem 0"], named["theorem 25"], named["theorem 26"], named["theorem 27"]] == [
        "a",
        "z",
        "aa",
        "ab",
    ]
