"""The report in a real browser: it loads alone, answers to its reader, fits a phone, and prints."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from synthetic_tables import MadeUp

from ncpipe.figures import save_figure
from ncpipe.figures.drawing.style import looks
from ncpipe.records.schemas import COLLAPSE
from ncpipe.records.writing import read_table, write_rows
from ncpipe.report import write_report
from ncpipe.study.config import StudyInfo

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: the report is not tried in a browser")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH: the report is not tried in it")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
LABELS = ("mlp MSE no bias", "mlp CE bias")


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("results")
    tables = MadeUp(labels=LABELS, seeds=3).write(results / "tables")
    collapse = read_table(tables / "collapse.parquet").to_pylist()
    for row in collapse:
        row["value"] *= 10 if LABELS[1] in row["run_id"] else 1  # else the lines of both labels are one
        if row["metric"] == "nc3_duality":
            row["value"] *= 3 + row["time"]
        if row["metric"] == "nc4_mismatch" and row["time"]:
            row["value"] = 0.0
    write_rows(tables / "collapse.parquet", COLLAPSE, collapse, {})
    save_figure("frames", tables, results / "figures" / "frames")
    figures = {"frames": results / "figures" / "frames"}
    write_report(
        StudyInfo(name="made-up"), tables, figures, results / "report.html", mlflow_view="http://127.0.0.1/#/?a"
    )
    return results / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, report: Path) -> Iterator[Any]:
    """The loaded report; at the end nothing but it has been asked for, and nothing has gone wrong."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, color_scheme="light")
    context.set_default_timeout(60_000)
    asked: list[str] = []
    wrong: list[str] = []
    context.route(lambda url: not url.startswith("file:"), lambda route: route.abort())
    page = context.new_page()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text))
    opened(page, report.as_uri())
    yield page
    context.close()
    assert {url.split("#")[0] for url in asked if not url.startswith(("data:", "blob:"))} == {report.as_uri()}
    assert wrong == []


def opened(page: Any, address: str) -> None:
    page.goto(address)
    page.wait_for_selector("#explorer[data-ready]")


def picture(page: Any) -> str:
    """The chart's pixels, once drawn."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page.evaluate("document.querySelector('#chart canvas').toDataURL()")


def colours(page: Any) -> set[str]:
    """Colours that fill some of the chart's pixels."""
    picture(page)
    code = """() => {
      const canvas = document.querySelector('#chart canvas');
      const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      const found = new Set();
      for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] === 255)
          found.add('#' + [0, 1, 2].map(j => data[i + j].toString(16).padStart(2, '0')).join('').toUpperCase());
      return [...found];
    }"""
    return set(page.evaluate(code))


def said(page: Any) -> str:
    return page.inner_text("#said")


def test_draws_lines_in_the_colours_of_the_figures(page, report):
    look = looks(pd.DataFrame(read_table(report.parent / "tables" / "runs.parquet").to_pylist()))
    assert {look[label].colour for label in LABELS} <= colours(page)
    assert said(page) == "2 labels, 6 runs."
    assert "Tr(ΣWΣB+) / K" in page.inner_text("#about").replace("\n", "")


def test_choices_change_the_drawing(page):
    pictures = [picture(page)]
    for act in (
        lambda: page.select_option("[name=metric]", "nc3_duality"),
        lambda: page.uncheck("[name=y]"),
        lambda: page.uncheck("[name=x]"),
        lambda: page.select_option("[name=lines]", "seeds"),
        lambda: page.select_option("[name=layer]", "layer1"),
        lambda: page.select_option("[name=layer]", "*"),
        lambda: page.uncheck(f"#labels [value='{LABELS[0]}']"),
        lambda: page.select_option("[name=metric]", "test_loss"),
    ):
        act()
        pictures.append(picture(page))
    assert len(set(pictures)) == len(pictures)
    assert said(page) == "1 label, 3 runs."
    assert page.is_hidden("[name=layer]")  # a loss has none
    page.uncheck(f"#labels [value='{LABELS[1]}']")
    assert said(page) == "0 labels, 0 runs. Choose a label."


