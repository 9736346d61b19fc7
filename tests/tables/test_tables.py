"""Tables: schemas with meanings, records in long form, labels, and planned runs without results."""

from __future__ import annotations

import json
from statistics import fmean

import pyarrow.parquet as pq
import pytest

from ncpipe.figures.drawing.captions import lost
from ncpipe.figures.drawing.runs import networks
from ncpipe.records.reading import metadata, read_tables
from ncpipe.records.schemas import COLLAPSE, HISTORY, TABLES
from ncpipe.records.writing import read_table, write_history, write_rows
from ncpipe.settings.sweep import laid_over
from ncpipe.stages.tables import write_tables
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import replacing, write_json, write_text
from ncpipe.tables.labels import labelled
from ncpipe.tables.runs import network_settings
from ncpipe.tables.selection import compared

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
        patch.setattr("ncpipe.records.writing.write_rows", lambda path, schema, rows: seen.extend(rows))
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
    write_text(path, "1\n")
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
    assert tables["runs"]["selected"].isna().all()
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


def test_the_zero_error_epoch_is_the_first_with_all_training_samples_right(tmp_path):
    study = Study(CONFIG | {"study": {"name": "tiny", "results": str(tmp_path)}})
    first, second, third, _ = study.networks
    accuracies = {first: [0.9, 1.0, 0.99], second: [0.9], third: [float("nan"), 1.0]}
    for run_id, values in accuracies.items():
        rows = [{"time": time, "train_accuracy": value} for time, value in enumerate(values, 1)]
        write_history(study.layout.run(run_id) / "history.parquet", "net", {run_id: rows})
    write_tables(study)
    epochs = read_tables(study.layout.tables)["runs"].set_index("run_id")["zero_error_epoch"]
    assert (epochs[first], epochs[third]) == (2, 2)
    assert epochs.drop([first, third]).isna().all()


def settings_of(changes: dict) -> dict:
    """Columns that the settings of one network decide."""
    base = CONFIG["networks"]["base"]
    config = CONFIG | {"networks": {"base": laid_over(base, changes)}, "ufm": {"matched": []}}
    (run,) = Study(config).networks.values()
    return network_settings(run)


def test_heads_losses_and_decays_are_told_apart():
    plain = settings_of({})
    assert (plain["head"], plain["weight_decay"], plain["feature_decay"], plain["gpus"]) == ("linear", [5e-4], 0.0, 1)
    deep = settings_of(
        {
            "head": {"bias": False, "hidden": 2, "temperature": 10, "feature_decay": 1e-5},
            "loss": {"name": "label_smoothing", "smoothing": 0.1},
            "optimizer.head_weight_decay": 1e-3,
        }
    )
    assert deep["head"] == "hidden 2, temperature 10"
    assert (deep["weight_decay"], deep["feature_decay"]) == ([5e-4, 1e-3], 1e-5)
    assert (deep["loss"], deep["label"]) == ("label_smoothing", "mlp label smoothing no bias")


def test_a_model_without_a_width_has_none():
    row = settings_of({"model": {"name": "timm", "architecture": "mixer_s16_224"}})
    assert (row["model"], row["width"], row["depth"]) == ("timm-mixer_s16_224", None, None)


# --- the choice among networks -------------------------------------------------------------------

RATES = (0.1, 0.2, 0.4)


def chosen_rates(folder, accuracies: dict, by: str = "test_accuracy") -> tuple[Study, set[float]]:
    """The study and the learning rates that it selects; ``accuracies`` by (rate, seed), None for a diverged run,
    none for a missing one."""
    networks_block = laid_over(CONFIG["networks"], {"sweep.grid": {"seed": [0, 1], "optimizer.lr": RATES}})
    networks_block["select"] = {"by": by}
    study = Study({**CONFIG, "study": {"name": "x", "results": str(folder)}, "networks": networks_block})
    for run in study.networks.values():
        key = (run.spec.optimizer.lr, run.spec.seed)
        if key in accuracies:
            write_records(study.layout.run(run.id), run.id, accuracies[key])
    write_tables(study)
    runs = read_tables(study.layout.tables)["runs"].query("kind == 'network'")
    assert runs["selected"].notna().all()
    rates = runs[runs["selected"].astype(bool)].groupby("learning_rate")["seed"].nunique()
    assert (rates == 2).all(), "all seeds of the chosen value are selected"
    return study, set(rates.index)


