"""Which code, packages and hardware made each run of a study, as its records say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json
from ncpipe.system.provenance import Origin, from_metadata, in_json, key


def origins(study: Study) -> tuple[dict[str, str], str]:
    """Key of the origin by run id, and all origins by key as JSON; runs without one are left out.

    Of a network it is that of its training, of the other runs that of their only stage.
    """
    keys, known = {}, {}
    for run_id, found in _recorded(study):
        keys[run_id] = key(found)
        known[keys[run_id]] = found
    return keys, in_json(known)


def _recorded(study: Study) -> Iterator[tuple[str, Origin]]:
    layout = study.layout
    for run_id in study.networks:
        yield from _of_json(layout.run(run_id) / "spec.json", [run_id])
        matched = [f"matched-{kind}-{run_id}" for kind in study.config.ufm.matched]
        yield from _of_fits(layout.ufm(f"matched-{run_id}") / "fits.parquet", matched)
    for batch in study.ufm_batches.values():
        yield from _of_fits(layout.ufm(batch.id) / "fits.parquet", list(batch.problems))
    for run_id, learning in study.continual.items():
        yield from _of_json(layout.continual(run_id) / "runs.json", list(learning.ways))


def _of_json(path: Path, ids: list[str]) -> Iterator[tuple[str, Origin]]:
    record = read_json(path) if path.exists() else {}
    for run_id in ids:
        # spec.json is of one run, runs.json has an entry for each
        if found := record.get(run_id, record).get("provenance"):
            yield run_id, found


def _of_fits(path: Path, ids: list[str]) -> Iterator[tuple[str, Origin]]:
    if not path.exists():
        return
    try:
        found = from_metadata(pq.read_schema(path).metadata)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"cannot read {path}: {str(error).splitlines()[0]}; delete it and run again") from None
    yield from ((run_id, found) for run_id in ids if found)
