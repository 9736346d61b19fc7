"""A run made again from its recorded settings, and compared with its record."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ncpipe.compare.agreement import agreement
from ncpipe.compare.sources import RunSource, find
from ncpipe.reproduce.records import origin_of_run, tables_of
from ncpipe.reproduce.result import Reproduction
from ncpipe.reproduce.stages import commands_of, made_by, recorded_data, records_of, rerun
from ncpipe.reproduce.tensors import compare_tensors
from ncpipe.stages.tables import write_tables
from ncpipe.study.layout import Layout
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import write_text
from ncpipe.system.provenance import Origin


def reproduce(
    name: str, study_file: Path | None = None, scale: str | None = None, keep: Path | None = None
) -> Reproduction:
    """Run the stages of a run again in a folder of their own, and compare with its record.

    Args:
        name: the run, as ``ncpipe.compare.find`` takes it.
        study_file: the study's config; None: the ``study.json`` in its results folder.
        scale: size of the study, where that config has several; None: its own.
        keep: where to make it, a new or empty folder; None: a temporary one.

    Raises:
        UserError: no such run, no result of it, a config that does not plan it, or a stage that fails.
    """
    source = find(name)
    if not isinstance(source, RunSource):
        raise UserError(f"{name} is a study; name a run as RESULTS/RUN_ID, or use `ncpipe compare` on two studies")
    results = Path(source.study.name)
    if _row(source, source.run_id)["status"] == "missing":
        raise UserError(f"{source.run_id} has no result in {results}; there is nothing to compare with")
    recorded = origin_of_run(results, source.run_id)
    with _folder(keep) as folder:
        study = _planned(source, study_file, scale, folder)
        origin = _make_again(study, source)
        again = find(str(folder / source.run_id))
        assert isinstance(again, RunSource)
        old, new = (records_of(study, source.run_id, place) for place in (results, folder))
        return Reproduction(
            run_id=source.run_id,
            results=str(results),
            tables=agreement(source.study.tables, again.study.tables, [source.run_id]),
            records=agreement(tables_of(old), tables_of(new), [source.run_id]) if old.is_dir() else None,
            tensors=compare_tensors(old, new, source.run_id),
            recorded=recorded or {},
            recorded_commit=source.study.metadata.get("git_commit", "unknown"),
            now=origin,
        )


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is None:
        with tempfile.TemporaryDirectory(prefix="ncpipe-reproduce-") as folder:
            yield Path(folder)
        return
    if keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
        raise UserError(f"--keep {keep} is not empty; name a new folder")
    keep.mkdir(parents=True, exist_ok=True)
    yield keep


def _planned(source: RunSource, study_file: Path | None, scale: str | None, folder: Path) -> Study:
    """The study of the run with its results in ``folder``, without figures, claims and mirror."""
    file = study_file or Path(source.study.name) / "study.json"
    if study_file is None and Layout(Path(source.study.name)).recording.exists():
        raise UserError(f"{source.run_id} was recorded in a training loop of your own: ncpipe cannot make it again")
    if not file.is_file():
        raise UserError(f"no config {file}; name the config of that study with --study")
    config = Study.read(file, scale).config
    info = config.study.model_copy(update={"results": str(folder)})
    changes: dict[str, Any] = {"study": info, "figures": (), "claims": (), "scales": {}}
    changes["tracking"] = config.tracking.model_copy(update={"enabled": False})
    study = Study(config.model_copy(update=changes).model_dump(mode="json"))
    if made_by(study, source.run_id) is None:
        raise UserError(
            f"{file} does not plan {source.run_id}: the study has changed since, or has several sizes; name what it"
            " was made from with --study and --scale"
        )
    return study


def _row(source: RunSource, run_id: str) -> dict[Any, Any]:
    return source.study.tables["runs"].filter(pc.field("run_id") == run_id).to_pylist()[0]


def _make_again(study: Study, source: RunSource) -> Origin:
    """Run the stages and write the tables; code, packages and hardware as the records of the rerun name them.

    Threads and device are those recorded, of a run that follows a network the network's.
    """
    folder, run_id, results = study.layout.results, source.run_id, Path(source.study.name)
    network = _row(source, run_id)["network_id"]
    first = network if isinstance(network, str) else run_id
    threads = int((origin_of_run(results, first) or {}).get("threads", 1))
    device = "cpu" if _row(source, first)["device"] == "cpu" else "auto"
    file = folder / "study.json"
    write_text(file, study.config.model_dump_json(indent=2))
    recorded_data(study, run_id, Layout(results))
    rerun(commands_of(study, file, run_id, threads, device), threads)
    write_tables(study)
    return origin_of_run(folder, run_id) or {}


__all__ = ["Reproduction", "reproduce"]