def write_records(folder, run_id: str, accuracy: float | None) -> None:
    status = "diverged" if accuracy is None else "done"
    record = {"status": status, "final_epoch": 2, "parameters": 7, "device": "cpu", "precision": "float32"}
    write_json(folder / "spec.json", record)
    row = {"source": "net", "run_id": run_id, "layer": "features", "depth": 1, "time": 2}
    values = {"accuracy": accuracy or 0.99, "loss": 1 - (accuracy or 0.99)}
    rows = [row | {"split": s, "metric": m, "value": v} for s in ("train", "test") for m, v in values.items()]
    write_rows(folder / "collapse.parquet", COLLAPSE, rows)


def test_the_value_with_the_best_mean_over_seeds_is_selected(tmp_path):
    by_run = {(0.1, 0): 0.9, (0.1, 1): 0.5, (0.2, 0): 0.8, (0.2, 1): 0.7, (0.4, 0): 0.1, (0.4, 1): 0.2}
    study, rates = chosen_rates(tmp_path, by_run)
    assert rates == {0.2}
    assert chosen_rates(tmp_path / "by-loss", by_run, by="train_loss")[1] == {0.2}
    tables = compared(read_tables(study.layout.tables))
    assert set(networks(tables)["learning_rate"]) == {0.2}
    assert lost(tables, "network") == " Not shown: 4 networks not selected."
    told = metadata(study.layout.tables / "runs.parquet")["selection"]
    assert "differ in optimizer.lr and seed only" in told
    assert "highest last test accuracy" in told


def test_of_equals_the_smaller_is_selected(tmp_path):
    assert chosen_rates(tmp_path, {(rate, seed): 0.75 for rate in RATES for seed in (0, 1)})[1] == {0.1}
    # 0.1 and 0.7 have the mean 0.4, which rounding makes smaller than that of 0.4 and 0.4
    by_run = {(0.1, 0): 0.1, (0.1, 1): 0.7, (0.2, 0): 0.4, (0.2, 1): 0.4, (0.4, 0): 0.2, (0.4, 1): 0.1}
    assert fmean([0.1, 0.7]) < fmean([0.4, 0.4])
    assert chosen_rates(tmp_path / "rounded", by_run)[1] == {0.1}


def test_a_value_with_a_diverged_or_missing_run_is_not_selected(tmp_path):
    by_run = {(0.1, 0): 0.9, (0.1, 1): None, (0.2, 0): 0.99, (0.4, 0): 0.1, (0.4, 1): 0.2}
    assert chosen_rates(tmp_path, by_run)[1] == {0.4}
    assert chosen_rates(tmp_path / "none", {})[1] == set()


@pytest.mark.parametrize(
    ("select", "changes", "message"),
    [
        ({"over": "optimizer.rl"}, {}, r"'optimizer.rl' is no setting.*did you mean 'optimizer.lr'"),
        ({"over": "loss.name"}, {}, "'loss.name' is not a number"),
        ({"over": "seed"}, {}, "'seed' is averaged over"),
        ({"over": "optimizer.momentum"}, {}, "'optimizer.momentum' does not vary"),
        ({}, {"measure": {"splits": ["train"]}}, "'test_accuracy' needs 'test' among measure.splits"),
    ],
)
def test_a_rule_that_cannot_choose_is_refused(select, changes, message):
    with pytest.raises(UserError, match=message):
        Study(CONFIG | {"networks": CONFIG["networks"] | {"select": select}} | changes)
