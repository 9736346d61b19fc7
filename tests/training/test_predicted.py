"""Models with nothing matched: which networks have one, its penalties, and a network at the end of its end phase."""

from dataclasses import replace

import pytest
from networks_in_training import CPU, planned

from ncpipe.collapse import Moment
from ncpipe.features.extraction import extract_features
from ncpipe.records.traces import load_traces
from ncpipe.records.writing import read_table
from ncpipe.stages.match import match_network
from ncpipe.stages.train import train
from ncpipe.study.config import MeasureSpec
from ncpipe.training.predicted import predicted_optimum, predicted_problem
from ncpipe.training.settings import measured_times

COUNTS = [20] * 10
MLP = {"name": "mlp", "depth": 2, "width": 32}


def problem(counts=COUNTS, **changes):
    return predicted_problem(planned(**{"model": MLP, "optimizer__weight_decay": 0.02} | changes).spec, counts)


def test_penalties_follow_from_the_weight_decay_alone() -> None:
    plain = problem(head__bias=False)
    assert plain.nonnegative
    assert (plain.depth, plain.widths, plain.bias, plain.activation) == (1, (32,), "none", "linear")
    assert plain.weight_decays == (0.02,)
    assert plain.feature_decay == pytest.approx(0.02 / 200)
    mean = problem(loss={"name": "mse", "scaling": "mean"}, head__bias=True)  # torch.nn.MSELoss: times K/2
    assert mean.weight_decays == (pytest.approx(0.1),)
    assert mean.feature_decay == pytest.approx(0.1 / 200)
    assert mean.bias == pytest.approx(0.1)
    head = problem(optimizer={"lr": 0.1, "weight_decay": 0.02, "head_weight_decay": 0.05})
    assert (head.weight_decays, head.feature_decay) == ((0.05,), pytest.approx(0.02 / 200))
    assert problem([3, 5, 9]).counts == (3, 5, 9)


@pytest.mark.parametrize(
    "changes", [{"model": MLP | {"batch_norm": "all_but_last"}}, {"head": {"hidden": 1, "bias": False}}]
)
def test_a_layer_without_batch_norm_above_the_last_makes_it_extended(changes) -> None:
    extended = problem(**{"head__bias": False} | changes)
    assert (extended.depth, extended.activation, extended.weight_decays) == (2, "relu", (0.02, 0.02))
    assert extended.feature_decay == pytest.approx(0.02 / 200)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": MLP | {"batch_norm": False}}, "no BatchNorm stands below"),
        ({"model": {"name": "convnet", "depth": 2, "width": 4}}, "a bound only"),
        ({"optimizer__decay": "weights"}, "scales and shifts"),
        ({"optimizer": {"name": "adamw", "lr": 0.1}}, "penalty of the loss"),
        ({"optimizer": {"lr": 0.1, "weight_decay": 0}}, "penalty of the loss"),
        ({"head__fixed_etf": True}, "frozen"),
        ({"head__feature_decay": 0.1}, "feature_decay"),
        ({"head__hidden": 2}, "more than one layer"),
        ({"loss": {"name": "focal", "gamma": 2}}, "'focal'"),
    ],
)
def test_where_the_derivation_does_not_hold_the_reason_is_told(changes, reason) -> None:
    with pytest.raises(ValueError, match=reason):
        problem(**changes)
    assert predicted_optimum(planned(**{"model": MLP} | changes).spec, COUNTS) is None


def test_a_projection_gives_any_architecture_its_model() -> None:
    projected = problem(model={"name": "convnet", "depth": 2, "width": 4}, head__feature_dim=16)
    assert projected.widths == (16,)


@pytest.mark.every(2)
@pytest.mark.parametrize("kind", ["predicted", "predicted_extended"])
def test_predictions_hold_at_the_end_of_the_end_phase(kind, digits, tmp_path) -> None:
    """Norms and objective without a parameter, to 1 %."""
    norm = True if kind == "predicted" else "all_but_last"
    run = planned(
        model={"name": "mlp", "depth": 2 if kind == "predicted" else 3, "width": 32, "batch_norm": norm},
        epochs=8, head__bias=False, optimizer__weight_decay=0.04,
        terminal={"iterations": 1500, "tolerance": 0.02},
    )  # fmt: skip
    run = replace(run, epochs=measured_times((0, 8), run.spec))
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(splits=("train", "test", "full_batch")), digits, tmp_path, CPU)
    match_network(run, ["predicted", "predicted_extended", "plain"], tmp_path, tmp_path / "match")
    rows = read_table(tmp_path / "match/fits.parquet").to_pandas().set_index("model")
    assert set(rows.index) == {kind, "plain"}
    row = rows.loc[kind]
    for name in ("weight_norm", "feature_norm", "objective"):
        assert row[f"measured_{name}"] == pytest.approx(row[f"predicted_{name}"], rel=0.01), name
    assert row["means_gram_error"] < 0.05
    if kind == "predicted_extended":
        for name in ("hidden_norm", "hidden_weight_norm"):
            assert row[f"measured_{name}"] == pytest.approx(row[f"predicted_{name}"], rel=0.02), name
    scalars = load_traces(tmp_path / "statistics.safetensors")["run"].scalars
    start, end = scalars[8, "full_batch"], scalars[max(time for time, _ in scalars), "full_batch"]
    assert abs(end["objective_gap"]) < 0.01 < start["objective_gap"]
    assert end["stationarity"] < 0.1 * start["stationarity"]
    assert end["classifier_stationarity"] < 0.05


def test_the_full_batch_split_has_statistics_of_all_images(digits, tmp_path) -> None:
    run = planned(model=MLP, epochs=2)
    run = replace(run, epochs=(0, 2))
    train(run, digits, tmp_path, CPU)
    extract_features(run, MeasureSpec(splits=("train", "full_batch", "train_mode")), digits, tmp_path, CPU)
    trace = load_traces(tmp_path / "statistics.safetensors")["run"]
    means = {split: trace.statistics[Moment(2, "features", split)].means for split in ("train", "full_batch")}
    assert (means["train"] - means["full_batch"]).abs().max() > 1e-3
    for split in means:
        assert {"objective", "stationarity", "objective_gap", "classifier_stationarity"} <= trace.scalars[
            2, split
        ].keys()
    assert trace.scalars[2, "train"]["objective"] != trace.scalars[2, "full_batch"]["objective"]
    assert "objective" not in trace.scalars[2, "train_mode"]
