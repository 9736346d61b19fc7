"""Class-incremental learning: starts of the new rows, the buffer, what is recorded, records, figure and claims."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from finished import STUDY
from stand_in import NAME, stand_in

from ncpipe.claims.evidence.claim import Claim
from ncpipe.claims.harun2025 import CLAIMS
from ncpipe.continual.initialisation import Head, Samples, class_mean_rows, least_squares, new_rows
from ncpipe.continual.learning import learn, measured_steps, rehearsal_pool
from ncpipe.continual.settings import ContinualSpec
from ncpipe.data import load
from ncpipe.data.registry import DATASETS
from ncpipe.figures import caption, draw
from ncpipe.plan.units import units
from ncpipe.records.reading import read_tables
from ncpipe.settings.sweep import laid_over
from ncpipe.stages.continual import frozen_features, learn_classes
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, read_tensors
from ncpipe.training.computation import Computation
from ncpipe.training.settings import LossSpec
from ncpipe.training.trainer import new_network

OLD, CLASSES, DIM = 3, 5, 7
LOSSES = {
    "ce": LossSpec(name="ce"),
    "mse": LossSpec(name="mse"),
    "mse mean": LossSpec(name="mse", scaling="mean"),
    "focal": LossSpec(name="focal", gamma=2.0),
}


def way(**settings: Any) -> ContinualSpec:
    return ContinualSpec(**{"init": "random", "rehearsal": 4, "steps": 30, "points": 5, "batch_size": 8} | settings)


def samples(per_class: int, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(CLASSES), per_class)
    random.shuffle(labels)
    centres = np.random.default_rng(99).normal(size=(CLASSES, DIM))
    features = centres[labels] + 1.2 * random.normal(size=(len(labels), DIM)) + 1
    return Samples(torch.from_numpy(features), torch.from_numpy(labels))


def old_head(bias: bool = True) -> Head:
    random = np.random.default_rng(5)
    weight = torch.from_numpy(random.normal(size=(OLD, DIM)))
    return Head(weight, torch.from_numpy(random.normal(size=OLD)) if bias else None)


# --- starts of the new rows ---------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [False, True])
def test_least_squares_rows_are_those_of_a_weighted_ridge_regression(bias):
    pool = samples(6)
    pool = Samples(pool.features[:23], pool.labels[:23])  # classes of different size
    found = least_squares(pool, CLASSES, 0.03, bias)
    h, y = pool.features.numpy(), np.eye(CLASSES)[pool.labels]
    h = np.column_stack([h, np.ones(len(h))]) if bias else h
    root = 1 / np.sqrt(y.sum(axis=0)[pool.labels])[:, None]
    penalty = 0.03 * np.square(root * h).sum() / h.shape[1]
    rows = np.vstack([root * h, np.sqrt(penalty) * np.eye(h.shape[1])])
    targets = np.vstack([root * y, np.zeros((h.shape[1], CLASSES))])
    expected = np.linalg.lstsq(rows, targets, rcond=None)[0].T
    np.testing.assert_allclose(found.weight, expected[:, :DIM], atol=1e-11)
    assert (found.bias is None) is not bias
    if bias:
        np.testing.assert_allclose(found.bias, expected[:, DIM], atol=1e-11)


def test_least_squares_starts_only_the_new_rows_and_fits_collapsed_features():
    labels = torch.arange(CLASSES).repeat(4)
    pool = Samples(torch.eye(CLASSES, DIM, dtype=torch.float64)[labels], labels)
    rows = new_rows(way(init="least_squares", ridge=1e-9), old_head(False), pool, CLASSES, np.random.default_rng(0))
    torch.testing.assert_close(rows.weight, torch.eye(CLASSES, DIM, dtype=torch.float64)[OLD:], atol=1e-8, rtol=0)


def test_class_mean_rows_point_at_the_centred_means_with_the_norm_of_the_old_rows():
    pool, old = samples(6), old_head()
    rows = class_mean_rows(old, pool, CLASSES)
    means = torch.stack([pool.features[pool.labels == label].mean(dim=0) for label in range(CLASSES)])
    for row, mean in zip(rows.weight, means[OLD:], strict=True):
        assert torch.cosine_similarity(row, mean - means.mean(dim=0), dim=0) == pytest.approx(1)
        assert row.norm() == pytest.approx(old.weight.norm(dim=1).mean().item())
    assert rows.bias.tolist() == pytest.approx([old.bias.mean().item()] * 2)


def test_random_rows_are_of_torchs_range_and_depend_on_the_seed_alone():
    wide = Head(torch.zeros(1, 400, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    first, again, other = (new_rows(way(), wide, samples(2), 200, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert 0.0499 < first.weight.abs().max() <= 0.05  # 1/sqrt(400)
    assert first.bias.abs().max() <= 0.05
    assert torch.equal(first.weight, again.weight)
    assert not torch.equal(first.weight, other.weight)


# --- the buffer ---------------------------------------------------------------------------------------


def test_pool_has_the_buffer_of_every_old_class_and_all_of_the_new():
    labels = samples(9).labels
    small, large = (rehearsal_pool(labels, OLD, n, np.random.default_rng(0)) for n in (4, 6))
    assert torch.bincount(labels[small]).tolist() == [4] * OLD + [9] * (CLASSES - OLD)
    assert set(small.tolist()) < set(large.tolist())
    other = rehearsal_pool(labels, OLD, 4, np.random.default_rng(1))
    assert not torch.equal(small, other)


def test_buffer_larger_than_a_class_is_refused():
    with pytest.raises(UserError, match=r"class 0 has 3 images: lower continual\.rehearsal = 4"):
        rehearsal_pool(samples(3).labels, OLD, 4, np.random.default_rng(0))


# --- learning -----------------------------------------------------------------------------------------


def softmax_loss(name: str, logits: np.ndarray, labels: np.ndarray) -> float:
    """Brute-force mean loss."""
    if name.startswith("mse"):
        squares = np.square(logits - np.eye(logits.shape[1])[labels]).sum(axis=1)
        return squares.mean() * (1 / CLASSES if name == "mse mean" else 1 / 2)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    true = p[np.arange(len(labels)), labels]
    return ((1 - true) ** (2 if name == "focal" else 0) * -np.log(true)).mean()


@pytest.mark.parametrize("name", LOSSES)
def test_step_0_is_the_old_classifier_with_the_new_rows(name):
    train, test, old, spec = samples(9), samples(5, seed=1), old_head(), way(init="least_squares")
    first = learn(spec, LOSSES[name], old, train, test, CLASSES).history[0]
    rows = rehearsal_pool(train.labels, OLD, 4, np.random.default_rng([0, 0]))
    pool = Samples(train.features[rows], train.labels[rows])
    fit = least_squares(pool, CLASSES, spec.ridge, True)
    weight = np.vstack([old.weight, fit.weight[OLD:]])
    bias = np.concatenate([old.bias, fit.bias[OLD:]])
    logits, labels = test.features.numpy() @ weight.T + bias, test.labels.numpy()
    right, is_old = logits.argmax(axis=1) == labels, labels < OLD
    alone = logits[is_old][:, :OLD]
    expected = {
        "time": 0,
        "train_loss": softmax_loss(name, pool.features.numpy() @ weight.T + bias, pool.labels.numpy()),
        "train_accuracy": ((pool.features.numpy() @ weight.T + bias).argmax(axis=1) == pool.labels.numpy()).mean(),
        "test_loss": softmax_loss(name, logits, labels),
        "test_accuracy": right.mean(),
        "test_old_accuracy": right[is_old].mean(),
        "test_new_accuracy": right[~is_old].mean(),
        "old_loss": softmax_loss(name, logits[is_old], labels[is_old]),
        "before_old_loss": softmax_loss(name, alone, labels[is_old]),
        "before_old_accuracy": (alone.argmax(axis=1) == labels[is_old]).mean(),
    }
    assert first == pytest.approx(expected, rel=1e-12)
    assert len({expected[f"test_{which}accuracy"] for which in ("", "old_", "new_")}) == 3
    assert first["old_loss"] > first["before_old_loss"]  # nothing that new rows add lowers it


def test_sgd_is_torchs_on_the_same_batches():
    train, test, old = samples(9), samples(5, seed=1), old_head()
    spec = way(batch_size=1000, steps=10, lr=0.1, weight_decay=0.1)  # batches of the whole pool
    history = learn(spec, LOSSES["ce"], old, train, test, CLASSES).history
    rows = rehearsal_pool(train.labels, OLD, 4, np.random.default_rng([0, 0]))
    fresh = new_rows(spec, old, train, CLASSES, np.random.default_rng([0, 1]))
    layer = torch.nn.Linear(DIM, CLASSES).double()
    weight, bias = old.with_rows(fresh)
    layer.load_state_dict({"weight": weight, "bias": bias})
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(10):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(train.features[rows]), train.labels[rows]).backward()
        optimizer.step()
    loss = torch.nn.functional.cross_entropy(layer(test.features), test.labels)
    assert history[-1]["test_loss"] == pytest.approx(loss.item(), rel=1e-12)


def test_learning_repeats_and_leaves_the_old_classifier_alone():
    train, test, old = samples(9), samples(5, seed=1), old_head()
    first, again = (learn(way(seed=3), LOSSES["ce"], old, train, test, CLASSES) for _ in range(2))
    assert first == again
    assert first.status == "done"
    assert first.final_step == 30
    assert first.train_samples == 4 * OLD + 9 * (CLASSES - OLD)
    assert all(torch.equal(a, b) for a, b in zip(old, old_head()))  # the trained classifier itself stays


def test_measured_steps_hold_zero_the_last_and_the_powers_of_ten():
    steps = measured_steps(way(steps=2500, points=8))
    assert {0, 1, 10, 100, 1000, 2500} <= set(steps)
    assert max(steps) == 2500
    assert measured_steps(way(steps=100, points=2)) == (0, 1, 10, 100)


def test_divergence_is_a_result():
    found = learn(way(lr=1e3, steps=2000), LOSSES["mse"], old_head(), samples(9), samples(5, seed=1), CLASSES)
    assert found.status == "diverged"
    assert found.final_step < 2000
    assert all(math.isfinite(row["train_loss"]) for row in found.history)


# --- the study ----------------------------------------------------------------------------------------


def study_of(**changes: Any) -> Study:
    return Study(laid_over(STUDY, {key.replace("__", "."): value for key, value in changes.items()}))


def test_plan_has_the_whole_data_set_and_a_job_per_network():
    study = study_of()
    planned = [(unit.stage, unit.id) for unit in units(study)]
    whole = study_of(datasets__base__classes=None, continual=None)
    assert {i for stage, i in planned if stage == "dataset"} == {*study.datasets, *whole.datasets}
    assert [i for stage, i in planned if stage == "continual"] == list(study.networks)
    assert all(len(run.ways) == 3 for run in study.continual.values())
    assert len({i for run in study.continual.values() for i in run.ways}) == 9
    assert "continual_curves" in study.figures


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"datasets__base__classes": None}, "every network's data set has all of its classes"),
        ({"datasets__base__classes": 10}, "has seen all 10 classes; lower dataset.classes"),
        ({"continual__base__rehearsal": 21}, "has 20 images of a class; lower continual.rehearsal = 21"),
        ({"networks__base__head": {"fixed_etf": True}}, "frozen or normalised classifier"),
        ({"networks__base__head": {"temperature": 5.0, "bias": False}}, "frozen or normalised classifier"),
        ({"datasets__base__label_noise": 0.1}, "several or corrupted labels"),
        (
            {
                "datasets__base__pairs": 2,
                "datasets__base__test_pairs": 2,
                "networks__base__loss": {"name": "pick_all_labels"},
            },
            "several or corrupted labels",
        ),
        ({"continual__base__inits": 1}, "unknown key 'inits'"),
    ],
)
def test_bad_settings_are_one_line(changes, message):
    with pytest.raises(UserError) as caught:
        study_of(**changes)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def finished(finished_study):
    return Study.read(finished_study / "study.json")


def test_stage_writes_a_row_and_a_history_per_way(finished):
    tables = read_tables(finished.layout.tables)
    runs = tables["runs"].query("kind == 'continual'")
    assert set(runs["network_id"]) == set(finished.networks)
    assert sorted(runs["status"]) == ["diverged"] * 3 + ["done"] * 6
    runs = runs.query("status == 'done'")
    assert set(runs["classes"]) == {DATASETS["digits"].published.classes}
    assert set(runs["train_samples"]) == {6 * 5 + 4 * 20}
    assert set(runs["label"]) == {"continual random", "continual class mean", "continual least squares"}
    seeds = {run.id: run.spec.seed for run in finished.networks.values()}
    assert (runs["seed"] == runs["network_id"].map(seeds)).all()
    history = tables["history"].query("run_id in @runs.run_id")
    assert set(history["time"]) == {0, 1, 5, 10, 22, 100}
    ends = history.query("time == 100 and quantity == 'test_accuracy'").set_index("run_id")["value"]
    assert runs.set_index("run_id")["final_test_accuracy"].to_dict() == ends.to_dict()
    assert set(tables["timings"].query("stage == 'continual'")["run_id"]) == set(runs["run_id"])


def test_old_accuracy_before_the_switch_is_that_of_the_network(finished):
    run = next(iter(finished.continual.values()))
    kept = load(finished.layout.dataset(run.network.dataset_id))
    whole = load(finished.layout.dataset(run.dataset_id))
    assert whole.num_classes == 10
    network = new_network(run.network.spec, kept).eval()
    network.load_state_dict(read_tensors(finished.layout.run(run.network.id) / "model.safetensors")[0])
    images = (kept.test.images / 255 - kept.mean.view(1, -1, 1, 1)) / kept.std.view(1, -1, 1, 1)
    right = (network(images).logits.argmax(dim=1) == kept.test.labels).double().mean().item()
    history = read_tables(finished.layout.tables)["history"]
    rows = history[(history["run_id"] == next(iter(run.ways))) & (history["quantity"] == "before_old_accuracy")]
    (before,) = rows["value"]
    assert before == pytest.approx(right)


def test_features_read_on_an_accelerator_are_those_of_the_cpu(finished):
    run = next(iter(finished.continual.values()))
    kept, whole = (load(finished.layout.dataset(name)) for name in (run.network.dataset_id, run.dataset_id))
    folder = finished.layout.run(run.network.id)
    theirs = frozen_features(run, kept, whole, folder, Computation(torch.device("cpu")))
    with stand_in():
        ours = frozen_features(run, kept, whole, folder, Computation(torch.device(NAME, 0)))
    for (here, *_), (there, *_) in zip(ours, theirs, strict=True):
        assert here.device.type == "cpu"
        torch.testing.assert_close(here, there, rtol=1e-5, atol=1e-5)


def test_tables_are_read_by_claims_and_figure(finished):
    tables = read_tables(finished.layout.tables)
    claims = tables["claims"].set_index("claim_id")
    assert set(claims["count"]) == {2}
    assert set(claims["verdict"]) <= {"supported", "contradicted", "undecided"}
    assert set(claims["data"]) == {"digits (K = 10, N = 110)"}
    options = FigureOptions(name="continual_curves")
    assert "2 networks" in caption(tables, options)
    assert len(draw(tables, options).axes) == 4
    without = {**tables, "runs": tables["runs"].query("kind != 'continual'")}
    assert len(draw(without, options).axes) == 0


def test_network_that_diverged_leaves_diverged_runs(finished, tmp_path):
    run = next(iter(finished.continual.values()))
    kept, whole = (load(finished.layout.dataset(i)) for i in (run.network.dataset_id, run.dataset_id))
    (tmp_path / "spec.json").write_text(json.dumps({"status": "diverged"}))
    learn_classes(run, kept, whole, tmp_path, tmp_path / "out", Computation(torch.device("cpu")))
    written = read_json(tmp_path / "out/runs.json")
    assert {about["status"] for about in written.values()} == {"diverged"}
    with pytest.raises(UserError, match="has seen all 6 classes"):
        learn_classes(run, kept, kept, tmp_path, tmp_path / "out", Computation(torch.device("cpu")))


# --- claims -------------------------------------------------------------------------------------------


def made_up(changes: dict[tuple[str, int, str, int], float] | None = None) -> dict[str, pd.DataFrame]:
    """Two networks and two seeds of learning; values by (init, seed, quantity, step) instead of the usual."""
    runs, history = [], []
    for network, seed, init in itertools.product(("a", "b"), (0, 1), ("random", "class_mean", "least_squares")):
        run_id, good = f"{network}-{seed}-{init}", init == "least_squares"
        settings = {"init": init, "seed": seed, "lr": 0.1, "ridge": 0.5 if good else 0.01}
        run = {"run_id": run_id, "kind": "continual", "status": "done", "network_id": network}
        run |= {"dataset": "digits", "classes": 10, "train_samples": 7, "seed": "ab".index(network)}
        runs.append(run | {"settings": json.dumps(settings)})
        for step in (0, 1, 10, 100, 1000):
            values = {"old_loss": 1.1 if good else 2.0, "test_accuracy": 0.9 if good else 0.8}
            values |= {"train_loss": 0.5 if good else 5.0}
            values |= {"before_old_loss": 1.0} if step == 0 else {}
            values |= {"old_loss": 50.0} if step == 1000 else {}  # long after the switch
            for quantity, value in values.items():
                given = (changes or {}).get((init, seed, quantity, step), value)
                history.append({"run_id": run_id, "time": step, "quantity": quantity, "value": given})
    return {"runs": pd.DataFrame(runs), "history": pd.DataFrame(history)}


def claim(number: str) -> Claim:
    return next(claim for claim in CLAIMS if claim.id == f"harun2025-{number}")


def test_claims_compare_runs_of_one_network_and_seed():
    frames = made_up()
    row = claim("1a").row(frames)
    assert row["effect"] == pytest.approx(-1)  # a rise of 0.1 against 1
    assert (row["count"], row["seeds"], row["verdict"]) == (4, 2, "supported")
    assert claim("2a").row(frames)["effect"] == pytest.approx(-1)
    good_means = made_up({("class_mean", seed, "old_loss", step): 1.1 for seed in (0, 1) for step in (0, 1, 10, 100)})
    verdicts = [claim(number).row(good_means)["verdict"] for number in ("1a", "1b", "2b")]
    assert verdicts == ["supported", "undecided", "supported"]  # 1b: equal decides nothing
    assert claim("3c").row(frames)["effect"] == pytest.approx(0.1)
    worse = made_up({("least_squares", 1, "test_accuracy", 10): 0.1})
    verdicts = [claim(number).row(worse)["verdict"] for number in ("3a", "3b", "3c")]
    assert verdicts == ["supported", "contradicted", "supported"]  # 3b: of 0.1 and -0.7 in every seed, the median


def test_claims_leave_out_what_has_no_partner_and_count_no_spike_as_smallest():
    frames = made_up({("least_squares", 0, "old_loss", step): 0.9 for step in (0, 1, 10, 100)})
    assert claim("1a").row(frames)["low"] == pytest.approx(-9)
    lost = (frames["runs"]["network_id"] == "a") & frames["runs"]["settings"].str.contains("random")
    frames["runs"].loc[lost, "status"] = "diverged"
    assert claim("1a").row(frames)["count"] == 2
    short = {**frames, "history": frames["history"][frames["history"]["time"] < 100]}
    assert claim("3c").row(short)["count"] == 0
    assert claim("3b").row(short)["count"] == 2


def test_claims_of_a_study_without_continual_learning_are_undecided():
    frames = made_up()
    frames["runs"] = frames["runs"].assign(kind="network")
    assert {claim.row(frames)["verdict"] for claim in CLAIMS} == {"undecided"}
