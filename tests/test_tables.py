"""Tables: schemas with meanings, records in long form, labels, and planned runs without results."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ncpipe.errors import UserError
from ncpipe.files import replacing, write_json
from ncpipe.study.study import Study
from ncpipe.tables.collect import labelled, read_tables, write_tables, zero_error_epoch
from ncpipe.tables.records import read_table, write_history, write_rows
from ncpipe.tables.schemas import HISTORY, TABLES

CONFIG = {
    "study": {"name": "tiny"},
    "datasets": {"base": {"name": "digits"}},
    "networks": {
        "base": {"model": {"name": "mlp"}, "loss": {"name": "ce"}, "optimizer": {"lr": 0.1}, "epochs": 2},
        "sweep": {"grid": {"seed": [0, 1], "optimizer.lr": [0.1, 0.2]}},
    },
    "ufm": {
        "base": {
            "classes": 3, "samples": 4, "dim": 5, "weight_decay": 5e-3, "feature_decay": 1e-3,
            "solver": {"name": "lbfgs"},
        },
    },
}  # fmt: skip


def test_every_column_says_what_it_means():
    for schema in TABLES.values():
        for field in schema:
            assert field.metadata[b"meaning"], field.name


def test_history_is_long():
    rows = [{"time": 1, "train_loss": 0.5, "test_loss": 0.25}, {"time": 2, "train_loss": float("nan")}]
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr("ncpipe.tables.records.write_rows", lambda path, schema, rows: seen.extend(rows))
        write_history("unused", "net", {"a": rows})
    assert [(r["run_id"], r["time"], r["quantity"]) for r in seen] == [
        ("a", 1, "train_loss"),
        ("a", 1, "test_loss"),
        ("a", 2, "train_loss"),
    ]


def test_equal_rows_give_equal_bytes(tmp_path):
    rows = [{"source": "net", "run_id": "a", "time": 1, "quantity": "x", "value": 0.1}]
    write_rows(tmp_path / "a.parquet", HISTORY, rows)
    write_rows(tmp_path / "b.parquet", HISTORY, rows)
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_a_damaged_table_is_named_in_one_line(tmp_path):
    path = tmp_path / "history.parquet"
    path.write_bytes(b"PAR1 not a table")
    with pytest.raises(UserError, match=r"history\.parquet") as error:
        read_table(path)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="missing"):
        read_table(tmp_path / "missing.parquet")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, 1)
    with pytest.raises(TypeError), replacing(path) as temporary:
        temporary.write_bytes("text where bytes belong")
    assert path.read_text() == "1\n"
    assert list(tmp_path.iterdir()) == [path]


def test_planned_runs_without_records_are_missing(tmp_path):
    study = Study(CONFIG | {"study": {"name": "tiny", "results": str(tmp_path)}})
    write_tables(study)
    tables = read_tables(study.layout.tables)
    assert list(tables["runs"]["run_id"]) == [*study.networks, *study.problems]
    assert set(tables["runs"]["status"]) == {"missing"}
    assert tables["runs"].query("kind == 'network'")["learning_rate"].tolist() == [0.1, 0.2, 0.1, 0.2]
    metadata = pq.read_schema(study.layout.tables / "runs.parquet").metadata
    assert {b"ncpipe_version", b"git_commit", b"study_hash", b"ncpipe_schema_version"} <= set(metadata)


def test_labels_name_the_settings_that_vary_but_not_the_seed(tmp_path):
    study = Study(CONFIG | {"study": {"name": "tiny", "results": str(tmp_path)}})
    write_tables(study)
    labels = read_tables(study.layout.tables)["runs"]["label"].tolist()
    assert labels[:4] == [f"mlp CE bias lr={lr}" for lr in (0.1, 0.2, 0.1, 0.2)]
    assert labels[4] == "plain linear MSE no bias (L-BFGS)"
    rows = [{"kind": "network", "label": "x", "settings": json.dumps({"seed": seed})} for seed in (0, 1)]
    assert [row["label"] for row in labelled(rows)] == ["x", "x"]


def test_zero_error_epoch():
    history = pd.DataFrame({"time": [1, 2, 3], "quantity": "train_accuracy", "value": [0.9, 1.0, 0.99]})
    assert zero_error_epoch(history) == 2
    assert zero_error_epoch(history[:1]) is None
