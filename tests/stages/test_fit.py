"""The UFM stage: records of declared batches, and what a network's settings and statistics become in a match."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from ncpipe.collapse import Moment, Trace, layer_statistics
from ncpipe.records.traces import load_traces, save_traces
from ncpipe.records.writing import read_table
from ncpipe.settings.sweep import laid_over
from ncpipe.stages.central_path import follow_path
from ncpipe.stages.collapse import write_collapse
from ncpipe.stages.fit import fit_batch
from ncpipe.stages.match import error_columns, match_network, matched_to
from ncpipe.study.runs import UfmBatch
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_tensors, write_json
from ncpipe.tables.runs import problem_settings
from ncpipe.training.settings import NetworkRun, NetworkSpec
from ncpipe.ufm import Problem
from ncpipe.ufm.settings import UfmSpec
from ncpipe.ufm.solvers.central_path import start_features

NETWORK = {
    "dataset": {"name": "digits"},
    "model": {"name": "mlp"},
    "loss": {"name": "mse"},
    "head": {"bias": True},
    "optimizer": {"lr": 0.1, "weight_decay": 4e-3},
    "epochs": 7,
}


def network(**changes: object) -> NetworkRun:
    spec = NetworkSpec.model_validate(laid_over(NETWORK, {k.replace("__", "."): v for k, v in changes.items()}))
    return NetworkRun("net", spec, "digits", (0, 7), ("layer2", "features"))


@pytest.fixture
def trace() -> Trace:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(5)
    trace = Trace(("layer2", "features"))
    for time in (0, 7):
        weight, bias = torch.randn(3, 6, generator=generator), torch.randn(3, generator=generator)
        trace.heads[time] = (weight.double(), bias.double())
        trace.scalars[time, "train"] = {"loss": 0.3}
        for layer, dim in (("layer2", 8), ("features", 6)):
            features = torch.randn(15, dim, generator=generator)
            trace.statistics[Moment(time, layer)] = layer_statistics(features, labels, 3)
    return trace


def test_penalties_come_from_the_last_epoch_and_the_settings(trace):
    weight, _ = trace.heads[7]
    seen = trace.statistics[Moment(7, "features")]
    rows = seen.counts.double().sqrt()[:, None] * seen.means
    features, nuclear = seen.squared_norm, np.linalg.norm(rows.numpy(), "nuc")
    plain = matched_to("plain", network().spec, trace).problem
    assert plain.weight_decays == (4e-3,)
    assert plain.feature_decay == pytest.approx(4e-3 * float(weight.square().sum()) / features)
    assert plain.bias == 4e-3
    extended = matched_to("extended", network().spec, trace).problem
    assert extended.weight_decays == (4e-3, 4e-3)
    assert extended.activation == "relu"
    assert extended.feature_decay == pytest.approx(4e-3 * (float(weight.square().sum()) / nuclear) ** 2)


def test_bias_of_the_match_follows_the_head_and_its_decay(trace):
    assert matched_to("plain", network(optimizer__decay="weights").spec, trace).problem.bias == "free"
    assert matched_to("plain", network(optimizer__decay="head").spec, trace).problem.bias == 4e-3
    trace.heads[7] = (trace.heads[7][0], None)
    assert matched_to("plain", network().spec, trace).problem.bias == "none"


def test_mean_scaling_is_the_half_scaling_with_k_half_times_the_decay(trace):
    mean = matched_to("plain", network(loss__scaling="mean").spec, trace).problem
    half = matched_to("plain", network(optimizer__weight_decay=3 / 2 * 4e-3).spec, trace).problem
    assert mean.weight_decays == pytest.approx(half.weight_decays)
    assert mean.feature_decay == pytest.approx(half.feature_decay)


def test_match_writes_predicted_beside_measured(trace, tmp_path):
    save_traces(tmp_path / "net/statistics.safetensors", {"net": trace})
    write_json(tmp_path / "net/spec.json", {"status": "done"})
    match_network(network(loss__scaling="mean"), ("plain", "extended"), tmp_path / "net", tmp_path / "ufm")
    rows = read_table(tmp_path / "ufm/fits.parquet").to_pylist()
    assert [row["run_id"] for row in rows] == ["matched-plain-net", "matched-extended-net"]
    weight, _ = trace.heads[7]
    for row in rows:
        assert row["measured_loss"] == pytest.approx(0.3 * 3 / 2)
        assert row["measured_weight_norm"] == pytest.approx(float(weight.norm()))
        assert np.reshape(row["measured_weights_gram"], (3, 3)) == pytest.approx((weight @ weight.T).numpy())
        assert len(row["predicted_means_gram"]) == 9
        for gram in ("means_gram", "weights_gram"):
            one, other = (np.array(row[f"{side}_{gram}"]) for side in ("predicted", "measured"))
            distance = np.linalg.norm(one / np.linalg.norm(one) - other / np.linalg.norm(other))
            assert row[f"{gram}_error"] == pytest.approx(distance)
        for name in ("loss", "feature_norm", "weight_norm"):
            expected = abs(np.log(row[f"predicted_{name}"] / row[f"measured_{name}"]))
            assert row[f"{name}_error"] == pytest.approx(expected)
        assert row["test_loss_error"] is None
        assert row["classifier_stationarity"] is None
    assert set(load_traces(tmp_path / "ufm/statistics.safetensors")) == {row["run_id"] for row in rows}


def test_errors_are_also_of_the_test_split_and_of_the_premise(trace):
    labels = torch.arange(3).repeat_interleave(2)
    trace.statistics[Moment(7, "features", "test")] = layer_statistics(torch.eye(3, 6)[labels], labels, 3)
    trace.scalars[7, "test"] = {"loss": 0.6}
    trace.scalars[7, "train"]["classifier_stationarity"] = 0.25
    trace.heads[7] = (trace.heads[7][0], None)
    for scaling in ("half", "mean"):
        errors = error_columns(model := matched_to("plain", network(loss__scaling=scaling).spec, trace), trace)
        assert errors["classifier_stationarity"] == 0.25
        assert errors["test_means_gram_error"] == pytest.approx(0, abs=1e-12)  # the plain model predicts an OF
        assert errors["means_gram_error"] > 0.1
        own = model.loss if scaling == "half" else model.loss * 2 / 3
        assert errors["loss_error"] == pytest.approx(abs(np.log(own / 0.3)))
        assert errors["test_loss_error"] == pytest.approx(abs(np.log(own / 0.6)))


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({}, "diverged", "the network diverged"),
        ({"head__fixed_etf": True}, "done", "a frozen classifier"),
        ({"optimizer__name": "adamw"}, "done", "decoupled decay"),
        ({"optimizer__weight_decay": 0.0}, "done", "weight_decay"),
    ],
)
def test_networks_without_a_stationary_classifier_have_no_match(changes, status, reason, trace, tmp_path, capsys):
    save_traces(tmp_path / "net/statistics.safetensors", {"net": trace})
    write_json(tmp_path / "net/spec.json", {"status": status})
    match_network(network(**changes), ("plain",), tmp_path / "net", tmp_path / "ufm")
    assert reason in capsys.readouterr().out
    assert read_table(tmp_path / "ufm/fits.parquet").num_rows == 0
    assert load_traces(tmp_path / "ufm/statistics.safetensors") == {}


def test_a_batch_writes_every_record(tmp_path):
    base = {"classes": 3, "samples": 4, "dim": 5, "weight_decay": 5e-3, "feature_decay": 1e-3}
    solver = {"name": "gradient_descent", "steps": 2000, "points": 10, "step_size": 0.5}
    specs = {f"ufm{s}": UfmSpec.model_validate(base | {"solver": solver, "seed": s, "bias": "free"}) for s in (0, 1)}
    fit_batch(UfmBatch("batch", specs), tmp_path)
    rows = read_table(tmp_path / "fits.parquet").to_pylist()
    history = read_table(tmp_path / "history.parquet").to_pandas()
    for row in rows:
        own = history[history["run_id"] == row["run_id"]]
        gap = own[own["quantity"] == "gap"].sort_values("time")["value"]
        assert gap.iloc[-1] == pytest.approx(row["gap"])
        assert gap.iloc[-1] < 1e-2 * gap.iloc[0]
        assert row["value"] - row["optimum"] == pytest.approx(row["gap"])
    tensors, _ = read_tensors(tmp_path / "minimisers.safetensors")
    assert tensors["ufm0/features"].shape == (12, 5)
    assert tensors["ufm1/weight1"].shape == (3, 5)
    assert tensors["ufm1/bias"].shape == (3,)
    assert load_traces(tmp_path / "statistics.safetensors")["ufm0"].times[-1] == 2000
    before = (tmp_path / "fits.parquet").read_bytes()
    fit_batch(UfmBatch("batch", specs), tmp_path)
    assert (tmp_path / "fits.parquet").read_bytes() == before


PLAIN = {"classes": 3, "samples": 4, "dim": 5}
DECAYS = {"weight_decay": 5e-3, "feature_decay": 1e-3}
NULL = dict.fromkeys(("smoothing", "gamma", "rescale", "temperature", "dims"))


def declared(folder, **settings: object) -> dict[str, object]:
    """The row of one problem after its trip through a record."""
    solver = settings.pop("solver", {"name": "lbfgs", "starts": 4})
    spec = UfmSpec.model_validate({**PLAIN, "solver": solver, **settings})
    fit_batch(UfmBatch("batch", {"one": spec}), folder)
    (row,) = read_table(folder / "fits.parquet").to_pylist()
    return row


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (DECAYS, {"model": "plain", "classifier": "free", "loss": "mse", "weight_decay": [5e-3], "dim": 5} | NULL),
        (
            {"loss": "label_smoothing", "smoothing": 0.1, **DECAYS},
            NULL | {"loss": "label_smoothing", "smoothing": 0.1},
        ),
        ({"loss": "focal", "gamma": 2.0, **DECAYS}, NULL | {"gamma": 2.0}),
        ({"rescale": (2.0, 3.0), **DECAYS}, NULL | {"rescale": [2.0, 3.0]}),
        (
            {"loss": "ce", "temperature": 4.0},
            NULL | {"temperature": 4.0, "weight_decay": None, "feature_decay": None},
        ),
        ({"classifier": "etf", "feature_decay": 1e-3}, NULL | {"classifier": "etf", "weight_decay": [], "rank": 2}),
        (
            {"dim": (5, 4), "weight_decay": (1e-3, 2e-3), "feature_decay": 1e-3},
            NULL | {"model": "extended", "dim": 5, "dims": [5, 4], "weight_decay": [1e-3, 2e-3]},
        ),
        ({"nonnegative": True, "bias": "free", **DECAYS}, NULL | {"nonnegative": True, "bias": "free", "rank": 2}),
        ({"samples": (9, 4, 2), **DECAYS}, NULL | {"samples": 5, "rank": 3}),
        (
            {"loss": "pick_all_labels", "samples": {1: 4, 2: 1}, **DECAYS},
            NULL | {"loss": "pick_all_labels", "samples": 5, "rank": 2},
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_a_declared_row_tells_the_problem_and_its_closed_form(settings, expected, tmp_path):
    row = declared(tmp_path, **settings)
    assert {name: row[name] for name in expected} == expected
    problem = Problem(**{**PLAIN, **settings})
    optimum = problem.optimum()
    assert row["optimum"] == optimum.value
    for name in ("scale", "rank", "is_global", "zero_threshold", "basis"):
        assert row[name] == getattr(optimum, name)
    assert row["gap"] == pytest.approx(0, abs=1e-10)
    assert row["missed"] is False
    assert row["message"].startswith("reached the optimum")


def test_a_row_without_a_closed_form_says_why(tmp_path):
    row = declared(tmp_path, activation="relu", bias="free", weight_decay=(1e-3, 1e-3), feature_decay=1e-3)
    assert row["basis"].startswith("no closed form: ReLU with a bias")
    assert {row[name] for name in ("optimum", "scale", "rank", "is_global", "zero_threshold", "gap")} == {None}
    assert row["missed"] is False
    assert "no closed form" in row["message"]


def test_a_fit_that_stops_short_is_missed(tmp_path):
    row = declared(tmp_path, solver={"name": "gradient_descent", "steps": 10, "points": 3}, **DECAYS)
    assert row["missed"] is True
    assert row["iterations"] == 10
    assert row["message"].startswith("missed the optimum")


@pytest.mark.parametrize("solver", ["construction", "gradient_flow"])
def test_rows_of_solvers_without_random_starts(solver, tmp_path):
    options = {"steps": 2000, "step_size": 10.0, "points": 5} if solver == "gradient_flow" else {}
    row = declared(tmp_path, solver={"name": solver, **options}, **DECAYS)
    assert (row["solver"], row["status"]) == (solver, "done")
    assert row["gap"] == pytest.approx(0, abs=1e-9)
    tensors, _ = read_tensors(tmp_path / "minimisers.safetensors")
    assert tensors["one/features"].shape == (12, 5)


def test_a_solver_that_does_not_apply_is_one_line(tmp_path):
    spec = UfmSpec(classes=3, samples=4, dim=3, loss="ce", weight_decay=(1e-3, 1e-3), solver={"name": "construction"})
    with pytest.raises(
        UserError, match="b1: solver 'construction': no closed form: extended model with cross entropy"
    ):
        fit_batch(UfmBatch("b1", {"p": spec}), tmp_path)


# --- the central path ----------------------------------------------------------------------------

PATH = {"classes": 4, "samples": 20, "dim": 8, "bias": "free", "solver": {"name": "central_path"}}


@pytest.fixture(scope="module")
def path_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("path")
    specs = {f"path{s}": UfmSpec.model_validate(PATH | {"seed": s}) for s in (0, 1)}
    fit_batch(UfmBatch("batch", specs), folder)
    write_collapse(folder / "statistics.safetensors", "ufm", folder / "collapse.parquet")
    return folder


def test_central_path_records_singular_values_beside_their_law(path_folder):
    history = read_table(path_folder / "history.parquet").to_pandas()
    table = history.pivot(index=["run_id", "time"], columns="quantity", values="value")
    assert len(table) == 80
    assert not table.isna().any().any()
    for i in (1, 2, 3):
        assert table[f"snr_{i}"].to_numpy() == pytest.approx(table[f"snr_law_{i}"].to_numpy(), rel=1e-9)
    assert table["objective"].to_numpy() == pytest.approx(
        (1 / (4 + table[["snr_1", "snr_2", "snr_3"]] ** 2)).sum(axis=1).to_numpy() / 2
    )
    assert (table.loc["path0", "snr_1"] != table.loc["path1", "snr_1"]).all()
    assert table["snr_1"].groupby("run_id").apply(lambda w: w.is_monotonic_increasing).all()


def test_ends_of_a_central_path_are_measured_with_the_least_squares_classifier(path_folder):
    history = read_table(path_folder / "history.parquet").to_pandas().set_index(["run_id", "time", "quantity"])
    collapse = read_table(path_folder / "collapse.parquet").to_pandas().set_index(["run_id", "time", "metric"])
    for time in (0, 1_000_000):
        row = collapse.loc[("path1", time), "value"]
        for metric, quantity in (("nc1_pinv", "nc1_pinv"), ("loss", "objective")):
            assert row[metric] == pytest.approx(history.loc[("path1", time, quantity), "value"], rel=1e-8)
        assert row["loss_perp"] == pytest.approx(0, abs=1e-15)
        assert row["loss_nc1"] + row["loss_nc23"] == pytest.approx(row["loss"])
    tensors, _ = read_tensors(path_folder / "minimisers.safetensors")
    weight, bias = load_traces(path_folder / "statistics.safetensors")["path1"].heads[1_000_000]
    assert torch.equal(tensors["path1/weight1"], weight)
    assert torch.equal(tensors["path1/bias"], bias)
    assert tensors["path1/features"].shape == (80, 8)


def test_row_of_a_central_path_has_no_penalties_and_no_optimum(path_folder):
    row = read_table(path_folder / "fits.parquet").to_pylist()[0]
    none = ("weight_decay", "feature_decay", "optimum", "optimum_is_zero", "gap", "zero_threshold", "network_id")
    assert [row[name] for name in none] == [None] * len(none)
    assert (row["solver"], row["status"], row["bias"], row["iterations"]) == ("central_path", "done", "free", 10**6)
    assert row["basis"].startswith("no closed form:")
    settings = problem_settings(UfmSpec.model_validate(PATH))
    assert (settings["weight_decay"], settings["feature_decay"]) == (None, None)
    assert settings["epochs"] == 10**6
    assert settings["label"] == "plain linear MSE bias (central path)"


def test_features_of_a_central_path_are_whitened():
    features, labels = start_features(UfmSpec.model_validate(PATH).model, seed=0)
    means = torch.stack([features[labels == c].mean(dim=0) for c in range(4)])
    deviations = features - means[labels]
    assert torch.allclose(deviations.T @ deviations / 80, torch.eye(8, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "none"}, "needs bias free"),
        ({"loss": "ce"}, "needs loss mse"),
        ({"weight_decay": 5e-3}, "needs weight_decay null"),
        ({"feature_decay": 1e-3}, "needs feature_decay null"),
        ({"rescale": (2, 3)}, "needs rescale"),
        ({"nonnegative": True}, "needs nonnegative false"),
        ({"samples": (20, 20, 20, 19)}, "samples is one number"),
        ({"dim": 2}, "needs dim 3 or more"),
        ({"samples": 2}, "needs samples 3 or more"),
        ({"solver": {"name": "central_path", "end_time": 100.0}}, "end_time must be at least 36460 with points 40"),
    ],
)
def test_what_a_central_path_is_of(changes, message):
    with pytest.raises(ValidationError, match=message):
        UfmSpec.model_validate(PATH | changes)


@pytest.mark.parametrize("points", [2, 3, 4, 10, 40, 400])
def test_recorded_times_of_a_central_path_differ(points):
    def solved(end_time: float) -> UfmSpec:
        return UfmSpec.model_validate(PATH | {"solver": {**PATH["solver"], "points": points, "end_time": end_time}})

    with pytest.raises(ValidationError) as refused:
        solved(1e-3)
    least = float(re.search(r"at least (\d+)", str(refused.value)).group(1))
    times = [row["time"] for row in follow_path("path", solved(least)).history]
    assert len(set(times)) == points
