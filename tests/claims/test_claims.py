"""Claims: verdicts from statistics, and the statistics from tables in which the answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from ncpipe.claims import Claim, claim_rows
from ncpipe.claims.evidence.claim import interval
from ncpipe.claims.evidence.misfits import PREDICTED, misfit_values, misfits
from ncpipe.claims.evidence.selectors import BARE, NORMED, ONE_BELOW, batch_norms
from ncpipe.records.schemas import TABLES
from ncpipe.study.config import PAPERS
from ncpipe.ufm import Problem

MLP = {"name": "mlp", "batch_norm": True}
NET = {"kind": "network", "status": "done", "fixed_etf": False, "head": "linear", "weight_decay": [1e-3]}
NET |= {"settings": json.dumps({"model": MLP}), "classes": 10}
UFM = {"kind": "declared", "status": "done", "optimizer": "gradient_descent", "loss": "mse", "classes": 4}
RUNS = [
    {"run_id": "mse0", **NET, "loss": "mse", "bias": "no", "zero_error_epoch": 5},
    {"run_id": "mse1", **NET, "loss": "mse", "bias": "no", "zero_error_epoch": 8},
    {"run_id": "early", **NET, "loss": "mse", "bias": "no", "zero_error_epoch": None},
    {"run_id": "frozen", **NET, "fixed_etf": True, "loss": "mse", "bias": "no", "zero_error_epoch": 5},
    {"run_id": "ce", **NET, "loss": "ce", "bias": "yes", "zero_error_epoch": 5},
    {"run_id": "bad", **NET, "status": "diverged", "loss": "mse", "bias": "no"},
    {"run_id": "plain", **UFM, "model": "plain", "activation": "linear", "bias": "none"},
    {"run_id": "free", **UFM, "model": "plain", "activation": "linear", "bias": "free"},
    {"run_id": "relu", **UFM, "model": "extended", "activation": "relu", "bias": "none"},
]


def collapse(*rows: tuple) -> pd.DataFrame:
    names = ["run_id", "layer", "depth", "time", "metric", "value"]
    return pd.DataFrame([dict(zip(names, row)) | {"split": "train"} for row in rows], columns=[*names, "split"])


RUN_COLUMNS = ["settings", "seed", "train_samples", "weight_decay", "dataset", "loss", "bias"]


def frames(*rows: tuple, ufm: list | None = None) -> dict[str, pd.DataFrame]:
    columns = ["run_id", "kind", "network_id", "model", "weights_gram_error", "means_gram_error", "gap", "optimum"]
    columns += ["bias", "classes", "samples", "weight_decay", "feature_decay", "classifier", "rescale"]
    sides = ("predicted", "measured")
    columns += [f"{side}_{name}" for side in sides for name in ("weight_norm", "feature_norm", "objective", "loss")]
    columns += [f"{side}_{name}" for side in sides for name in ("means_gram", "weights_gram")]
    runs = pd.DataFrame(RUNS).astype({"zero_error_epoch": float})
    runs = runs.assign(**{name: None for name in RUN_COLUMNS if name not in runs})
    fits = pd.DataFrame(ufm or [], columns=columns)
    return {
        "runs": runs,
        "collapse": collapse(*rows),
        "ufm": fits,
        "history": pd.DataFrame(columns=TABLES["history"].names),
    }


def claim(number: str) -> Claim:
    return next(claim for claim in PAPERS["tirer2022"].CLAIMS if claim.id == f"tirer2022-{number}")


@pytest.mark.parametrize(
    ("values", "direction", "verdict"),
    [
        ([1, 2], "below", "supported"),
        ([1, 4], "below", "undecided"),
        ([4, 5], "below", "contradicted"),
        ([4, 5], "above", "supported"),
        ([3], "below", "undecided"),
        ([3, 2], "below", "supported"),
        ([3 + 1e-9, 2], "below", "supported"),
        ([3 + 1e-8, 2], "below", "undecided"),
        ([3, 4], "below", "contradicted"),
        ([-math.inf, 2], "below", "supported"),
        ([math.inf, 2], "below", "undecided"),
        ([math.inf], "below", "contradicted"),
        ([], "below", "undecided"),
        ([math.nan, 1], "below", "supported"),
    ],
)
def test_verdicts(values, direction, verdict):
    made = Claim("x", "paper", "s", "t", direction, 3.0, lambda _: pd.Series(values, dtype=float))
    row = made.row(frames())
    assert row["verdict"] == verdict
    assert row["count"] == sum(not math.isnan(v) for v in values)


def over_seeds(values: list[float], threshold: float = 0.0, **more: float) -> dict:
    """The row of a claim 'below the threshold' of one value a seed."""
    names = [str(i) for i in range(len(values))]
    runs = pd.DataFrame({"run_id": names, "seed": range(len(values)), "dataset": None, "classes": None})
    made = Claim("x", "paper", "s", "t", "below", threshold, lambda _: pd.Series(values, index=names), **more)
    return made.row({"runs": runs.assign(train_samples=None)})


def test_more_seeds_decide_a_claim_though_one_of_them_is_off():
    values = [-1.0, -1.1, -0.9, -1.0, -1.2, -0.8, -1.0, 0.2]
    assert over_seeds(values[-2:])["verdict"] == "undecided"
    for number in (8, 16, 64):
        row = over_seeds((values * 8)[:number])
        assert (row["verdict"], row["holds"]) == ("supported", number * 7 // 8)
        assert over_seeds([-value for value in (values * 8)[:number]])["verdict"] == "contradicted"
    assert over_seeds(values * 8)["resolution"] < over_seeds(values)["resolution"] / 2


def test_of_fits_one_that_breaks_the_theorem_is_enough():
    values = pd.Series([-1.0, -1.0, -1.0, -1.1, -1.1, 5.0])
    by_seed = pd.Series([-1.0, -1.1])
    of_theory = Claim("c", "s", "a theorem", "x", "below", 0.0, lambda frames: values)
    assert of_theory.decide(values, by_seed)[0] == "supported"
    assert of_theory.decide(values, by_seed, of_fits=True) == ("undecided", "all fits: on both sides")
    assert of_theory.decide(values[:5], by_seed, of_fits=True)[0] == "supported"


def test_the_interval_decides_not_the_runs():
    assert over_seeds([-0.1, -3.0])["verdict"] == "undecided"  # both below, and the mean is not told from 0
    assert over_seeds([-0.1, -3.0])["reason"] == "the interval over seeds: on both sides"
    same = over_seeds([-0.1, -0.1])
    assert (same["verdict"], same["resolution"]) == ("supported", 0)
    assert over_seeds([-0.1])["reason"] == "all runs of one seed: on the stated side"
    assert over_seeds([])["reason"] == "no run speaks of it"


def test_what_is_infinite_has_no_interval_and_all_seeds_decide():
    row = over_seeds([-math.inf, -1.0, -2.0])
    assert (row["verdict"], row["resolution"], row["interval_low"]) == ("supported", None, None)
    assert row["reason"] == "the medians of all seeds: on the stated side"
    assert over_seeds([-math.inf, 1.0])["verdict"] == "undecided"
    assert over_seeds([math.inf, math.inf])["verdict"] == "contradicted"
    assert over_seeds([math.nan, math.nan])["count"] == 0


def test_ties_decide_nothing():
    for values in ([0.0, 0.0], [0.0], [1e-12, -1e-12], [-1e-12]):
        tie = over_seeds(values, rounding=1e-10)
        assert tie["verdict"] == "undecided"
        assert tie["reason"].endswith(": at the threshold but for rounding")
    assert over_seeds([-1e-12, -1e-12])["verdict"] == "supported"  # of a claim that knows of no rounding
    assert over_seeds([0.3 + 1e-17, 0.1 + 0.2], threshold=0.3)["verdict"] == "undecided"
    assert over_seeds([0.29, 0.29], threshold=0.3)["verdict"] == "supported"


def test_claims_on_frames_read_the_last_time_of_done_runs():
    tables = frames(
        ("plain", "features", 1, 0, "nc2_means_of", 0.5),
        ("plain", "features", 1, 9, "nc2_means_of", 1e-5),
        ("mse0", "features", 1, 9, "nc2_means_of", 0.2),
        ("free", "features", 1, 9, "nc4_bias", 0.5),  # 1/sqrt(4): the exact bias
    )
    assert claim("1").row(tables) | {"effect": 1e-5, "count": 1, "verdict": "supported"} == claim("1").row(tables)
    assert claim("2b").row(tables)["effect"] == pytest.approx(0)
    rows = [
        (run, "features", 1, 9, f"nc2_weights_{frame}", value)
        for run, of, etf in (
            ("mse0", 0.1, 0.3),
            ("mse1", 0.2, 0.3),
            ("bad", 9, 0),
            ("early", 9, 0),
            ("frozen", 9, 0),
            ("ce", 0.4, 0.1),
        )
        for frame, value in (("of", of), ("etf", etf))
    ]
    mse, ce = claim("5a").row(frames(*rows)), claim("5b").row(frames(*rows))
    assert (mse["low"], mse["high"], mse["count"]) == (pytest.approx(-0.2), pytest.approx(-0.1), 2)
    assert mse["verdict"] == ce["verdict"] == "supported"
    assert ce["effect"] == pytest.approx(0.3)


def test_claims_on_depth_and_training():
    tables = frames(
        *(("mse0", "layer1", 1, time, "nc1_pinv", 10.0) for time in (0, 5, 9)),
        ("mse0", "features", 2, 0, "nc1_pinv", 5.0),
        ("mse0", "features", 2, 5, "nc1_pinv", 1.0),
        ("mse0", "features", 2, 9, "nc1_pinv", 0.001),
        ("early", "features", 2, 9, "nc1_pinv", 0.5),
        ("relu", "H1", 1, 1, "nc1_pinv", 1.0),
        ("relu", "features", 2, 1, "nc1_pinv", 0.1),
    )
    assert claim("6a").row(tables)["low"] == pytest.approx(-4)
    training = claim("6b").row(tables)
    assert training["effect"] == pytest.approx(-3)
    assert training["count"] == 1  # the other never reached zero error
    assert claim("6c").row(tables)["effect"] == pytest.approx(-1)


def test_claims_on_matched_models_read_the_errors():
    fit = {
        "run_id": "m", "kind": "matched", "model": "plain", "network_id": "mse0",
        "weights_gram_error": 0.1, "means_gram_error": 0.7,
        "predicted_weight_norm": 2.0, "measured_weight_norm": 1.0,
        "predicted_feature_norm": 5.0, "measured_feature_norm": 1.0,
    }  # fmt: skip
    assert claim("7a").row(frames(ufm=[fit]))["effect"] == pytest.approx(0.1)
    scattered = frames(("mse0", "features", 1, 9, "within_share", 0.2), ufm=[fit | {"model": "extended"}])
    assert claim("7c").row(scattered)["effect"] == 0.2
    assert claim("7a").row(frames(ufm=[fit | {"network_id": "early"}]))["count"] == 0
    extended = claim("7b").row(frames(ufm=[fit | {"model": "extended"}]))
    assert extended["effect"] == pytest.approx(0.7)
    assert claim("7b").row(frames(ufm=[fit | {"model": "extended", "means_gram_error": None}]))["count"] == 0


def test_every_claim_of_a_paper_has_a_row_whatever_the_study_holds():
    rows = claim_rows(frames(("plain", "features", 1, 9, "nc2_means_of", 0.001)), ["tirer2022"], scale="small")
    assert [row["claim_id"] for row in rows] == [claim.id for claim in PAPERS["tirer2022"].CLAIMS]
    assert {row["claim_id"] for row in rows if row["verdict"] == "supported"} == {"tirer2022-1"}
    assert {(row["paper"], row["scale"]) for row in rows} == {("tirer2022", "small")}


def test_effect_and_interval_are_over_seeds_not_over_runs():
    runs = pd.DataFrame({"run_id": list("abcdef"), "seed": [0, 0, 0, 1, 1, 1], "dataset": None})
    values = pd.Series([1.0, 2.0, 30.0, 5.0, 6.0, 70.0], index=runs["run_id"])
    tables = {"runs": runs.assign(classes=None, train_samples=None)}
    row = Claim("x", "paper", "s", "t", "below", 3.0, lambda _: values).row(tables)
    assert row["effect"] == 4
    assert (row["interval_low"], row["interval_high"]) == pytest.approx((4 - 12.706205 * 2, 4 + 12.706205 * 2))
    assert interval(pd.Series([1.0])) == interval(pd.Series([1.0, math.inf])) == (None, None)


ETF = np.eye(4) - 1 / 4


def sweep(decays: tuple[float, ...], seed: int, bias: str = "no", **settings: float) -> tuple[list[dict], list[dict]]:
    """Networks over weight decays of the head: means an orthogonal frame, and the classifier too, an ETF with a bias.
    The extended and the predicted model are right; the plain one predicts frames of zero."""
    runs, fits = [], []
    for decay in decays:
        name = f"{seed}-{bias}-{decay}" + "".join(f"-{v:g}" for v in settings.values() if not isinstance(v, dict))
        runs.append({"run_id": name, **NET, "loss": "mse", "bias": bias, "zero_error_epoch": 1, "seed": seed})
        tree = {
            "optimizer": {"weight_decay": 9.0, "head_weight_decay": decay},
            "bias": bias,
            "seed": seed,
            "model": MLP,
            **settings,
        }
        runs[-1] |= {"weight_decay": [9.0, decay], "settings": json.dumps(tree)}
        classifier = (ETF if bias == "yes" else np.eye(4)).ravel()
        measured = {"weight_norm": 1 - decay, "feature_norm": 2.0, "loss": decay}
        measured |= {"means_gram": np.eye(4).ravel(), "weights_gram": classifier}
        for model, factor in (("plain", 0), ("extended", 1), ("predicted", 1)):
            fit = {"run_id": f"{model}-{name}", "kind": "matched", "network_id": name, "model": model}
            fit |= {f"measured_{key}": value for key, value in measured.items()}
            fits.append(fit | {f"predicted_{key}": factor * value for key, value in measured.items()})
    return runs, fits


def sweep_frames(*sweeps: tuple[list[dict], list[dict]]) -> dict[str, pd.DataFrame]:
    runs = pd.DataFrame([run for own, _ in sweeps for run in own])
    runs = runs.assign(**{name: None for name in [*RUN_COLUMNS, "classes"] if name not in runs})
    shares = (((run, "features", 1, 9, "within_share", 0.25)) for run in runs["run_id"])
    return {
        "runs": runs,
        "ufm": pd.DataFrame([fit for _, own in sweeps for fit in own]),
        "collapse": collapse(*shares),
    }


DECAYS = (0.01, 0.1)


def test_misfit_is_one_number_for_every_sweep_and_seed():
    tables = sweep_frames(*(sweep(DECAYS, seed, bias) for seed in (0, 1) for bias in ("no", "yes")))
    found = misfit_values(tables).set_index("matched")
    assert len(found) == 3 * 2 * 2
    assert found.loc["extended", "error"].tolist() == [0] * 4
    assert found.loc["plain", "error"].tolist() == pytest.approx([1] * 4)
    assert found.loc["plain", "relative"].tolist() == pytest.approx([1 / 0.51763809] * 4)
    assert set(found.loc["plain", "guess_error"]) == {0.0}
    for row in misfits(tables).to_dict("records"):
        assert row["misfit"].errors["scatter"] == 0.25
        assert ("weight_norm" in row["misfit"].errors) == (row["matched"] in PREDICTED)
    verdicts = {number: claim(number).row(tables)["verdict"] for number in ("8b", "8c", "8d")}
    assert verdicts == {"8b": "supported", "8c": "supported", "8d": "contradicted"}  # the model is right of these
    better = claim("8c").row(tables)
    assert (better["effect"], better["count"], better["seeds"]) == (pytest.approx(-1), 2, 2)
    assert [claim(number).row(tables)["count"] for number in ("8a", "8b", "8e")] == [0, 4, 0]


def test_networks_without_batch_norm_are_judged_apart():
    bare = [sweep(DECAYS, seed, model={"name": "mlp", "batch_norm": False}) for seed in (0, 1)]
    tables = sweep_frames(*bare, sweep((0.5,), 0, epochs=7))
    assert [claim(number).row(tables)["count"] for number in ("8a", "8d", "8e")] == [0, 1, 2]
    assert claim("8e").row(tables)["verdict"] == "contradicted"  # the model is right of these
    assert claim("8b").row(tables)["count"] == 0  # one decay: no size is compared


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"model": MLP}, NORMED),
        ({"model": {"name": "resnet18", "width": 8}}, NORMED),
        ({"model": MLP | {"batch_norm": "all_but_last"}}, ONE_BELOW),
        ({"model": MLP | {"batch_norm": "all_but_last"}, "head": {"feature_dim": 8}}, NORMED),
        ({"model": MLP, "head": {"hidden": 1}}, ONE_BELOW),
        ({"model": MLP, "head": {"hidden": 2}}, None),
        ({"model": MLP | {"batch_norm": False}}, BARE),
        ({"model": MLP | {"batch_norm": False}, "head": {"feature_dim": "classes"}}, NORMED),
        ({"model": {"name": "vit_b"}}, BARE),
        ({"model": {"name": "timm"}}, None),
        ({"classes": 4}, None),
    ],
)
def test_where_the_last_batch_norm_stands(settings, place):
    runs = pd.DataFrame([{"run_id": "a", "settings": json.dumps(settings)}])
    assert batch_norms({"runs": runs})["a"] == place


def test_distances_of_frames_are_in_units_of_that_of_an_of_from_an_etf():
    rows = [("mse0", "features", 1, 9, "nc2_means_of", 0.08), ("ce", "features", 1, 9, "nc2_means_of", 0.08)]
    tables = frames(*rows, ("ce", "features", 1, 9, "nc2_means_etf", 0.32))
    apart = np.linalg.norm(np.eye(10) / np.sqrt(10) - (np.eye(10) - 0.1) / 3)
    assert claim("5c").row(tables)["effect"] == pytest.approx(0.08 / apart)
    assert claim("5d").row(tables)["effect"] == pytest.approx(0.32 / apart)
    assert claim("5e").row(tables)["count"] == 0
    bare = json.dumps({"model": {"name": "mlp", "batch_norm": False}})
    without = tables | {"runs": tables["runs"].assign(settings=bare)}
    assert [claim(number).row(without)["count"] for number in ("5c", "5d", "5e")] == [0, 0, 2]


def test_where_some_networks_have_an_end_phase_claims_read_those():
    rows = [(run, "features", 1, 9, "nc2_means_of", 0.08) for run in ("mse0", "mse1")]
    tables = frames(*rows)
    assert claim("5c").row(tables)["count"] == 2
    ended = json.dumps({"model": MLP, "terminal": {"iterations": 5}})
    runs = tables["runs"]
    mixed = runs.assign(settings=runs["settings"].where(runs["run_id"] != "mse1", ended))
    assert claim("5c").row(tables | {"runs": mixed})["count"] == 1


def test_sizes_without_a_parameter_read_the_largest_error():
    fit = {"run_id": "m", "kind": "matched", "model": "predicted", "network_id": "mse0"}
    fit |= {f"predicted_{name}": 2.0 for name in ("weight_norm", "feature_norm", "objective")}
    fit |= {"measured_weight_norm": 2.02, "measured_feature_norm": 1.9, "measured_objective": 2.0}
    assert claim("7d").row(frames(ufm=[fit]))["effect"] == pytest.approx(0.05)
    assert claim("7e").row(frames(ufm=[fit]))["count"] == 0
    assert claim("7d").row(frames(ufm=[fit | {"measured_objective": None}]))["count"] == 0


def test_a_sweep_differs_in_weight_decay_only():
    apart = sweep_frames(sweep(DECAYS, 0, epochs=5), sweep((0.02,), 0, epochs=6), sweep((0.03,), 1, epochs=5))
    found = misfits(apart)
    assert sorted(len(one.model["means_gram"]) for one in found["misfit"]) == [1] * 6 + [2] * 3
    assert found["sweep"].nunique() == 2
    by_run = found[found["matched"] == "predicted"].set_index("run_id")["misfit"]
    assert "weight_norm" in by_run["0-no-0.01-5"].errors
    assert "weight_norm" not in by_run["0-no-0.02-6"].errors  # a constant fits the sizes of one network


def test_sizes_count_where_they_are_predicted():
    tables = sweep_frames(sweep(DECAYS, 0))
    double = tables["ufm"].assign(predicted_weight_norm=2 * tables["ufm"]["measured_weight_norm"])
    found = misfit_values(tables | {"ufm": double}).set_index("matched")["error"]
    assert found["extended"] == 0
    assert found["predicted"] == pytest.approx(math.sqrt((1 / 3) ** 2 / 4))


def test_misfit_of_nothing():
    assert claim("8c").row(frames())["count"] == 0


def penalised(bias: str | float, distance: float = 0.0, error: float = 0.0) -> tuple[dict, dict, list[tuple]]:
    """A declared UFM at a bias penalty: its frame moved from the closed form's, its objective by a relative error."""
    number = {} if isinstance(bias, str) else {"bias": bias}
    settings = {"classes": 4, "samples": 5, "dim": 6, "bias": bias, "solver": {"name": "lbfgs"}, "seed": 0}
    run = {"run_id": f"b{bias}", "kind": "declared", "status": "done", "optimizer": "lbfgs", "loss": "mse"}
    run |= {"model": "plain", "activation": "linear", "bias": str(bias), "settings": json.dumps(settings), "seed": 0}
    optimum = Problem(4, 5, 6, **(number or {"bias": bias})).optimum()
    fit = {"run_id": run["run_id"], "kind": "declared", "bias": str(bias), "optimum": optimum.value, "classes": 4}
    fit |= {"gap": error * optimum.value, "samples": 5, "weight_decay": [5e-3], "feature_decay": 1e-3}
    gram = optimum.weights_gram().numpy()
    of, etf = (np.linalg.norm(gram / np.linalg.norm(gram) - f / np.linalg.norm(f)) for f in (np.eye(4), ETF))
    values = {"nc2_weights_of": of, "nc2_weights_etf": etf, "nc2_means_of": of, "nc2_means_uncentred_etf": etf}
    return run, fit, [(run["run_id"], "features", 1, 9, name, value + distance) for name, value in values.items()]


