"""Pages of MLflow's web interface: their addresses, and what the table of runs shows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from ncpipe.system.files import read_json

LOOPBACK, PORT = "127.0.0.1", 5000
"""Where ``ncpipe ui`` serves the store of a study, if nothing else is there."""

VIEW = "ncpipe"
VIEW_TAG = f"mlflow.sharedViewState.{VIEW}"
"""Tag of the experiment from which MLflow takes the view of that name."""
METRICS = {
    "network": ("nc/nc1_pinv", "nc/nc2_means_etf", "train/loss", "test/accuracy"),
    "declared": ("nc/nc1_pinv", "nc/nc2_means_etf", "ufm/objective", "ufm/gap"),
}
"""Columns of the table of runs, by the kind of run that it shows; it is sorted by the first."""
MAX_SETTINGS = 12


def runs_page(experiment: str) -> str:
    """The experiment's table of runs, below the address of a server; MLflow would open on language models."""
    return f"/#/experiments/{quote(experiment, safe='')}/runs?workflowType=machine_learning"


def view_page(experiment: str) -> str:
    """The list of runs with the columns and order of the tag ``VIEW_TAG``, without which MLflow shows an error."""
    return f"{runs_page(experiment)}&viewStateShareKey={VIEW}"


def runs_view(kind: str, settings: Sequence[Mapping[str, str]]) -> str:
    """Value of ``VIEW_TAG`` for runs of a kind with these settings: those that vary are columns.

    MLflow folds what hangs beneath another run. It lists every run only where they are filtered and not sorted by
    their start.
    """
    names = dict.fromkeys(name for run in settings for name in run)
    varied = [name for name in names if len({run.get(name) for run in settings}) > 1 and name != "parameters"]
    columns = [f"metrics.`{name}`" for name in METRICS[kind]] + [f"params.`{name}`" for name in varied[:MAX_SETTINGS]]
    view = {
        "searchFilter": f'tags.kind = "{kind}"',
        "orderByKey": columns[0],
        "orderByAsc": True,
        "selectedColumns": columns,
    }
    return json.dumps(view)


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
