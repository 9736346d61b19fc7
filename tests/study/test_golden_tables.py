"""Digests of the tables of every study's test scale: a change of the code that means to keep results keeps them.

``python tests/study/test_golden_tables.py write FILE [STUDY ...]`` before it, ``compare FILE [STUDY ...]`` after it.
Floats differ between processors, so FILE is of one machine and stays out of the repository.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import read_table

STUDIES = Path(__file__).parents[2] / "studies"
OF_THE_MOMENT = {"runs.provenance"}
"""Columns that say what code made a run, beside the table of times."""


def digests(tables: Path) -> dict[str, str]:
    """SHA-256 of every column of the tables in a folder, whatever code made them and when."""
    columns = {}
    for name in sorted(set(TABLES) - {"timings"}):
        table = read_table(tables / f"{name}.parquet")
        for column in table.column_names:
            stream = pa.BufferOutputStream()
            alone = pa.table({column: table[column].combine_chunks()})
            with pa.ipc.new_stream(stream, alone.schema) as writer:
                writer.write_table(alone)
            columns[f"{name}.{column}"] = hashlib.sha256(stream.getvalue()).hexdigest()[:16]
    return {name: digest for name, digest in columns.items() if name not in OF_THE_MOMENT}


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def of_study(name: str) -> dict[str, str]:
    """Those of a study at its test scale, run by Snakemake on all cores in a folder that is removed."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "snakemake", "tables", "--cores", "all", "--quiet", "all"]
        command += ["--snakefile", str(STUDIES.parent / "Snakefile"), "--configfile", str(STUDIES / f"{name}.yaml")]
        command += ["--directory", folder, "--config", "scale=test", "tracking={'enabled': False}"]
        subprocess.run(command, check=True)
        return digests(Path(folder) / f"results/{name}-test/tables")


def with_a_test_scale() -> Iterator[str]:
    for path in sorted(STUDIES.glob("*.yaml")):
        if "test" in yaml.safe_load(path.read_text(encoding="utf-8")).get("scales", {}):
            yield path.stem


def test_a_change_is_named_by_its_column(finished_study: Path, tmp_path: Path) -> None:
    tables = finished_study / "tables"
    before = digests(tables)
    assert before["collapse.value"] != before["history.value"]
    assert not OF_THE_MOMENT & before.keys()
    for path in tables.glob("*.parquet"):
        table = read_table(path)
        if path.stem == "collapse":
            value = table["value"].combine_chunks()
            value = pa.concat_arrays([value[:-1], pa.array([1e-9])])
            table = table.set_column(table.column_names.index("value"), "value", value)
        pq.write_table(table.replace_schema_metadata({}), tmp_path / path.name)
    assert differences(before, digests(tables)) == []
    assert differences(before, digests(tmp_path)) == ["collapse.value"]


def test_every_paper_has_a_test_scale() -> None:
    assert "tirer2022" in set(with_a_test_scale())


def main(action: str, file: str, *studies: str) -> None:
    """Write the digests of studies, of all by default, or name what differs from those written and exit with 1."""
    found = {name: of_study(name) for name in studies or with_a_test_scale()}
    if action == "write":
        Path(file).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    golden = json.loads(Path(file).read_text(encoding="utf-8"))
    changed = {name: differences(golden.get(name, {}), columns) for name, columns in found.items()}
    for name, columns in changed.items():
        print(f"{name}: {', '.join(columns) or 'as before'}")
    sys.exit(any(changed.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
