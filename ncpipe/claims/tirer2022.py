"""Claims of Tirer & Bruna 2022: the extended unconstrained-features model, and networks beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pandas as pd

from ncpipe.claims.claim import Claim, Frames
from ncpipe.claims.selectors import NETWORKS, final, log10, measured, run_ids, since_zero_error

EARLY = 1e-3
"""UFM runs that end further above their optimum, relative, were stopped early."""


def _ufm(model: str, activation: str, bias: str) -> str:
    return (
        f"kind == 'declared' and optimizer == 'gradient_descent' and loss == 'mse' and status == 'done'"
        f" and model == '{model}' and activation == '{activation}' and bias == '{bias}'"
    )


def _ufm_runs(frames: Frames, model: str, activation: str, bias: str) -> pd.Index:
    """Runs of the model, without those stopped more than 0.1 % above their optimum: theorems speak of its end."""
    runs, fits = run_ids(frames, _ufm(model, activation, bias)), frames["ufm"]
    return runs[~runs.isin(fits.loc[fits["gap"] > EARLY * fits["optimum"], "run_id"])]


def _ufm_metric(
    model: str, activation: str, bias: str, metric: str, layer: str = "features"
) -> Callable[[Frames], pd.Series]:
    return lambda frames: final(frames, _ufm_runs(frames, model, activation, bias), metric, layer)


def _free_bias_error(frames: Frames) -> pd.Series:
    # At the optimum mu_G = 0 and b = 1/K, so |W mu_G + b| = 1/sqrt(K).
    values = _ufm_metric("plain", "linear", "free", "nc4_bias")(frames)
    classes = frames["runs"].set_index("run_id")["classes"].reindex(values.index)
    return (values * np.sqrt(classes) - 1).abs()


def _both_levels(frames: Frames) -> pd.Series:
    levels = [
        _ufm_metric("extended", "linear", "none", "nc2_means_of", layer)(frames) for layer in ("H1", "features")
    ]
    return pd.concat(levels, axis=1).max(axis=1, skipna=False)


TRAINED_HEAD = f"{NETWORKS} and fixed_etf == False and head == 'linear'"
MSE_NO_BIAS = f"{TRAINED_HEAD} and loss == 'mse' and bias == 'no'"
CE_BIAS = f"{TRAINED_HEAD} and loss == 'ce' and bias == 'yes'"


def _frame_difference(query: str, of: str, etf: str) -> Callable[[Frames], pd.Series]:
    """Distance to the OF minus distance to the ETF: negative where the frame is nearer an OF."""

    def values(frames: Frames) -> pd.Series:
        runs = run_ids(frames, query)
        return final(frames, runs, of) - final(frames, runs, etf)

    return values


def _depth_ratio(frames: Frames) -> pd.Series:
    """log10 of NC1 at the last layer over NC1 at the first, at the last epoch."""
    rows = measured(frames, run_ids(frames, NETWORKS), "nc1_pinv", layer=None)
    rows = rows[rows["time"] == rows.groupby("run_id")["time"].transform("max")].sort_values("depth")
    by_run = rows.groupby("run_id")["value"]
    return log10(by_run.last() / by_run.first())


def _training_ratio(frames: Frames) -> pd.Series:
    """log10 of NC1 of the last features at the last epoch over that at the first measured zero-error epoch."""
    since = since_zero_error(frames, measured(frames, run_ids(frames, NETWORKS), "nc1_pinv"))
    by_run = since.groupby("run_id")["value"]
    return log10(by_run.last() / by_run.first())


def _level_ratio(frames: Frames) -> pd.Series:
    """log10 of NC1 at relu(W1 H1) over NC1 at H1 of the ReLU extended UFM, median over the iterations."""
    runs = _ufm_runs(frames, "extended", "relu", "none")
    rows = measured(frames, runs, "nc1_pinv", layer=None).query("time > 0")
    levels = rows.pivot_table(index=["run_id", "time"], columns="layer", values="value")
    if not {"H1", "features"} <= set(levels.columns):
        return pd.Series(dtype=float)
    return log10(levels["features"] / levels["H1"]).groupby("run_id").median()


def _matched_fits(frames: Frames, model: str) -> pd.DataFrame:
    fits = frames["ufm"].query(f"kind == 'matched' and model == '{model}'")
    return fits[fits["network_id"].isin(run_ids(frames, NETWORKS))]


def _matched(model: str, column: str) -> Callable[[Frames], pd.Series]:
    """Distance between the unit-norm Grams, predicted and measured, by network."""

    def values(frames: Frames) -> pd.Series:
        return _matched_fits(frames, model).set_index("run_id")[f"{column}_error"].dropna().astype(float)

    return values


def _norm_error(model: str) -> Callable[[Frames], pd.Series]:
    """|log10| of predicted over measured |W|_F |H|_F; the ratio of the two norms is matched, not predicted."""

    def values(frames: Frames) -> pd.Series:
        fits = _matched_fits(frames, model).set_index("run_id")
        predicted = fits["predicted_weight_norm"] * fits["predicted_feature_norm"]
        found = fits["measured_weight_norm"] * fits["measured_feature_norm"]
        return log10(predicted.where(predicted > 0) / found).abs()

    return values


def _tirer(
    number: str,
    statement: str,
    statistic: str,
    threshold: float,
    values: Callable[[Frames], pd.Series],
    direction: Literal["below", "above"] = "below",
) -> Claim:
    return Claim(f"tirer2022-{number}", "Tirer & Bruna 2022", statement, statistic, direction, threshold, values)


TIRER2022 = (
    _tirer("1", "The bias-free MSE UFM ends at an orthogonal frame.", "nc2_means_of at the last iteration",
           1e-2, _ufm_metric("plain", "linear", "none", "nc2_means_of")),
    _tirer("2a", "The MSE UFM with a free bias ends at a simplex ETF.", "nc2_weights_etf at the last iteration",
           1e-2, _ufm_metric("plain", "linear", "free", "nc2_weights_etf")),
    _tirer("2b", "The free bias of the MSE UFM ends at 1/K.", "| sqrt(K) nc4_bias - 1 | at the last iteration",
           1e-2, _free_bias_error),
    _tirer("3", "In the linear extended UFM both H_1 and W_1 H_1 end at an orthogonal frame.",
           "larger nc2_means_of of the two levels at the last iteration", 1e-2, _both_levels),
    _tirer("4", "In the ReLU extended UFM relu(W_1 H_1) ends at a non-negative orthogonal frame.",
           "nc2_means_of of the features at the last iteration", 1e-2,
           _ufm_metric("extended", "relu", "none", "nc2_means_of")),
    _tirer("5a", "Networks with MSE and no bias end with classifier weights nearer an OF than an ETF.",
           "nc2_weights_of - nc2_weights_etf at the last epoch", 0.0,
           _frame_difference(MSE_NO_BIAS, "nc2_weights_of", "nc2_weights_etf")),
    _tirer("5b", "Networks with CE and bias end with classifier weights nearer an ETF than an OF.",
           "nc2_weights_of - nc2_weights_etf at the last epoch", 0.0,
           _frame_difference(CE_BIAS, "nc2_weights_of", "nc2_weights_etf"), "above"),
    _tirer("5c", "Networks with MSE and no bias end with uncentred class means nearer an OF than an ETF.",
           "nc2_means_of - nc2_means_uncentred_etf at the last epoch", 0.0,
           _frame_difference(MSE_NO_BIAS, "nc2_means_of", "nc2_means_uncentred_etf")),
    _tirer("5d", "Networks with CE and bias end with uncentred class means nearer an ETF than an OF.",
           "nc2_means_of - nc2_means_uncentred_etf at the last epoch", 0.0,
           _frame_difference(CE_BIAS, "nc2_means_of", "nc2_means_uncentred_etf"), "above"),
    _tirer("6a", "NC1 falls with depth in trained networks.",
           "log10 of nc1_pinv, last layer over first, at the last epoch", 0.0, _depth_ratio),
    _tirer("6b", "NC1 falls by more than a factor 10 after zero training error.",
           "log10 of nc1_pinv of the features, last epoch over first measured zero-error epoch", -1.0,
           _training_ratio),
    _tirer("6c", "The ReLU extended UFM has lower NC1 after its first layer than before.",
           "log10 of nc1_pinv, relu(W_1 H_1) over H_1, median over iterations", 0.0, _level_ratio),
    _tirer("7a", "The matched plain UFM predicts the Gram of the classifier weights.",
           "distance of the unit-norm Grams, predicted and measured", 0.2, _matched("plain", "weights_gram")),
    _tirer("7b", "The matched ReLU extended UFM predicts the Gram of the uncentred class means.",
           "distance of the unit-norm Grams, predicted and measured", 0.2, _matched("extended", "means_gram")),
    _tirer("7c", "The matched plain UFM predicts the norms within 10 %.",
           "| log10 of predicted over measured |W| |H| |", 0.0414, _norm_error("plain")),
)  # fmt: skip
"""Claims of Tirer & Bruna, *Extended Unconstrained Features Model for Exploring Deep Neural Collapse*, ICML 2022."""
