"""The UFM stage: records of declared batches, and what a network's settings and statistics become in a match."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ncpipe.collapse import Moment, Trace, layer_statistics, load_traces, save_traces
from ncpipe.files import read_tensors, write_json
from ncpipe.fitting import fit_batch, match_network, matched_to
from ncpipe.study.spec import NetworkSpec, UfmSpec
from ncpipe.study.study import NetworkRun, UfmBatch
from ncpipe.study.sweep import laid_over
from ncpipe.tables.records import read_table

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
    features, below = (trace.statistics[Moment(7, layer)].squared_norm for layer in ("features", "layer2"))
    plain = matched_to("plain", network().spec, trace).problem
    assert plain.weight_decays == (4e-3,)
    assert plain.feature_decay == pytest.approx(4e-3 * float(weight.square().sum()) / features)
    assert plain.bias == 4e-3
    extended = matched_to("extended", network().spec, trace).problem
    assert extended.weight_decays == (4e-3, 4e-3)
    assert extended.activation == "relu"
    assert extended.feature_decay == pytest.approx(4e-3 * float(weight.square().sum()) / below)


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
    assert set(load_traces(tmp_path / "ufm/statistics.safetensors")) == {row["run_id"] for row in rows}


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
