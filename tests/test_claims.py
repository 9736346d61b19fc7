"""Claims: verdicts from statistics, and the statistics from tables in which the answer is known."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest

from ncpipe.claims import CLAIMS, Claim, claim_rows
from ncpipe.claims.claim import interval
from ncpipe.claims.misfits import SWEEP, misfit_values
from ncpipe.ufm import Problem

NET = {"kind": "network", "status": "done", "fixed_etf": False, "head": "linear", "weight_decay": [1e-3]}
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


RUN_COLUMNS = ["settings", "seed", "train_samples", "weight_decay", *SWEEP]


def frames(*rows: tuple, ufm: list | None = None) -> dict[str, pd.DataFrame]:
    columns = ["run_id", "kind", "network_id", "model", "weights_gram_error", "means_gram_error", "gap", "optimum"]
    columns += ["bias", "classes", "samples", "weight_decay", "feature_decay"]
    sides = ("predicted", "measured")
    columns += [f"{side}_{name}" for side in sides for name in ("weight_norm", "feature_norm", "loss")]
    columns += [f"{side}_{name}" for side in sides for name in ("means_gram", "weights_gram")]
    runs = pd.DataFrame(RUNS).astype({"zero_error_epoch": float})
    runs = runs.assign(**{name: None for name in RUN_COLUMNS if name not in runs})
    fits = pd.DataFrame(ufm or [], columns=columns)
    return {
        "runs": runs,
        "collapse": collapse(*rows),
        "ufm": fits,
    }


def claim(number: str) -> Claim:
    return next(claim for claim in CLAIMS["tirer2022"] if claim.id == f"tirer2022-{number}")


@pytest.mark.parametrize(
    ("values", "direction", "verdict"),
    [
        ([1, 2], "below", "supported"),
        ([1, 4], "below", "undecided"),
        ([4, 5], "below", "contradicted"),
        ([4, 5], "above", "supported"),
        ([3], "below", "contradicted"),
        ([], "below", "undecided"),
        ([math.nan, 1], "below", "supported"),
    ],
)
def test_verdicts(values, direction, verdict):
    made = Claim("x", "paper", "s", "t", direction, 3.0, lambda _: pd.Series(values, dtype=float))
    row = made.row(frames())
    assert row["verdict"] == verdict
    assert row["count"] == sum(not math.isnan(v) for v in values)


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
    assert claim("7c").row(frames(ufm=[fit]))["effect"] == pytest.approx(1)
    assert claim("7a").row(frames(ufm=[fit | {"network_id": "early"}]))["count"] == 0
    extended = claim("7b").row(frames(ufm=[fit | {"model": "extended"}]))
    assert extended["effect"] == pytest.approx(0.7)
    assert claim("7b").row(frames(ufm=[fit | {"model": "extended", "means_gram_error": None}]))["count"] == 0


def test_every_claim_of_a_paper_has_a_row_whatever_the_study_holds():
    rows = claim_rows(frames(("plain", "features", 1, 9, "nc2_means_of", 0.001)), ["tirer2022"], scale="small")
    assert [row["claim_id"] for row in rows] == [claim.id for claim in CLAIMS["tirer2022"]]
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


def sweep(decays: tuple[float, ...], seed: int, etf_is_measured: bool = False) -> tuple[list[dict], list[dict]]:
    """Networks over weight decays with measured orthogonal frames, and two matched models: the extended one is right,
    the plain one predicts zero."""
    runs, fits = [], []
    for decay in decays:
        name = f"{seed}-{decay}"
        runs.append({"run_id": name, **NET, "loss": "mse", "bias": "no", "zero_error_epoch": 1, "seed": seed})
        runs[-1] |= {"weight_decay": [9.0, decay], "dataset": "digits", "model": "mlp"}
        gram = (ETF if etf_is_measured else np.eye(4)).ravel()
        measured = {
            "weight_norm": 1 - decay,
            "feature_norm": 2.0,
            "loss": decay,
            "means_gram": gram,
            "weights_gram": gram,
        }
        for model, factor in (("plain", 0), ("extended", 1)):
            fit = {"run_id": f"{model}-{name}", "kind": "matched", "network_id": name, "model": model}
            fit |= {f"measured_{key}": value for key, value in measured.items()}
            fits.append(fit | {f"predicted_{key}": factor * value for key, value in measured.items()})
    return runs, fits


def sweep_frames(*sweeps: tuple[list[dict], list[dict]]) -> dict[str, pd.DataFrame]:
    runs = pd.DataFrame([run for own, _ in sweeps for run in own])
    runs = runs.assign(**{name: None for name in [*RUN_COLUMNS, "classes"] if name not in runs})
    return {"runs": runs, "ufm": pd.DataFrame([fit for _, own in sweeps for fit in own]), "collapse": collapse()}


def test_misfit_is_one_number_for_every_sweep_and_seed():
    decays = (0.01, 0.1)
    tables = sweep_frames(sweep(decays, 0), sweep(decays, 1))
    found = misfit_values(tables)
    assert sorted(found.index) == ["0-0.01", "1-0.01"]
    assert found["extended"].tolist() == [0, 0]
    # The guess: frames 0.518 apart, and geometric means of two sizes; zero is 1 off in each of 2 x 4 comparisons.
    off = [abs(a - b) / (a + b) for a, b in ((0.99, (0.99 * 0.9) ** 0.5), (0.1, 0.001**0.5))]
    guess = 4 * 0.51763809**2 + 2 * sum(np.square(off))
    assert found["plain"].tolist() == pytest.approx([math.sqrt(8 / guess)] * 2)
    assert claim("8a").row(tables)["verdict"] == "supported"
    assert claim("8b").row(tables)["verdict"] == "contradicted"
    better = claim("8c").row(tables)
    assert (better["verdict"], better["count"], better["seeds"]) == ("supported", 2, 2)
    assert better["effect"] == pytest.approx(-found["plain"].iloc[0])


def test_misfit_of_one_network_and_of_none():
    alone = misfit_values(sweep_frames(sweep((0.01,), 0)))
    assert alone["plain"].iloc[0] == pytest.approx(1 / 0.51763809)  # two Grams, no sizes
    assert claim("8a").row(sweep_frames(sweep((0.01,), 0, etf_is_measured=True)))["count"] == 0  # the guess is right
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