def test_zeros_are_left_out_on_the_logarithmic_scale_and_shown_on_the_linear_one(page):
    page.select_option("[name=metric]", "nc4_mismatch")
    assert "18 values of 0 or less are left out on the logarithmic scale." in said(page)
    page.uncheck("[name=y]")
    assert said(page) == "2 labels, 6 runs."


def test_ufms_stand_against_iterations(page):
    page.select_option("[name=kind]", label="UFMs, by iteration")
    assert page.locator("#labels label").count() == 8
    assert "plain linear MSE bias (GD)" in page.inner_text("#labels")
    page.click("#no-label")
    assert said(page) == "0 labels, 0 runs. Choose a label."
    page.click("#every-label")
    assert said(page) == "8 labels, 8 runs."
    page.focus("#chart")
    page.keyboard.press("ArrowRight")
    assert "iteration 0" in page.inner_text("#tip")


def test_pointer_shows_run_seed_epoch_and_value(page):
    page.select_option("[name=lines]", "seeds")
    page.locator("#chart").scroll_into_view_if_needed()
    box = page.locator("#chart .u-over").bounding_box()
    for share in (0.9, 0.8, 0.7, 0.6, 0.5):
        page.mouse.move(box["x"] + 0.97 * box["width"], box["y"] + share * box["height"])
        if page.is_visible("#tip"):
            break
    assert re.search(r"epoch 10: \d\S*10⁻[⁸⁹]\nseed \d, mlp (MSE no|CE) bias-\d", page.inner_text("#tip"))
    page.mouse.move(box["x"] - 50, box["y"])
    page.wait_for_selector("#tip", state="hidden")


def test_keys_lead_from_value_to_value(page):
    page.focus("#chart")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#tip")
    page.keyboard.press("ArrowRight")
    assert "epoch 0" in first
    assert "epoch 1: median" in page.inner_text("#tip")
    assert "epoch 1: median" in page.inner_text("#pointed")
    page.keyboard.press("ArrowDown")
    assert LABELS[1] in page.inner_text("#tip")
    page.keyboard.press("Escape")
    assert page.is_hidden("#tip")


def epochs_by_keys(page: Any, steps: int) -> list[int]:
    """Epochs at which the first line has values, as the arrow keys lead to them."""
    page.focus("#chart")
    found = []
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
        found.append(int(re.search(r"epoch (\d+):", page.inner_text("#tip"))[1]))
    return list(dict.fromkeys(found))


def test_medians_leave_out_the_epochs_of_one_seed(browser, tmp_path):
    tables = MadeUp(labels=LABELS[:1], seeds=3, own_epochs=(2, 4, 6), ufm=False).write(tmp_path / "tables")
    collapse = read_table(tables / "collapse.parquet").to_pylist()
    for row in collapse:
        if (row["time"], row["metric"]) == (3, "nc1_pinv") and row["run_id"].endswith("-1"):
            row["value"] = float("nan")  # measured, and undefined
    write_rows(tables / "collapse.parquet", COLLAPSE, collapse, {})
    write_report(StudyInfo(name="made-up"), tables, {}, tmp_path / "report.html")
    page = browser.new_page()
    opened(page, (tmp_path / "report.html").as_uri())
    assert epochs_by_keys(page, 8) == [0, 1, 3, 10]
    page.select_option("[name=lines]", "seeds")
    assert epochs_by_keys(page, 8) == [0, 1, 2, 3, 10]
    page.close()


def test_a_view_can_be_linked(page):
    page.select_option("[name=metric]", "nc2_means_of")
    page.uncheck("[name=y]")
    page.uncheck(f"#labels [value='{LABELS[0]}']")
    drawn, address = picture(page), page.url
    page.goto("about:blank")
    opened(page, address)
    assert page.input_value("[name=metric]") == "nc2_means_of"
    assert not page.is_checked("[name=y]")
    assert picture(page) == drawn


