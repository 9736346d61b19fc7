"""The tables stage: the records of all runs of a study collected into ``results/tables``.

Records pass through as Arrow tables, one after the other: what is in memory at once does not grow with the study but
for a few numbers a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

import ncpipe
from ncpipe.claims import claim_rows
from ncpipe.records.parts import GROUP_ROWS, in_tables, write_parts, write_stream
from ncpipe.records.reading import LONG, StoredTables
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import read_table, write_rows
from ncpipe.settings.identity import canonical, digest
from ncpipe.study.layout import RUNS_A_PART
from ncpipe.study.selection import in_words
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.provenance import git_commit
from ncpipe.tables.ends import Ends
from ncpipe.tables.labels import label_settings, with_label
from ncpipe.tables.origins import origins
from ncpipe.tables.runs import Row, network_rows, planned_rows
from ncpipe.tables.selection import compared, selected


def write_tables(study: Study) -> None:
    """Write every table of the study. A planned run without records appears as ``missing`` in ``runs``."""
    folder, (keys, known) = study.layout.tables, origins(study)
    about = metadata(study) | {"provenance": known}
    for name in LONG:
        write_long(study, name, about)
    group_rows = RUNS_A_PART if study.partitioned else GROUP_ROWS
    fits = records(record_folders(study), "ufm", "fits.parquet")
    write_stream(folder / "ufm.parquet", TABLES["ufm"], fits, about, group_rows)
    rows = in_tables(run_rows(study, Ends.of(study), keys), TABLES["runs"], RUNS_A_PART)
    write_stream(folder / "runs.parquet", TABLES["runs"], rows, about, group_rows)
    unmade = {"claims": TABLES["claims"].empty_table().to_pandas()}
    claims = claim_rows(compared(StoredTables(folder, unmade)), study.config.claims, study.config.scale)
    write_rows(folder / "claims.parquet", TABLES["claims"], claims, about)


def metadata(study: Study) -> dict[str, str]:
    """What every table says about its making."""
    config, planned = study.config, [*study.networks, *study.continual_ids, *study.problems]
    rule = None if config.networks is None else config.networks.select
    return {
        "ncpipe_version": ncpipe.__version__,
        "git_commit": git_commit(),
        "study": config.study.name,
        "scale": config.scale or "",
        "study_hash": digest([*planned, canonical(config.measure)]),
    } | ({} if rule is None else {"selection": in_words(rule)})


def write_long(study: Study, name: str, about: dict[str, str]) -> None:
    """Write a long table, of a study of many runs as a folder of parts."""
    path, schema = study.layout.tables / f"{name}.parquet", TABLES[name]
    if study.partitioned:
        write_parts(path, schema, (records(folders, name) for folders in parts(study)), about)
    else:
        write_stream(path, schema, records(record_folders(study), name), about)


def record_folders(study: Study) -> list[Path]:
    """Folders that hold the records of planned runs, in the order of the plan."""
    return [folder for folder, _ in _runs_by_folder(study)]


def _runs_by_folder(study: Study) -> Iterator[tuple[Path, int]]:
    layout, kinds = study.layout, len(study.config.ufm.matched)
    yield from ((layout.run(network), 1) for network in study.networks)
    yield from ((layout.continual(network), len(run.ways)) for network, run in study.continual.items())
    if kinds:
        yield from ((layout.ufm(run.matched_id), kinds) for run in study.networks.values())
    yield from ((layout.ufm(name), len(batch.problems)) for name, batch in study.ufm_batches.items())


def parts(study: Study) -> Iterator[list[Path]]:
    """The folders part by part: a part is full with ``RUNS_A_PART`` planned runs, whatever is on disk."""
    part: list[Path] = []
    count = 0
    for folder, runs in _runs_by_folder(study):
        part.append(folder)
        count += runs
        if count >= RUNS_A_PART:
            yield part
            part, count = [], 0
    if part:
        yield part


def records(folders: Iterable[Path], name: str, file: str | None = None) -> Iterator[pa.Table]:
    """All rows of one kind of record, in the order of the folders; folders without it are passed over."""
    schema = TABLES[name]
    for folder in folders:
        path = folder / (file or f"{name}.parquet")
        if path.exists():
            yield _under(schema, path)


def _under(schema: pa.Schema, path: Path) -> pa.Table:
    try:
        table = read_table(path)
        return table if table.schema.equals(schema) else table.cast(schema)
    except (ValueError, pa.ArrowException):
        raise UserError(
            f"{path} has other columns than this version of ncpipe writes; delete it and run again"
        ) from None


def run_rows(study: Study, ends: Ends, provenance: Mapping[str, str]) -> Iterator[Row]:
    """Rows of the ``runs`` table. They are made twice, since a label names what varies over all of them."""
    names = label_settings(planned_rows(study, ends))
    chosen = selected_networks(study, ends)
    for row in planned_rows(study, ends):
        mark = {} if chosen is None or row["kind"] != "network" else {"selected": row["run_id"] in chosen}
        yield with_label(row, names) | mark | {"provenance": provenance.get(row["run_id"])}


def selected_networks(study: Study, ends: Ends) -> set[str] | None:
    """Ids of the networks that the study's rule chooses; None without a rule."""
    rule = None if study.config.networks is None else study.config.networks.select
    if rule is None:
        return None
    column = f"final_{rule.by}"
    rows = [{key: row.get(key) for key in ("run_id", "status", column)} for row in network_rows(study, ends)]
    return selected(rule, {run.id: run.spec for run in study.networks.values()}, rows)


def planned_networks(study: Study) -> list[Row]:
    """Rows of the ``runs`` table of all networks of the plan, as far as they are known before any result."""
    names = label_settings(network_rows(study, Ends()))
    return [with_label(row, names) for row in network_rows(study, Ends())]
