"""Pages of MLflow's web interface: their addresses, and what they show."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ncpipe.system.files import read_json

LOOPBACK, PORT = "127.0.0.1", 5000
"""Where ``ncpipe ui`` serves the store of a study, if nothing else is there."""

VIEWS = {"network": "networks", "declared": "UFMs", "matched": "matched models"}
"""Kinds of run that have a view of their own, and what they are called; the first that a study has opens."""
ERRORS = ("means_gram", "weights_gram", "feature_norm", "weight_norm", "loss", "test_loss")
COLUMNS = {
    "network": ("nc/nc1_pinv", "nc/nc2_means_etf", "train/loss", "test/accuracy"),
    "declared": ("nc/nc1_pinv", "nc/nc2_means_etf", "ufm/objective", "ufm/gap"),
    "matched": tuple(f"matched/{name}_error" for name in ERRORS),
}
"""Metrics in the table of runs; it is sorted by the first."""
LOGLOG, LOG = ("log", "log"), ("log", "linear")
CHARTS: dict[str, dict[str, tuple[str, str] | None]] = {
    "network": {
        "nc/nc1_pinv": LOGLOG,
        "nc/nc2_means_etf": LOGLOG,
        "nc/nc3_duality": LOGLOG,
        "nc/nc4_mismatch": LOG,
        "train/loss": LOGLOG,
        "test/accuracy": LOG,
    },
    "declared": dict.fromkeys(
        ("nc/nc1_pinv", "nc/nc2_means_of", "nc/nc3_duality", "ufm/objective", "ufm/gap", "ufm/gradient_norm"), LOGLOG
    ),
    "matched": {f"matched/{name}_error": None for name in ERRORS},
}
"""Charts of a view, those that matter first: the scales of both axes of lines, or none, of bars."""
MOST_RUNS = 20
"""Runs in a chart."""
MAX_SETTINGS = 12


def view_tag(kind: str) -> str:
    """Tag of the experiment from which MLflow takes the view of runs of this kind."""
    return f"mlflow.sharedViewState.ncpipe-{kind}"


def runs_page(experiment: str) -> str:
    """The experiment's table of runs, below the address of a server; MLflow would open on language models."""
    return f"/#/experiments/{quote(experiment, safe='')}/runs?workflowType=machine_learning"


def view_page(experiment: str, kind: str = "network") -> str:
    """Charts and list of the runs of a kind, by its ``view_tag``, without which MLflow shows an error."""
    return f"{runs_page(experiment)}&compareRunsMode=CHART&viewStateShareKey=ncpipe-{kind}"


def runs_view(kind: str, settings: Sequence[Mapping[str, str]]) -> str:
    """Value of the ``view_tag`` for runs of a kind with these settings: those that vary are columns.

    MLflow folds what hangs beneath another run. It lists every run only where they are filtered and not sorted by
    their start.
    """
    names = dict.fromkeys(name for run in settings for name in run)
    varied = [name for name in names if len({run.get(name) for run in settings}) > 1 and name != "parameters"]
    columns = [f"metrics.`{name}`" for name in COLUMNS[kind]] + [f"params.`{name}`" for name in varied[:MAX_SETTINGS]]
    section = {"uuid": "ncpipe", "name": "Main charts", "display": True, "isReordered": True, "deleted": False}
    view = {
        "searchFilter": f'tags.kind = "{kind}"',
        "orderByKey": columns[0],
        "orderByAsc": True,
        "selectedColumns": columns,
        "compareRunCharts": [_chart(metric, scales) for metric, scales in CHARTS[kind].items()],
        "compareRunSections": [section | {"isGenerated": False}],
        "isAccordionReordered": True,  # else this section stands where the alphabet has it
    }
    return json.dumps(view)


def _chart(metric: str, scales: tuple[str, str] | None) -> dict[str, Any]:
    """A chart as MLflow's page keeps it."""
    chart: dict[str, Any] = {"uuid": metric, "metricSectionId": "ncpipe", "metricKey": metric}
    chart |= {"deleted": False, "isGenerated": False, "runsCountToCompare": MOST_RUNS}
    if scales is None:
        return chart | {"type": "BAR"}
    axes = {"xAxisScaleType": scales[0], "scaleType": scales[1], "xAxisKey": "step", "yAxisKey": "metric"}
    no_range = dict.fromkeys(("xMin", "xMax", "yMin", "yMax"))
    return chart | axes | {"type": "LINE", "selectedMetricKeys": [metric], "lineSmoothness": 0, "range": no_range}


def server_address(uri: str) -> str:
    """Address of a tracking server, or of any other store that under which ``ncpipe ui`` serves it."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return f"http://{LOOPBACK}:{PORT}"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def study_page(folder: Path) -> str | None:
    """Address of a study's table of runs, by the ``store.json`` in its MLflow folder; null where there is none."""
    file = folder / "store.json"
    store = read_json(file) if file.exists() else {}
    experiment = store.get("experiment_id")
    return server_address(store["uri"]) + runs_page(experiment) if experiment else None
