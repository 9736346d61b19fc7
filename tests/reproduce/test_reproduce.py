"""A run made again: what is equal, what is told of a record that was tampered with, and of what is gone."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from ncpipe.cli.main import app
from ncpipe.records.writing import write_rows
from ncpipe.reproduce import stages as reproduce_stages
from ncpipe.reproduce.stages import commands_of
from ncpipe.reproduce.tensors import compare_tensors, deviation
from ncpipe.study.study import Study

THREADS_AND_DEVICE = ["--threads", "1", "--device", "cpu"]
"""As recorded."""


def ncpipe(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages run without the seconds that a process takes to start."""

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert options["env"]["OMP_NUM_THREADS"] == "1"
        assert command[3] not in ("train", "features", "continual") or command[-4:] == THREADS_AND_DEVICE
        return subprocess.CompletedProcess(command, ncpipe(*command[3:]).exit_code)

    monkeypatch.setattr(reproduce_stages, "subprocess", SimpleNamespace(run=run))


def study_of(results: Path) -> Study:
    return Study.read(results / "study.json")


def run_ids(study: Study) -> dict[str, str]:
    network, _, diverged = study.networks
    return {
        "network": network,
        "diverged": diverged,
        "matched": f"matched-extended-{network}",
        "declared": list(study.problems)[1],
        "continual": next(iter(study.continual[network].ways)),
    }


@pytest.fixture
def results(finished_study: Path, tmp_path: Path) -> Path:
    """A copy to tamper with; its study.json names the place of the original."""
    return Path(shutil.copytree(finished_study, tmp_path / "results"))


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", ["network", "diverged", "matched", "declared", "continual"])
def test_a_run_made_again_is_equal(finished_study: Path, kind: str) -> None:
    run_id = run_ids(study_of(finished_study))[kind]
    done = ncpipe("reproduce", f"{finished_study}/{run_id}")
    assert done.exit_code == 0, done.output
    verdict, surroundings = done.stdout.splitlines()[:2]
    assert verdict.startswith("Equal, bit for bit: ")
    assert verdict.endswith(f"of {run_id}.")
    assert surroundings == "Code, packages and hardware are as recorded."


def test_the_rerun_is_what_the_workflow_runs(finished_study: Path) -> None:
    study, file = study_of(finished_study), Path("study.json")
    ids = run_ids(study)
    names = {
        kind: [command[0] for command in commands_of(study, file, run_id, 1, "cpu")] for kind, run_id in ids.items()
    }
    assert names == {
        "network": ["train", "features", "collapse"],
        "diverged": ["train", "features", "collapse"],
        "matched": ["train", "features", "collapse", "match"],
        "declared": ["fit", "collapse"],
        "continual": ["train", "continual"],
    }


def edit_table(path: Path, column: str, change: Callable[[float], float]) -> None:
    """Change the first value of a column."""
    table = pq.read_table(path)
    values = table[column].to_pylist()
    first = next(place for place, value in enumerate(values) if value)
    values[first] = change(values[first])
    array = pa.array(values, table.schema.field(column).type)
    pq.write_table(table.set_column(table.schema.get_field_index(column), table.schema.field(column), array), path)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("tables/history.parquet", "history train_loss"),
        ("runs/ID/history.parquet", "history train_loss"),
        ("runs/ID/collapse.parquet", "collapse nc1_pinv"),
    ],
)
def test_a_tampered_value_is_told(results: Path, place: str, told: str) -> None:
    run_id = run_ids(study_of(results))["network"]
    edit_table(results / place.replace("ID", run_id), "value", lambda value: value * (1 + 1e-6))
    done = ncpipe("reproduce", f"{results}/{run_id}")
    assert done.exit_code == 1
    assert done.stdout.startswith("Differs in 1 of ")
    assert "by 1e-06 relative at most" in done.stdout.splitlines()[0]
    assert told in done.stdout


def test_tampered_weights_are_told(results: Path) -> None:
    run_id = run_ids(study_of(results))["network"]
    file = results / "runs" / run_id / "model.safetensors"
    tensors = load_file(file)
    name = next(name for name, tensor in tensors.items() if tensor.numel() > 1)
    tensors[name].view(-1)[0] += 0.5
    save_file(tensors, file)
    done = ncpipe("reproduce", f"{results}/{run_id}")
    assert done.exit_code == 1
    assert f"(model.safetensors: {name})" in done.stdout.splitlines()[0]
    assert f"1 of {tensors[name].numel()}" in done.stdout


def test_tensors_differ_by_value_shape_type_or_absence() -> None:
    a = torch.tensor([1.0, float("nan"), 4.0])
    assert deviation("f: t", a, a.clone()) is None
    found = deviation("f: t", a, torch.tensor([1.0, float("nan"), 3.0]))
    assert found is not None
    assert (found["differing"], found["values"], found["relative"]) == (1, 3, 0.25)
    for other in (a[:2], a.double(), None):
        found = deviation("f: t", a, other)
        assert found is not None
        assert found["relative"] is None


