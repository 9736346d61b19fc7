"""Files and pictures that hang on the runs of the mirror; made only where a run is written."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.figure import Figure
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

from ncpipe.figures.drawing.axes import heading, scale_values
from ncpipe.figures.drawing.series import extremes
from ncpipe.figures.drawing.style import style
from ncpipe.figures.level_curves import LevelPanel
from ncpipe.records.schemas import TABLES
from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.system.files import ALTERED, read_sealed, unreadable
from ncpipe.tracking.notes import Row

PLAN_COLUMNS = ["run_id", "kind", "status", "label", "dataset", "seed", "network_id"]
TABLES_TAG = {
    MLFLOW_LOGGED_ARTIFACTS: json.dumps([{"path": f"{n}.json", "type": "table"} for n in ("claims", "plan")])
}
"""Tag by which MLflow shows these two files of a study as tables for evaluation."""
PICTURED = ("nc1_pinv", "nc2_means_etf")
"""Metrics of every layer in the picture of a network."""


@dataclass(frozen=True)
class Artifact:
    """A file of a run by its path there, or a picture by its key: pictures have thumbnails and stand side by side."""

    name: str
    digest: str
    """Hash of what the content is made of."""
    content: Callable[[], bytes]


def study_artifacts(config: Config, layout: Layout, planned: list[Row], claims: list[Row]) -> list[Artifact]:
    """Config, plan and claims of a study, its figures, and the report."""
    settings = json.dumps(config.model_dump(mode="json", exclude={"tracking"}), indent=2)
    made = [
        _of_bytes("config.json", settings.encode()),
        _of_bytes("plan.json", _table(planned, PLAN_COLUMNS)),
        _of_bytes("claims.json", _table(claims, TABLES["claims"].names)),
    ]
    figures = [_of_file(f"figures/{path.name}", path) for path in _figures(layout, "png", "svg", "pdf")]
    return made + figures + ([_of_file("report.html", layout.report)] if layout.report.exists() else [])


def study_pictures(layout: Layout) -> list[Artifact]:
    """The figures once more, for MLflow's own view of pictures."""
    return [_of_file(path.stem, path) for path in _figures(layout, "png")]


def _figures(layout: Layout, *endings: str) -> list[Path]:
    return sorted(path for path in layout.figures.glob("*") if path.suffix.removeprefix(".") in endings)


def _table(rows: list[Row], columns: list[str]) -> bytes:
    """A table as MLflow's ``log_table`` writes it."""
    return pd.DataFrame(rows, columns=columns).to_json(orient="split", index=False).encode()


def _of_bytes(name: str, content: bytes) -> Artifact:
    return Artifact(name, hashlib.sha256(content).hexdigest(), lambda: content)


def _of_file(name: str, path: Path) -> Artifact:
    if path.suffix in (".svg", ".html"):
        read_sealed(path)
    if path.suffix == ".png":
        _check_picture(path)
    return Artifact(name, hashlib.sha256(path.read_bytes()).hexdigest(), path.read_bytes)


def _check_picture(path: Path) -> None:
    try:
        with PIL.Image.open(path) as picture:
            picture.verify()
    except (OSError, SyntaxError):
        raise unreadable(path, ALTERED) from None


class LayerSeries:
    """The ``collapse`` rows of networks, run by run: a Parquet file and a picture of all layers for each."""

    def __init__(self, collapse: pa.Table) -> None:
        rows = collapse.to_pandas().query("source == 'net'")
        hashes = pd.util.hash_pandas_object(rows, index=False)
        self.digests = {
            str(run): hashlib.sha256(part.to_numpy().tobytes()).hexdigest()
            for run, part in hashes.groupby(rows["run_id"])
        }
        self.rows: Mapping[str, pd.DataFrame] = {str(run): part for run, part in rows.groupby("run_id")}

    def of(self, run_id: str, label: str) -> tuple[list[Artifact], list[Artifact]]:
        """The file and the picture of a run, if it has rows."""
        if run_id not in self.rows:
            return [], []
        rows, digest = self.rows[run_id], self.digests[run_id]
        file = Artifact("collapse.parquet", digest, lambda: _parquet(rows))
        return [file], [Artifact("collapse", digest, lambda: layer_picture(rows, label))]


def _parquet(rows: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(rows, preserve_index=False), buffer, compression="zstd")
    return buffer.getvalue()


def layer_picture(rows: pd.DataFrame, label: str) -> bytes:
    """PNG: metrics of every measured layer of one network against epochs, first layer light, last features dark."""
    train = rows[rows["split"] == "train"]
    with style():
        figure = Figure(figsize=(4.8, 2.2))
        margins = {"left": 0.085, "right": 0.985, "bottom": 0.16, "top": 0.8, "wspace": 0.16}
        for axes, metric in zip(figure.subplots(1, len(PICTURED), gridspec_kw=margins), PICTURED):
            panel = LevelPanel(label, metric, "epoch", train[train["metric"] == metric].assign(label=label))
            panel.draw(axes)
            scale_values(axes, "y", extremes(panel.bands))
            heading(axes, metric)
            axes.set_xlabel("epoch")
        figure.suptitle(label, size=7, x=0.01, ha="left")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
        return buffer.getvalue()
