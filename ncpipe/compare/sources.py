"""What is compared: a study by its results folder, or a run by its id among the tables of a study."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from ncpipe.compare.agreement import Tables
from ncpipe.records.reading import metadata, read_whole
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import CHECKSUM
from ncpipe.settings.base import nearest
from ncpipe.study.layout import Layout
from ncpipe.system.errors import UserError
from ncpipe.system.provenance import summary
from ncpipe.system.words import listed

STAGES = ("runs", "ufm", "continual")
"""Folders of a study under which a run may be named."""
NEEDED = {
    "runs": {"run_id", "kind", "status", "label", "seed", "settings"},
    "history": {"run_id", "time", "quantity", "value"},
    "collapse": {"run_id", "split", "layer", "time", "metric", "value"},
    "ufm": {"run_id"},
    "claims": {"claim_id", "statement", "direction", "threshold", "effect", "verdict"},
    "timings": {"run_id", "stage", "seconds"},
}
"""Columns that a comparison reads by name; all others may differ between versions of ncpipe."""


@dataclass(frozen=True)
class StudySource:
    """A study as its tables have it."""

    name: str
    """Its results folder, as given."""
    tables: Tables
    metadata: dict[str, str]
    """Metadata of the table ``runs``: version, commit, study, scale, hash; packages and hardware of its runs."""


@dataclass(frozen=True)
class RunSource:
    """One run of a study."""

    study: StudySource
    run_id: str


def find(name: str) -> StudySource | RunSource:
    """The study or run that ``name`` means.

    A folder is the results of a study, unless it lies in ``runs``, ``ufm`` or ``continual`` of one. Anything else is
    ``RESULTS/RUN_ID``, or the id of a run of the studies in ``results`` and ``results/*``. The id may be cut short
    where its beginning means one run only. It is looked up in the tables; no path is made from it.

    Raises:
        UserError: no such folder, no tables in it, no such run, or a beginning that several runs have.
    """
    path = Path(name)
    if path.is_dir() and path.parent.name not in STAGES:
        return read_study(path)
    parent = path.parent.parent if path.parent.name in STAGES else path.parent
    if parent != Path() or name.startswith("./"):
        if not parent.is_dir():
            raise UserError(f"{name}: no folder {parent}; name a results folder, or a run as RESULTS/RUN_ID")
        return _run_named(path.name, [parent])
    if not (folders := sorted(tables.parent for at in ("tables", "*/tables") for tables in Path("results").glob(at))):
        raise UserError(f"{name}: no tables in results or results/*; name a results folder, or RESULTS/RUN_ID")
    return _run_named(path.name, folders)


def read_study(results: Path) -> StudySource:
    """The tables of the study with this results folder; ``UserError`` where one is missing or lacks a column."""
    tables = {name: completed(name, _read(results, name, needed)) for name, needed in NEEDED.items()}
    about = metadata(Layout(results).tables / "runs.parquet")
    made_by = summary(json.loads(about.pop("provenance", "{}")).values())
    about = {key: text for key, text in about.items() if key not in ("pandas", CHECKSUM.decode())}
    return StudySource(str(results), tables, about | made_by)


def _read(results: Path, name: str, needed: set[str]) -> pa.Table:
    path = Layout(results).tables / f"{name}.parquet"
    if not path.exists():
        raise UserError(f"no table {path}; run `snakemake tables` for this study first")
    table = read_whole(path, whole=False)
    if missing := sorted(needed - set(table.column_names)):
        raise UserError(f"{path} has no column {missing[0]!r}; write it again with `snakemake tables`")
    return table


def completed(name: str, table: pa.Table) -> pa.Table:
    """The columns of the table ``name``, those that it lacks with nulls."""
    whole = pa.concat_tables([TABLES[name].empty_table(), table], promote_options="permissive")
    return whole.select(TABLES[name].names).replace_schema_metadata()


def _run_named(run: str, folders: list[Path]) -> RunSource:
    """The run of that id, or else of that beginning, in one of the studies."""
    ids = {folder: _read(folder, "runs", {"run_id"})["run_id"].to_pylist() for folder in folders}
    exact = [(folder, run) for folder in folders if run in ids[folder]]
    matches = exact or [(folder, name) for folder in folders for name in ids[folder] if name.startswith(run)]
    if len(matches) == 1:
        folder, run_id = matches[0]
        return RunSource(read_study(folder), run_id)
    if matches:
        names = listed([folder / name for folder, name in matches])
        raise UserError(f"{run!r} is the beginning of several runs: {names}; give more of the id")
    where = ", ".join(map(str, folders[:6]))
    known = [run_id for of_one in ids.values() for run_id in of_one]
    hint = nearest(run, known, otherwise="the table runs and the report list them")
    raise UserError(f"no run {run!r} in the tables of {where}; {hint}")