def test_a_file_that_one_side_lacks(tmp_path: Path) -> None:
    for folder, names in (("a", ("x", "gone")), ("b", ("x", "new"))):
        (tmp_path / folder).mkdir()
        for name in names:
            save_file({"t": torch.ones(2)}, tmp_path / folder / f"{name}.safetensors")
    found = compare_tensors(tmp_path / "a", tmp_path / "b", "run")
    assert [d["quantity"] for d in found.deviations] == ["gone.safetensors: t"]
    assert found.unrecorded == ["new.safetensors"]


def test_of_a_run_without_files_the_tables_are_compared(results: Path) -> None:
    run_id = run_ids(study_of(results))["network"]
    shutil.rmtree(results / "runs")
    done = ncpipe("reproduce", f"{results}/{run_id}")
    assert done.exit_code == 0
    assert "0 tensors" in done.stdout
    assert "the tables alone are compared" in done.stdout


def test_altered_data_are_prepared_anew(results: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = study_of(results)
    run_id = run_ids(study)["network"]
    file = results / "data" / study.networks[run_id].dataset_id / "train.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 255
    file.write_bytes(content)
    done = ncpipe("reproduce", f"{results}/{run_id}")
    assert done.exit_code == 0
    assert "prepared anew" in capfd.readouterr().err + done.output


def with_metadata(results: Path, change: Callable[[dict[bytes, bytes]], None]) -> None:
    path = results / "tables/runs.parquet"
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    change(metadata)
    texts = {key.decode(): value.decode() for key, value in metadata.items()}
    write_rows(path, table.schema, table.to_pylist(), texts)


def test_other_packages_and_hardware_are_told(results: Path) -> None:
    def other(metadata: dict[bytes, bytes]) -> None:
        origins = json.loads(metadata[b"provenance"])
        for found in origins.values():
            found |= {"torch": "1.0", "cpu": "Z80", "threads": 1}
        metadata[b"provenance"] = json.dumps(origins).encode()

    with_metadata(results, other)
    done = ncpipe("reproduce", f"{results}/{run_ids(study_of(results))['declared']}")
    assert done.exit_code == 0
    assert "Not as recorded: packages, hardware." in done.stdout
    assert "Z80" in done.stdout


def test_a_record_of_an_older_version_is_told(results: Path) -> None:
    def older(metadata: dict[bytes, bytes]) -> None:
        del metadata[b"provenance"]
        metadata[b"git_commit"] = b"0ld"

    with_metadata(results, older)
    done = ncpipe("reproduce", f"{results}/{run_ids(study_of(results))['declared']}")
    assert done.exit_code == 0
    assert "names neither packages nor hardware" in done.stdout
    assert "commit 0ld; this is" in done.stdout


def fails(*arguments: str) -> str:
    done = ncpipe("reproduce", *arguments)
    assert done.exit_code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ncpipe: ") and "start-up" not in line]
    return line


def test_what_cannot_be_made_is_one_line_and_code_2(results: Path, tmp_path: Path) -> None:
    run_id = run_ids(study_of(results))["declared"]
    assert "no run 'nothing'" in fails(f"{results}/nothing")
    assert "is a study" in fails(str(results))
    assert "no folder" in fails(str(tmp_path / "gone" / run_id))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert "is not empty" in fails(f"{results}/{run_id}", "--keep", str(tmp_path / "full"))
    config = json.loads((results / "study.json").read_text())
    config["ufm"]["base"]["dim"] = 6
    (tmp_path / "other.json").write_text(json.dumps(config))
    assert f"does not plan {run_id}" in fails(f"{results}/{run_id}", "--study", str(tmp_path / "other.json"))
    (results / "study.json").unlink()
    assert "--study" in fails(f"{results}/{run_id}")


def test_a_missing_run_and_a_stage_that_fails(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of(results)
    run_id = run_ids(study)["declared"]
    failed = subprocess.CompletedProcess([], 1)
    monkeypatch.setattr(reproduce_stages, "subprocess", SimpleNamespace(run=lambda *_, **__: failed))
    assert "the stage fit failed" in fails(f"{results}/{run_id}")
    edit_status(results, run_id)
    assert "has no result" in fails(f"{results}/{run_id}")


def edit_status(results: Path, run_id: str) -> None:
    table = pq.read_table(results / "tables/runs.parquet")
    rows = table.to_pylist()
    for row in rows:
        row["status"] = "missing" if row["run_id"] == run_id else row["status"]
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), results / "tables/runs.parquet")


def test_the_rerun_can_be_kept(finished_study: Path, tmp_path: Path) -> None:
    run_id = run_ids(study_of(finished_study))["declared"]
    assert ncpipe("reproduce", f"{finished_study}/{run_id}", "--keep", str(tmp_path / "kept")).exit_code == 0
    assert list((tmp_path / "kept/ufm").glob("*/fits.parquet"))
