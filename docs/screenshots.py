"""Make the pictures of docs/tracking.md from a study that has been mirrored: MLflow in Chromium at 1400 x 900.

python docs/screenshots.py STUDY [--output docs/images] [--chromium /usr/bin/chromium]
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
from mlflow import MlflowClient
from mlflow.entities import Run
from playwright.sync_api import Page, sync_playwright

from ncpipe.study.study import Study
from ncpipe.tracking.experiment import opened
from ncpipe.tracking.ui import serving
from ncpipe.tracking.view import view_page

WORKFLOW = "workflowType=machine_learning"
FIGURE = "collapse_depth.png"
SIZE = {"width": 1400, "height": 900}
TIMEOUT = 120_000
SETTLING = 4_000
"""Milliseconds that charts and thumbnails take after the page is there."""
NO_ASSISTANT = """
localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');
localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');
"""


@contextmanager
def browser(chromium: str) -> Iterator[Page]:
    options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=options)
        context = running.new_context(viewport=SIZE, color_scheme="light")
        context.add_init_script(NO_ASSISTANT)
        page = context.new_page()
        page.set_default_timeout(TIMEOUT)
        yield page
        running.close()


def first(uri: str, experiment: str, kind: str) -> Run:
    """The run of a kind with the smallest nc1_pinv."""
    order = ["metrics.`nc/nc1_pinv` ASC"]
    found = MlflowClient(uri).search_runs([experiment], f"tags.kind = '{kind}'", order_by=order, max_results=1)
    if not found:
        raise SystemExit(f"the mirror of this study holds no {kind}")
    return found[0]


def save(page: Page, path: Path) -> None:
    """The page as a PNG of 256 colours."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(SETTLING)
    picture = PIL.Image.open(io.BytesIO(page.screenshot())).convert("RGB").quantize(256)
    picture.save(path, optimize=True)
    print(f"{path}: {path.stat().st_size // 1024} KiB")


def take(page: Page, address: str, uri: str, experiment: str, output: Path) -> None:
    run, study = first(uri, experiment, "network"), first(uri, experiment, "study")
    runs = f"{address}/#/experiments/{experiment}/runs"

    page.goto(address + view_page(experiment))
    page.get_by_text(run.info.run_name).first.wait_for()
    save(page, output / "mlflow_runs.png")

    page.goto(f"{runs}/{run.info.run_id}/model-metrics?{WORKFLOW}")
    page.get_by_placeholder("Search metric charts").fill("nc/nc[12]")
    page.get_by_text("nc1_pinv", exact=True).first.wait_for()
    save(page, output / "mlflow_network.png")

    page.goto(f"{runs}/{study.info.run_id}/artifacts/figures/{FIGURE}?{WORKFLOW}")
    page.locator("img").first.wait_for()
    save(page, output / "mlflow_pictures.png")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="config or study.json of a study in the mirror")
    parser.add_argument("--output", type=Path, default=Path("docs/images"))
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args(arguments)
    study = Study.read(options.study)
    with opened(study.config, study.layout) as store:
        uri, experiment = store.uri, store.experiment
    with serving(uri) as (address, _), browser(options.chromium) as page:
        take(page, address, uri, experiment, options.output)


if __name__ == "__main__":
    main()
