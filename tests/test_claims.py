"""Claims: verdicts from statistics, and the statistics from tables in which the answer is known."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from ncpipe.claims import TIRER2022, Claim, claim_rows

NET = {"kind": "network", "status": "done", "fixed_etf": False, "head": "linear"}
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


def frames(*rows: tuple, ufm: list | None = None) -> dict[str, pd.DataFrame]:
    columns = [
        "run_id",
        "kind",
        "network_id",
        "model",
        "weights_gram_error",
        "means_gram_error",
    ]
    columns += ["gap", "optimum", "predicted_weight_norm", "measured_weight_norm"]
    columns += ["predicted_feature_norm", "measured_feature_norm"]
    runs = pd.DataFrame(RUNS).astype({"zero_error_epoch": float})
    fits = pd.DataFrame(ufm or [], columns=columns)
    return {
        "runs": runs,
        "collapse": collapse(*rows),
        "ufm": fits,
    }


def claim(number: str) -> Claim:
    return next(claim for claim in TIRER2022 if claim.id == f"tirer2022-{number}")


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
    row = made.row({})
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


def test_claims_without_runs_are_left_out():
    assert claim_rows(frames()) == []
    assert [row["claim_id"] for row in claim_rows(frames(("plain", "features", 1, 9, "nc2_means_of", 0.1)))] == [
        "tirer2022-1"
    ]


def test_ufm_claims_leave_out_runs_stopped_early():
    rows = [("gd0", "features", "nc2_means_of", 0.01), ("gd1", "features", "nc2_means_of", 0.4)]
    runs = pd.DataFrame(
        [
            {"run_id": name, "kind": "declared", "optimizer": "gradient_descent", "loss": "mse", "status": "done",
             "model": "plain", "activation": "linear", "bias": "none"}
            for name in ("gd0", "gd1")
        ]
    )  # fmt: skip
    fits = pd.DataFrame({"run_id": ["gd0", "gd1"], "gap": [1e-6, 2e-3], "optimum": [0.02, 0.02]})
    table = pd.DataFrame(
        [
            {"run_id": r, "layer": layer, "metric": m, "value": v, "time": 1, "split": "train"}
            for r, layer, m, v in rows
        ]
    )
    row = claim("1").row({"runs": runs, "collapse": table, "ufm": fits})
    assert (row["count"], row["effect"]) == (1, 0.01)
