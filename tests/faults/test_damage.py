"""Every kind of file that the pipeline reads: a bit flipped, cut, emptied, or something else in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from place import Place, kill_all


def flip(path: Path) -> None:
    """One bit in the last quarter, where files of data hold data."""
    content = bytearray(path.read_bytes())
    content[len(content) * 7 // 8] ^= 4
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def replace(path: Path) -> None:
    path.write_bytes(b"something else\n" * 100)


DAMAGES = {flip: "a bit flipped", truncate: "cut in half", empty: "emptied", replace: "replaced"}
FILES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a data set's images": ("data/*/train.safetensors", flip),
    "a data set's record": ("data/*/dataset.json", truncate),
    "a run's spec.json": ("runs/*/spec.json", flip),
    "a run's history": ("runs/*/history.parquet", replace),
    "a run's timings": ("runs/*/timings.parquet", empty),
    "a checkpoint": ("runs/*/checkpoints/epoch000100.safetensors", flip),
    "final weights": ("runs/*/model.safetensors", flip),
    "statistics": ("runs/*/statistics.safetensors", flip),
    "kept features": ("runs/*/features.safetensors", truncate),
    "collapse metrics": ("runs/*/collapse.parquet", flip),
    "Grams": ("runs/*/grams.parquet", truncate),
    "fits": ("ufm/extended-*/fits.parquet", replace),
    "minimisers": ("ufm/extended-*/minimisers.safetensors", flip),
    "statistics of UFMs": ("ufm/extended-*/statistics.safetensors", truncate),
    "metrics of matched UFMs": ("ufm/matched-*/collapse.parquet", flip),
    "a table": ("tables/collapse.parquet", flip),
    "the table of runs": ("tables/runs.parquet", empty),
    "the study as jobs read it": ("study.json", replace),
    "a figure, SVG": ("figures/*.svg", flip),
    "a figure, PNG": ("figures/*.png", truncate),
    "the report": ("report.html", truncate),
    "the record of the store": ("mlflow/store.json", truncate),
    "the record of the sync": ("mlflow/sync.json", empty),
}


@pytest.mark.parametrize("file", FILES)
def test_a_damaged_file(file: str, place: Place) -> None:
    pattern, damage = FILES[file]
    damage(place.find(f"results/{pattern}"))
    if file == "a data set's images":  # which are no input in Snakemake's eyes
        place.forget("runs")
    with place.ledger.trying(f"{file}: {DAMAGES[damage]} (`{pattern}`)") as row:
        place.recover(row)


@pytest.mark.parametrize("damage", [flip, truncate, empty, replace])
def test_a_damaged_store(damage: Callable[[Path], None], place: Place) -> None:
    damage(place.results / "mlflow/mlflow.db")
    with place.ledger.trying("Damaged or lost in four ways: MLflow's SQLite file") as row:
        place.recover(row, "--forcerun", "sync")


def test_a_damaged_journal_of_the_store(place: Place) -> None:
    """Of a sync that was killed: SQLite drops what its own checksums do not cover."""
    with place.ledger.trying("A sync killed, then its SQLite journal (`mlflow.db-wal`) damaged") as row:
        place.forget("mlflow")
        process = place.start()
        journal = place.results / "mlflow/mlflow.db-wal"
        place.wait_for(process, lambda: place.job(process, "sync") is not None and size(journal) > 50_000)
        kill_all(process)
        flip(journal)
        place.recover(row)


@pytest.mark.parametrize("damage", [truncate, empty, replace])
def test_damaged_records_of_snakemake(damage: Callable[[Path], None], place: Place) -> None:
    for record in (place.folder / ".snakemake/metadata").rglob("*"):
        if record.is_file():
            damage(record)
    with place.ledger.trying("Damaged in three ways: all of Snakemake's records (`.snakemake/metadata`)") as row:
        place.recover(row)


@pytest.mark.parametrize(
    "file", [".state/state.safetensors", ".state/checkpoints/epoch000000.safetensors", "epochs.jsonl"]
)
def test_a_damaged_state(file: str, place: Place) -> None:
    with place.ledger.trying(f"A run killed while it trained, then a bit of its `{file}` flipped") as row:
        place.forget("runs")
        process, states = place.start(), []
        pattern = "results/runs/*/.state/state.safetensors"
        place.wait_for(process, lambda: states.extend(place.folder.glob(pattern)) or states)
        kill_all(process)
        flip(states[0].parent.parent / file)
        place.recover(row)


def test_everything_damaged_at_once(place: Place) -> None:
    for pattern, damage in FILES.values():
        damage(place.find(f"results/{pattern}"))
    with place.ledger.trying("All of these files damaged at once") as row:
        place.recover(row)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