def test_values_are_saved_as_csv(page):
    with page.expect_download() as download:
        page.click("#save")
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "label,run_id,seed,layer,split,time,metric,value"
    assert lines[1] == "mlp MSE no bias,mlp MSE no bias-0,0,features,train,0,nc1_pinv,1"
    assert len(lines) == 1 + 6 * 4


def column(page: Any, name: str) -> list[str]:
    heads = [text.strip() for text in page.locator("#runs-table th").all_inner_texts()]
    place = [text.replace("\n", "") for text in heads].index(name)
    return page.eval_on_selector_all(
        "#runs-table tbody tr:not([hidden])", f"rows => rows.map(row => row.cells[{place}].textContent.trim())"
    )


def test_table_sorts(page):
    head = page.locator("#runs-table th", has_text="nc1_pinv")
    for sign, name in ((1, "ascending"), (-1, "descending")):
        head.locator("button").click()
        values = [sign * float(text) for text in column(page, "nc1_pinv")]
        assert values == sorted(values)
        assert head.get_attribute("aria-sort") == name


def test_table_filters(page):
    shown = lambda: page.inner_text("#runs-shown")  # noqa: E731
    assert shown() == "14 of 14 rows"
    page.fill("[name=words]", "mse  MLP")
    assert shown() == "3 of 14 rows"
    assert len(column(page, "Seed")) == 3
    page.fill("[name=words]", "")
    page.select_option("#runs-filters [name=kind]", "declared")
    assert shown() == "8 of 14 rows"
    page.select_option("#runs-filters [name=loss]", "ce")
    assert shown() == "0 of 14 rows"


@pytest.mark.parametrize("width", [390, 1280])
def test_page_has_the_width_of_the_screen(page, width):
    page.set_viewport_size({"width": width, "height": 844})
    page.wait_for_function("document.querySelector('.uplot').offsetWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width == 1280:
        sizes = page.eval_on_selector_all(".scroll", "all => all.map(one => one.scrollWidth - one.clientWidth)")
        assert sizes == [0] * len(sizes)


def test_dark_screens_get_dark_colours(page):
    light, paper = picture(page), page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != paper
    assert picture(page) != light


def test_verdicts_lead_to_their_claims_by_key(page):
    assert page.evaluate("document.querySelector('#verdicts').getBoundingClientRect().bottom < innerHeight")
    page.focus("#verdicts a")
    page.keyboard.press("Enter")
    assert page.inner_text("tr:target .verdict") == "✓ supported"
    assert page.evaluate("document.querySelector('tr:target').getBoundingClientRect().top < innerHeight")


def test_folded_tables_are_printed_and_folded_again(browser, tmp_path):
    tables = MadeUp(labels=LABELS, seeds=12).write(tmp_path / "tables")
    write_report(StudyInfo(name="made-up"), tables, {}, tmp_path / "report.html")
    page = browser.new_page()
    opened(page, (tmp_path / "report.html").as_uri())
    assert page.is_hidden("#runs-table")
    for event, hidden in (("beforeprint", False), ("afterprint", True)):
        page.evaluate(f"dispatchEvent(new Event('{event}'))")
        assert page.is_hidden("#runs-table") == hidden
    page.focus("details:has(#runs-table) > summary")
    page.keyboard.press("Enter")
    assert page.is_visible("#runs-table")
    page.close()


def test_the_tables_of_a_mailed_page_are_downloaded(page):
    with page.expect_download() as download:
        page.click("#parcel")
    assert zipfile.is_zipfile(download.value.path())
    assert download.value.suggested_filename == "made-up-tables.zip"


def test_prints_whole(page):
    pages = re.findall(rb"/Type\s*/Page\b", page.pdf())
    assert len(pages) >= 3
    page.emulate_media(media="print")
    assert page.is_hidden("#explorer")
    heights = page.eval_on_selector_all("figure", "all => all.map(one => getComputedStyle(one).breakInside)")
    assert heights == ["avoid"]
