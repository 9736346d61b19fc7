"""Tables of many runs: folders of parts, written as a stream and read in part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_tables import MadeUp
from test_tables import CONFIG, write_records

from ncpipe.figures import save_figure
from ncpipe.records import parts
from ncpipe.records.parts import row_groups, write_parts, write_stream
from ncpipe.records.reading import LONG, StoredTables, fits_of, read_tables, rows_of
from ncpipe.records.schemas import COLLAPSE, HISTORY, TABLES
from ncpipe.records.writing import PARQUET, write_rows
from ncpipe.report import write_report
from ncpipe.stages import tables as collect
from ncpipe.stages.tables import write_tables
from ncpipe.study.config import StudyInfo
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import LEFTOVER_AGE


def rows(count: int, run_id: str = "a") -> list[dict]:
    return [{"source": "net", "run_id": run_id, "time": i, "quantity": "x", "value": i / 7} for i in range(count)]


def tables(*counts: int) -> Iterator[pa.Table]:
    return (pa.Table.from_pylist(rows(count, str(i)), schema=HISTORY) for i, count in enumerate(counts))


@pytest.mark.parametrize("counts", [(), (0,), (3,), (5, 0, 4), (2, 2), (11, 1)])
def test_a_stream_has_the_bytes_of_all_rows_at_once(tmp_path, counts):
    write_stream(tmp_path / "a.parquet", HISTORY, tables(*counts), {"study": "x"}, group_rows=4)
    whole = pa.concat_tables([HISTORY.empty_table(), *tables(*counts)]).combine_chunks()
    marked = whole.replace_schema_metadata(pq.read_schema(tmp_path / "a.parquet").metadata)
    pq.write_table(marked, tmp_path / "b.parquet", row_group_size=4, **PARQUET)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    write_stream(tmp_path / "a.parquet", HISTORY, tables(*counts), {})
    write_rows(tmp_path / "b.parquet", HISTORY, whole.to_pylist())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_stream_holds_one_group_and_one_table():
    seen = []

    def source() -> Iterator[pa.Table]:
        for number, table in enumerate(tables(*[3] * 40)):
            seen.append(number)
            yield table

    for number, group in enumerate(row_groups(source(), 6)):
        assert len(group) == 6
        assert len(seen) <= 2 * number + 2


def test_a_folder_takes_the_place_of_file_and_folder_and_back(tmp_path):
    path = tmp_path / "history.parquet"
    write_stream(path, HISTORY, tables(3), {})
    write_parts(path, HISTORY, [tables(2), tables(), tables(4)], {"study": "x"})
    assert [file.name for file in sorted(path.iterdir())] == [f"part-0000{i}.parquet" for i in range(3)]
    write_parts(path, HISTORY, [tables(1)], {})
    assert [file.name for file in path.iterdir()] == ["part-00000.parquet"]
    write_stream(path, HISTORY, tables(3), {})
    assert path.is_file()
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_or_killed_write_leaves_the_old_folder_alone(tmp_path):
    path, old = tmp_path / "history.parquet", tmp_path / ".history.parquet.0123abcd.tmp"
    write_parts(path, HISTORY, [tables(2)], {})

    def failing() -> Iterator[pa.Table]:
        yield from tables(1)
        raise UserError("damaged record")

    with pytest.raises(UserError, match="damaged record"):
        write_parts(path, HISTORY, [tables(5), failing()], {})
    assert list(tmp_path.iterdir()) == [path]
    assert pq.read_table(path).num_rows == 2
    old.mkdir()
    (old / "part-00000.parquet").write_bytes(b"half")
    write_parts(path, HISTORY, [tables(2)], {})
    assert old.exists(), "of a writer that may still be at work"
    for made in (old / "part-00000.parquet", old):
        os.utime(made, (made.stat().st_atime, made.stat().st_mtime - 2 * LEFTOVER_AGE))
    write_parts(path, HISTORY, [tables(2)], {})
    assert not old.exists()


def test_of_two_writers_the_last_wins(tmp_path):
    path = tmp_path / "history.parquet"

    def slow() -> Iterator[pa.Table]:
        write_parts(path, HISTORY, [tables(1)], {})
        yield from tables(2)

    write_parts(path, HISTORY, [slow()], {})
    assert pq.read_table(path).num_rows == 2
    assert list(tmp_path.iterdir()) == [path]


# --- a study ---------------------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch) -> None:
    """Three runs are many."""
    for module in ("ncpipe.study.study", "ncpipe.stages.tables"):
        monkeypatch.setattr(f"{module}.RUNS_A_PART", 3)
    monkeypatch.setattr(parts, "PART_GROUP_ROWS", 5)


def study_with_records(folder: Path) -> Study:
    study = Study({**CONFIG, "study": {"name": "x", "results": str(folder)}})
    for number, run in enumerate(study.networks.values()):
        write_records(study.layout.run(run.id), run.id, None if number == 1 else number / 4)
    return study


def frames(study: Study) -> dict[str, pd.DataFrame]:
    tables = read_tables(study.layout.tables)
    return {name: tables[name].astype("str") for name in TABLES}


def test_parts_hold_the_rows_of_the_single_files(tmp_path, small_parts, monkeypatch):
    study = study_with_records(tmp_path)
    write_tables(study)
    path = study.layout.tables / "collapse.parquet"
    assert [len(pq.read_table(part)) for part in sorted(path.iterdir())] == [12, 4, 0, 0]
    assert {name for name in TABLES if (study.layout.tables / f"{name}.parquet").is_dir()} == set(LONG)
    split = frames(study)
    monkeypatch.setattr("ncpipe.study.study.RUNS_A_PART", 1000)
    write_tables(study)
    assert all((study.layout.tables / f"{name}.parquet").is_file() for name in TABLES)
    for name, whole in frames(study).items():
        pd.testing.assert_frame_equal(split[name], whole, obj=name)


def test_parts_follow_the_plan_not_the_disk(tmp_path, small_parts):
    study = Study({**CONFIG, "study": {"name": "x", "results": str(tmp_path)}})
    planned = [folder for part in collect.parts(study) for folder in part]
    assert planned == collect.record_folders(study)
    assert [len(part) for part in collect.parts(study)] == [
        3,
        2,
        2,
        2,
    ]  # networks, twice two matched, a batch


def test_a_record_of_other_columns_is_named(tmp_path):
    study = study_with_records(tmp_path)
    record = study.layout.run(next(iter(study.networks))) / "collapse.parquet"
    pq.write_table(pq.read_table(record).drop_columns("rank").replace_schema_metadata(), record)
    with pytest.raises(UserError, match=r"collapse\.parquet has other columns.*delete it and run again") as error:
        write_tables(study)
    assert "\n" not in str(error.value)


# --- reading ---------------------------------------------------------------------------------------


def in_parts(folder: Path) -> Path:
    """Split the long tables of a folder into parts of the runs."""
    for name in LONG:
        path = folder / f"{name}.parquet"
        whole, schema = pq.read_table(path), TABLES[name]
        ids = list(dict.fromkeys(whole["run_id"].to_pylist()))
        chosen = [ids[i : i + 2] for i in range(0, len(ids), 2)] or [[]]
        split = [[whole.filter(pa.compute.is_in(whole["run_id"], pa.array(own, pa.string())))] for own in chosen]
        write_parts(path, schema, split, {"study": "x", "scale": "small"})
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tables of one study as files and as folders."""
    folder = tmp_path_factory.mktemp("tables")
    return MadeUp().write(folder / "files"), in_parts(MadeUp().write(folder / "parts"))


