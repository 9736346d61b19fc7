"""What the mirror holds: the runs of a study as MLflow will show them, made from its tables and figures alone."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from ncpipe.claims.wording import counted, held, in_cell, number, span
from ncpipe.errors import UserError
from ncpipe.study.identity import STAGE_VERSIONS
from ncpipe.study.layout import Layout
from ncpipe.study.spec import Config
from ncpipe.tables.records import read_table
from ncpipe.tables.schemas import RUNS, TABLES, UFM
from ncpipe.tracking.clock import Clock, clocks, joint_clock

Row = dict[str, Any]

MAX_TAG_CHARACTERS = 8000
"""MLflow's limit to the value of a tag, and so to a description."""
MAX_METRIC_KEYS = 100
"""More make the UI crawl: what exceeds them is in the tables."""

HISTORY_KEYS = {
    "train_loss": "train/loss",
    "train_accuracy": "train/accuracy",
    "test_loss": "test/loss",
    "test_accuracy": "test/accuracy",
    "learning_rate": "learning_rate",
    "test_old_accuracy": "test/old_accuracy",
    "test_new_accuracy": "test/new_accuracy",
    "old_loss": "test/old_loss",
    "before_old_loss": "before/old_loss",
    "before_old_accuracy": "before/old_accuracy",
    "objective": "ufm/objective",
    "gap": "ufm/gap",
    "gradient_norm": "ufm/gradient_norm",
}
COLLAPSE_PREFIXES = {"train": "nc/", "test": "nc_test/"}

FIT_KEYS = {"value": "ufm/objective", "gap": "ufm/gap", "gradient_norm": "ufm/gradient_norm"}
"""Logged from the ``ufm`` table for fits that keep no history, such as constructions."""
FIT_SCALARS = {name: f"ufm/{name}" for name in ("optimum", "success_fraction", "dead_directions")} | {
    f"{which}_{what}": f"matched/{which}_{what}"
    for which in ("predicted", "measured")
    for what in ("loss", "feature_norm", "weight_norm")
}
FIT_SCALARS |= {name: f"matched/{name}" for name in UFM.names if name.endswith("_error")}

NOT_SETTINGS = {"source", "run_id", "kind", "network_id", "status", "label", "settings", "device"}
NOT_SETTINGS |= {"zero_error_epoch", "selected", "precision"}  # results
PARAMS = [name for name in RUNS.names if name not in NOT_SETTINGS and not name.startswith("final_")]


class Point(NamedTuple):
    """One value of a metric, in the order of MLflow's ``Metric``; the timestamp is in milliseconds."""

    key: str
    value: float
    timestamp: int
    step: int


@dataclass(frozen=True)
class RunRecord:
    """Everything that is logged in one MLflow run."""

    id: str
    name: str
    parent: str | None
    """Id of the run that it hangs beneath; null for the study's own."""
    start: int
    end: int
    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    """Contents by path."""

    def digest(self) -> str:
        """Hash over all that is logged and the version of this stage."""
        content = asdict(self) | {"version": STAGE_VERSIONS["tracking"]}
        content["artifacts"] = {path: hashlib.sha256(data).hexdigest() for path, data in self.artifacts.items()}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


class StudyRecords:
    """The runs of a study, the study's own first and every run after the one it hangs beneath.

    All files are read on construction; runs that are planned but have no result are left out.
    """

    def __init__(self, config: Config, layout: Layout) -> None:
        if not (layout.tables / "runs.parquet").exists():
            raise UserError(f"no tables in {layout.tables}; make them first: snakemake tables")
        tables = {name: read_table(layout.tables / f"{name}.parquet") for name in TABLES}
        metadata = tables["runs"].schema.metadata or {}
        self.metadata = {key.decode(): value.decode() for key, value in metadata.items()}
        self.config = config
        self.planned: list[Row] = tables["runs"].to_pylist()
        self.rows = [row for row in self.planned if row["status"] != "missing"]
        self.by_id = {row["run_id"]: row for row in self.rows}
        self.claims: list[Row] = tables["claims"].to_pylist()
        self.fits: dict[str, Row] = {row["run_id"]: row for row in tables["ufm"].to_pylist()}
        self.clocks = clocks(tables["timings"])
        self.clock = joint_clock(self.clocks.values())
        self.points = dict(tuple(metric_points(tables).groupby("run_id")))
        self.artifacts = _artifacts(config, layout, self.claims)

    @property
    def study_id(self) -> str:
        """Id of the study's own run; ids of the others end in a hash, so none is equal to it."""
        return f"study-{self.config.study.name}"

    def __len__(self) -> int:
        return 1 + len(self.rows)

    def __iter__(self) -> Iterator[RunRecord]:
        yield self._study()
        for row in self.rows:
            yield self._run(row)

    def _study(self) -> RunRecord:
        statuses = pd.Series([row["status"] for row in self.planned], dtype=str).value_counts()
        counts = {f"runs_{status}": str(count) for status, count in statuses.sort_index().items()}
        provenance = {
            key: self.metadata[key] for key in ("git_commit", "study_hash", "ncpipe_version") if key in self.metadata
        }
        commit = {"mlflow.source.git.commit": provenance["git_commit"]} if "git_commit" in provenance else {}
        return RunRecord(
            id=self.study_id,
            name=self.config.study.name,
            parent=None,
            start=self.clock.start,
            end=self.clock.end,
            tags={"kind": "study", **counts, **provenance, **commit, "mlflow.note.content": self._description()},
            points=claim_points(self.claims, self.clock),
            artifacts=self.artifacts,
        )

    def _description(self) -> str:
        study = self.config.study
        return description(study.title or study.name, study.description, self.claims)

    def _run(self, row: Row) -> RunRecord:
        network = row["network_id"] if row["network_id"] in self.by_id else None
        fallback = self.clocks[network].ended if network in self.clocks else self.clock.ended
        clock = self.clocks.get(row["run_id"], fallback)
        basis = self.fits.get(row["run_id"], {}).get("basis")
        tags = {name: row[name] for name in ("kind", "status", "label", "dataset", "network_id", "device")}
        return RunRecord(
            id=row["run_id"],
            name=run_name(row, self.by_id.get(row["network_id"])),
            parent=network or self.study_id,
            start=clock.start,
            end=clock.end,
            tags={name: value for name, value in (tags | {"basis": basis}).items() if value},
            params={name: as_text(row[name]) for name in PARAMS if row[name] is not None},
            points=run_points(self.points.get(row["run_id"]), clock),
        )


