"""What the mirror holds: the runs of a study as MLflow will show them, made from its tables and figures alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ncpipe.claims.evidence.wording import counted
from ncpipe.records.schemas import RUNS, TABLES
from ncpipe.records.writing import read_table
from ncpipe.settings.identity import STAGE_VERSIONS
from ncpipe.study.config import Config
from ncpipe.study.layout import Layout
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json
from ncpipe.system.provenance import Origin, in_json, run_command, study_command
from ncpipe.tables.ends import last_values
from ncpipe.tracking.artifacts import TABLES_TAG, Artifact, LayerSeries, study_artifacts, study_pictures
from ncpipe.tracking.clock import Span, joint_span, spans, timed
from ncpipe.tracking.notes import Row, network_note, run_name, study_note
from ncpipe.tracking.points import Point, metric_points, run_points

NOTE = "mlflow.note.content"
STAGES = {"network": "train", "declared": "fit", "matched": "match", "continual": "continual"}
TAGS = ("kind", "status", "label", "dataset", "network_id", "device", "model", "loss", "seed")
NOT_SETTINGS = {"source", "run_id", "kind", "network_id", "status", "label", "settings", "device"}
NOT_SETTINGS |= {"zero_error_epoch", "selected", "precision", "provenance"}  # results
PARAMS = [name for name in RUNS.names if name not in NOT_SETTINGS and not name.startswith("final_")]


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
    artifacts: list[Artifact] = field(default_factory=list)
    pictures: list[Artifact] = field(default_factory=list)
    data: dict[str, str] | None = None
    """The data set of a network, for MLflow's list of inputs: name, digest, source and profile."""
    origin: dict[str, str] = field(default_factory=dict)
    """Tags that say what made it and makes it again: no news of the run, and not in its digest."""

    def digest(self) -> str:
        """Hash over all that is logged and the version of this stage."""
        content = {
            name: value for name, value in vars(self).items() if name not in ("origin", "artifacts", "pictures")
        }
        content |= {"files": [(file.name, file.digest) for file in (*self.artifacts, *self.pictures)]}
        content |= {"version": STAGE_VERSIONS["tracking"]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def study_key(config: Config) -> str:
    """What a study is known by in a store: its name and scale."""
    return config.study.name + (f"-{config.scale}" if config.scale else "")


def study_id(config: Config) -> str:
    """Id of the study's own run; ids of the others end in a hash, so none is equal to it."""
    return f"study-{study_key(config)}"


class StudyRecords:
    """The runs of a study, the study's own first and every run after the one it hangs beneath.

    All tables are read on construction; runs that are planned but have no result are left out.
    """

    def __init__(self, config: Config, layout: Layout) -> None:
        if not (layout.tables / "runs.parquet").exists():
            raise UserError(f"no tables in {layout.tables}; make them first: snakemake tables")
        tables = {name: read_table(layout.tables / f"{name}.parquet") for name in TABLES}
        metadata = tables["runs"].schema.metadata or {}
        self.metadata = {key.decode(): value.decode() for key, value in metadata.items()}
        self.config, self.layout, self.recorded = config, layout, layout.recording.exists()
        self.origins: dict[str, Origin] = json.loads(self.metadata.pop("provenance", "{}"))
        self.planned: list[Row] = tables["runs"].to_pylist()
        self.rows = [row for row in self.planned if row["status"] != "missing"]
        self.by_id = {row["run_id"]: row for row in self.rows}
        self.claims: list[Row] = tables["claims"].to_pylist()
        self.basis = {row["run_id"]: row["basis"] for row in tables["ufm"].select(["run_id", "basis"]).to_pylist()}
        timings = tables["timings"].select(["run_id", "time", "seconds"]).to_pandas()
        timings["finished_at"] = np.asarray(tables["timings"]["finished_at"].cast(pa.int64()))
        self.spans = spans(timings)
        self.span = joint_span(self.spans.values())
        self.points = dict(tuple(timed(metric_points(tables), timings).groupby("run_id")))
        wanted = {"layer": "features", "split": "train", "metric": "nc1_pinv"}
        ends = last_values(layout.tables / "collapse.parquet", (), defined=True, **wanted)
        self.nc1 = {run_id: value for (run_id,), value in ends.items()}
        self.layers = LayerSeries(tables["collapse"])
        self.data = data_uses(layout, {row["dataset_id"] for row in self.rows if row["dataset_id"]})

    def __len__(self) -> int:
        return 1 + len(self.rows)

    def __iter__(self) -> Iterator[RunRecord]:
        yield self._study()
        for row in self.rows:
            yield self._run(row)

    def _origin(self, command: str, made_by: str | None = None) -> dict[str, str]:
        """The code that made the tables, what made the run, and the command that makes it again."""
        commit = self.metadata.get("git_commit")
        code = {"git_commit": commit, "mlflow.source.git.commit": commit} if commit else {}
        again = {} if self.recorded else {"reproduce": command}
        origin = self.origins.get(made_by or "")
        return code | again | ({"provenance": in_json(origin)} if origin else {})

    def _study(self) -> RunRecord:
        study = self.config.study
        statuses = pd.Series([row["status"] for row in self.planned], dtype=str).value_counts()
        counts = {f"runs_{status}": str(count) for status, count in statuses.sort_index().items()}
        known = {key: self.metadata[key] for key in ("study_hash", "ncpipe_version") if key in self.metadata}
        scale = {"scale": self.config.scale} if self.config.scale else {}
        note = study_note(study.title or study.name, study.description, self.claims)
        return RunRecord(
            id=study_id(self.config),
            name=study_key(self.config),
            parent=None,
            start=self.span.start,
            end=self.span.end,
            tags={"kind": "study", "stage": "study", **scale, **counts, **known, NOTE: note, **TABLES_TAG},
            points=claim_points(self.claims, self.span.end),
            artifacts=study_artifacts(self.config, self.layout, self.planned, self.claims),
            pictures=study_pictures(self.layout),
            origin=self._origin(study_command(self.layout.results)),
        )

    def _run(self, row: Row) -> RunRecord:
        run_id, is_network = row["run_id"], row["kind"] == "network"
        network = row["network_id"] if row["network_id"] in self.by_id else None
        ended = self.spans.get(str(network), self.span).end
        span = self.spans.get(run_id, Span(ended, ended))
        name = run_name(row, self.by_id.get(row["network_id"]))
        tags = {"stage": STAGES[row["kind"]], "basis": self.basis.get(run_id)} | run_tags(row)
        if is_network:
            weights = None if self.recorded else f"runs/{run_id}/model.safetensors"
            note = " ".join(network_note(row, self.nc1.get(run_id), weights))
            tags |= {NOTE: note, "weights": weights}
        artifacts, pictures = self.layers.of(run_id, name)
        return RunRecord(
            id=run_id,
            name=name,
            parent=network or study_id(self.config),
            start=span.start,
            end=span.end,
            tags={key: value for key, value in tags.items() if value},
            params=params(row),
            points=run_points(self.points.get(run_id), span.start),
            artifacts=artifacts,
            pictures=pictures,
            data=self.data.get(row["dataset_id"]) if is_network else None,
            origin=self._origin(run_command(self.layout.results, run_id), row.get("provenance")),
        )


def run_tags(row: Row) -> dict[str, str]:
    """What a run is, as tags to filter by."""
    return {name: str(row[name]) for name in TAGS if row.get(name) not in (None, "")}


def params(row: Row) -> dict[str, str]:
    """The settings of a run, as columns of MLflow's table."""
    return {name: as_text(row[name]) for name in PARAMS if row.get(name) is not None}


def as_text(value: Any) -> str:
    """A setting as MLflow shows it; a list is written without brackets."""
    if isinstance(value, list):
        return ", ".join(map(as_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def claim_points(claims: list[Row], time: int) -> list[Point]:
    """How many claims have each verdict, as metrics of the study's run; none without claims."""
    counts = counted(claim["verdict"] for claim in claims) if claims else {}
    return [Point(f"claims/{verdict}", float(count), time, 0) for verdict, count in counts.items()]


def data_uses(layout: Layout, ids: set[str]) -> dict[str, dict[str, str]]:
    """The data sets on disk with these ids, by id."""
    files = {dataset_id: layout.dataset(dataset_id) / "dataset.json" for dataset_id in sorted(ids)}
    return {dataset_id: _data_use(dataset_id, read_json(file)) for dataset_id, file in files.items() if file.exists()}


def _data_use(dataset_id: str, about: Row) -> dict[str, str]:
    samples = {split: sum(counts) for split, counts in about["counts"].items()}
    profile = {"num_rows": sum(samples.values()), **samples, "classes": len(about["classes"])}
    source = {"path": f"data/{dataset_id}", "settings": about["settings"]}
    use = {"name": about["name"], "digest": about["sha256"]["train"][:16]}
    return use | {"source": json.dumps(source), "profile": json.dumps(profile)}