def penalised_frames(*parts: tuple[dict, dict, list[tuple]]) -> dict[str, pd.DataFrame]:
    runs = pd.DataFrame([run for run, _, _ in parts]).assign(dataset=None, classes=4, train_samples=20)
    fits = pd.DataFrame([fit for _, fit, _ in parts])
    return {"runs": runs, "ufm": fits, "collapse": collapse(*(row for _, _, rows in parts for row in rows))}


def test_bias_penalty_is_told_by_its_regime():
    """c = 4 sqrt(5 * 5e-3 * 1e-3) = 0.02: the change is at c / (1 - c) = 0.0204."""
    tables = penalised_frames(*map(penalised, ("free", 0.02, 0.021, 1.0, "none")))
    rows = {number: claim(number).row(tables) for number in ("9a", "9b", "9c", "10a")}
    assert {number: row["count"] for number, row in rows.items()} == {"9a": 3, "9b": 1, "9c": 2, "10a": 2}
    assert {row["verdict"] for row in rows.values()} == {"supported"}
    moved = penalised_frames(penalised(0.01, distance=1e-5), penalised(1.0, distance=1e-5, error=-1e-7))
    assert [claim(number).row(moved)["verdict"] for number in ("9b", "9c")] == ["contradicted"] * 2
    assert claim("9a").row(moved)["high"] == pytest.approx(1e-7)  # below the closed form refutes it as well
    assert claim("9a").row(moved)["verdict"] == "undecided"


def test_ufm_claims_leave_out_runs_stopped_early_and_features_that_are_constrained():
    names = ("gd0", "gd1", "gd2")
    rows = [(name, "features", "nc2_means_of", value) for name, value in zip(names, (0.01, 0.4, 0.5))]
    runs = pd.DataFrame(
        [
            {"run_id": name, "kind": "declared", "optimizer": "gradient_descent", "loss": "mse", "status": "done",
             "model": "plain", "activation": "linear", "bias": "none", "seed": 0, "dataset": None, "classes": 4,
             "train_samples": 200}
            for name in names
        ]
    )  # fmt: skip
    fits = pd.DataFrame({"run_id": names, "kind": "declared", "gap": [1e-6, 2e-3, 0.0], "optimum": 0.02})
    fits["nonnegative"] = [None, False, True]
    table = pd.DataFrame(
        [
            {"run_id": r, "layer": layer, "metric": m, "value": v, "time": 1, "split": "train"}
            for r, layer, m, v in rows
        ]
    )
    row = claim("1").row({"runs": runs, "collapse": table, "ufm": fits})
    assert (row["count"], row["effect"]) == (1, 0.01)