WANTED = [
    {},
    {"metric": "nc1_pinv"},
    {"metric": ["nc1_pinv", "accuracy"], "split": "train", "layer": "features"},
    {"run_id": {"mlp CE bias-1"}, "time": 3},
    {"run_id": set()},
]


@pytest.mark.parametrize("wanted", WANTED)
def test_rows_of_files_folders_and_frames_are_the_same(both, wanted):
    columns = ["run_id", "metric", "time", "value"]
    held = {"collapse": pq.read_table(both[0] / "collapse.parquet").to_pandas()}
    found = [rows_of(source, "collapse", columns, **wanted) for source in (held, *map(read_tables, both))]
    assert [str(kind) for kind in found[2].dtypes] == ["category", "category", "int64", "float64"]
    for one in found[1:]:
        assert list(one.columns) == columns
        same = one.astype({"run_id": "str", "metric": "str"})
        pd.testing.assert_frame_equal(same, found[0].reset_index(drop=True), check_dtype=False)


def test_only_the_rows_asked_for_are_read(both, monkeypatch):
    read = []
    monkeypatch.setattr(
        "ncpipe.records.reading.frame", lambda table: read.append(table.num_rows) or table.to_pandas()
    )
    rows_of(read_tables(both[1]), "collapse", ["value"], metric="nc1_pinv", split="train", layer="features", time=10)
    assert read == [4 + 4]  # networks, and UFMs by descent
    assert not [name for name in fits_of(read_tables(both[1])).columns if name.endswith("_gram")]


def test_figures_of_files_and_folders_are_equal(both, tmp_path):
    drawn = [
        save_figure("training_curves", folder, tmp_path / folder.name, ["svg"])[0].read_bytes() for folder in both
    ]
    assert drawn[0].replace(b"Scale: small", b"") == drawn[1].replace(b" Scale: small.", b"")


def test_the_report_reads_folders(both, tmp_path):
    write_report(StudyInfo(name="x"), both[1], {}, tmp_path / "report.html")
    assert "explorer-data" in (tmp_path / "report.html").read_text()


def test_a_damaged_part_is_told_in_one_line(tmp_path):
    folder = in_parts(MadeUp(ufm=False, matched=False).write(tmp_path))
    (folder / "collapse.parquet" / "part-00001.parquet").write_bytes(b"PAR1 not a table")
    with pytest.raises(UserError, match=r"cannot read .*collapse\.parquet") as error:
        read_tables(folder)["collapse"]
    assert "\n" not in str(error.value)


def test_metadata_is_that_of_every_part(both):
    for part in (both[1] / "collapse.parquet").iterdir():
        assert pq.read_schema(part).metadata[b"study"] == b"x"
        assert pq.read_schema(part).remove_metadata().equals(COLLAPSE.remove_metadata())


def test_a_mapping_of_all_tables(both):
    assert list(StoredTables(both[1])) == list(TABLES)
    with pytest.raises(KeyError):
        read_tables(both[1])["none"]


def test_the_report_refuses_a_table_that_was_altered_where_it_reads_nothing(tmp_path):
    folder = MadeUp(seeds=2).write(tmp_path)
    path = folder / "timings.parquet"
    rows = [{"run_id": f"run-{i}", "stage": "train", "time": i, "seconds": 0.1 * i} for i in range(1000)]
    write_rows(path, TABLES["timings"], rows, {})
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"cannot read .*timings\.parquet.*delete it and run again"):
        write_report(StudyInfo(name="x"), folder, {}, tmp_path / "report.html")