def run_name(row: Row, network: Row | None = None) -> str:
    """Label and seed; a matched UFM bears those of its network."""
    label: str = row["label"] or row["run_id"]
    if network:
        return f"{label} of {run_name(network)}"
    return label if row["seed"] is None else f"{label} seed={row['seed']}"


def as_text(value: Any) -> str:
    """A setting as MLflow shows it; a list is written without brackets."""
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def metric_points(tables: Mapping[str, pa.Table]) -> pd.DataFrame:
    """Finite values of all metrics of all runs: columns ``run_id``, ``key``, ``step``, ``value``."""
    history, collapse = tables["history"].to_pandas(), tables["collapse"].to_pandas()
    fits, runs = tables["ufm"].to_pandas(), tables["runs"].to_pandas()
    last = collapse[collapse["layer"] == "features"]
    without_history = fits[~fits["run_id"].isin(history["run_id"])]
    parts = [
        _long(history, history["quantity"].map(HISTORY_KEYS)),
        _scalars(without_history, FIT_KEYS, step="iterations"),
        _scalars(fits, FIT_SCALARS, step="iterations"),
        _scalars(runs, {"zero_error_epoch": "zero_error_epoch"}, step="zero_error_epoch"),
        _long(last, last["split"].map(COLLAPSE_PREFIXES) + last["metric"]),
    ]
    points = pd.concat(parts, ignore_index=True)
    return points[points["key"].notna() & np.isfinite(points["value"].astype(float))]


def _long(frame: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    return pd.DataFrame({"run_id": frame["run_id"], "key": keys, "step": frame["time"], "value": frame["value"]})


def _scalars(frame: pd.DataFrame, keys: Mapping[str, str], step: str) -> pd.DataFrame:
    parts = [
        pd.DataFrame({"run_id": frame["run_id"], "key": key, "step": frame[step].fillna(0), "value": frame[name]})
        for name, key in keys.items()
    ]
    return pd.concat(parts, ignore_index=True)


def run_points(points: pd.DataFrame | None, clock: Clock) -> list[Point]:
    """Points of one run with the times recorded for them, of its first ``MAX_METRIC_KEYS`` metrics."""
    if points is None:
        return []
    kept = points[points["key"].isin(points["key"].unique()[:MAX_METRIC_KEYS])]
    steps = kept["step"].to_numpy(dtype=np.int64)
    columns = kept["key"].tolist(), kept["value"].astype(float).tolist(), clock.at(steps).tolist(), steps.tolist()
    return [Point(*point) for point in zip(*columns)]


def description(title: str, text: str, claims: list[Row]) -> str:
    """Markdown for the study's run: title, description and the table of claims, as far as MLflow holds it."""
    lines = [f"# {title}", "", *([text, ""] if text else [])]
    if claims:
        lines += ["| claim | statement | verdict | effect | over seeds | runs |", "|---|---|---|---|---|---|"]
        lines += map(_claim_line, claims)
    cut = "\n\n… more in the artifact claims.csv"
    size = list(accumulate(len(line) + 1 for line in lines))
    if size[-1] <= MAX_TAG_CHARACTERS:
        return "\n".join(lines)
    return "\n".join(lines[: bisect_right(size, MAX_TAG_CHARACTERS - len(cut))]) + cut


def _claim_line(claim: Row) -> str:
    interval = span(claim["interval_low"], claim["interval_high"])
    numbers = f"{number(claim['effect'])} | {interval} | {held(claim)}"
    return f"| {claim['claim_id']} | {in_cell(claim['statement'])} | **{claim['verdict']}** | {numbers} |"


def claim_points(claims: list[Row], clock: Clock) -> list[Point]:
    """How many claims have each verdict, as metrics of the study's run; none without claims."""
    counts = counted(claim["verdict"] for claim in claims) if claims else {}
    return [Point(f"claims/{verdict}", float(count), clock.end, 0) for verdict, count in counts.items()]


def _artifacts(config: Config, layout: Layout, claims: list[Row]) -> dict[str, bytes]:
    pictures = sorted(path for path in layout.figures.glob("*") if path.suffix in {".png", ".svg"})
    settings = json.dumps(config.model_dump(mode="json"), indent=2)
    artifacts = {"config.json": settings.encode(), "claims.csv": pd.DataFrame(claims).to_csv(index=False).encode()}
    artifacts |= {f"figures/{path.name}": path.read_bytes() for path in pictures}
    return artifacts | ({"report.html": layout.report.read_bytes()} if layout.report.exists() else {})
