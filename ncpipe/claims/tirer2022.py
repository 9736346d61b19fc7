"""Claims of Tirer & Bruna 2022: the extended unconstrained-features model, and networks beside it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.bibliography import ICML, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.curves import likeness_difference
from ncpipe.claims.evidence.landscape import TRAPS, traps
from ncpipe.claims.evidence.misfits import misfit_values
from ncpipe.claims.evidence.selectors import (
    BARE,
    NETWORKS,
    NORMED,
    ONE_BELOW,
    Values,
    at_last_time,
    batch_norms,
    by_class_count,
    final,
    log10,
    measured,
    run_ids,
    setting,
    terminal_change,
)
from ncpipe.records.reading import fits_of, unconstrained
from ncpipe.ufm.settings import UfmSpec

REFERENCE = Reference(
    "Tirer & Bruna 2022",
    ("Tirer, Tom", "Bruna, Joan"),
    "Extended Unconstrained Features Model for Exploring Deep Neural Collapse",
    ICML,
    2022,
)

EARLY = 1e-3
"""UFM runs that end further above their optimum, relative, were stopped early."""
FRAME_ROUNDING = 1e-4
"""What a frame of a model without a closed form is known to."""


def _ufm(model: str, activation: str, bias: str) -> str:
    return (
        f"kind == 'declared' and optimizer == 'gradient_descent' and loss == 'mse' and status == 'done'"
        f" and model == '{model}' and activation == '{activation}' and bias == '{bias}'"
    )


def _ufm_runs(frames: Frames, model: str, activation: str, bias: str) -> pd.Index:
    """Runs of the model, without those stopped more than 0.1 % above their optimum: theorems speak of its end."""
    runs, fits = run_ids(frames, _ufm(model, activation, bias)), fits_of(frames, kind="declared")
    constrained = ~fits["run_id"].isin(unconstrained(fits)["run_id"])
    return runs[~runs.isin(fits.loc[constrained | (fits["gap"] > EARLY * fits["optimum"]), "run_id"])]


def _ufm_metric(model: str, activation: str, bias: str, metric: str, layer: str = "features") -> Values:
    return lambda frames: final(frames, _ufm_runs(frames, model, activation, bias), metric, layer)


def _free_bias_error(frames: Frames) -> pd.Series:
    # At the optimum mu_G = 0 and b = 1/K, so |W mu_G + b| = 1/sqrt(K).
    values = _ufm_metric("plain", "linear", "free", "nc4_bias")(frames)
    return (values * np.sqrt(by_class_count(frames, values)) - 1).abs()


def _both_levels(frames: Frames) -> pd.Series:
    levels = [
        _ufm_metric("extended", "linear", "none", "nc2_means_of", layer)(frames) for layer in ("H1", "features")
    ]
    return pd.concat(levels, axis=1).max(axis=1, skipna=False)


TRAINED_HEAD = f"{NETWORKS} and fixed_etf == False and head == 'linear'"
MSE_NO_BIAS = f"{TRAINED_HEAD} and loss == 'mse' and bias == 'no'"
CE_BIAS = f"{TRAINED_HEAD} and loss == 'ce' and bias == 'yes'"


WITH_NORM = (NORMED, ONE_BELOW)


def _networks(frames: Frames, query: str, *norms: str) -> pd.Index:
    """Networks that a query selects whose last BatchNorm stands in one of these places; where a study has such with
    an end phase, those: theory speaks of minima."""
    runs = run_ids(frames, query)
    runs = runs[batch_norms(frames).reindex(runs).isin(norms)]
    ended = runs[setting(frames, "terminal.iterations").reindex(runs).notna()]
    return ended if len(ended) else runs


def _frame_difference(query: str, of: str, etf: str) -> Values:
    """Distance to the OF minus distance to the ETF, with BatchNorm: negative where the frame is nearer an OF."""

    def values(frames: Frames) -> pd.Series:
        runs = _networks(frames, query, *WITH_NORM)
        return final(frames, runs, of) - final(frames, runs, etf)

    return values


def _frame_distance(query: str, *metrics: str, norms: tuple[str, ...] = WITH_NORM) -> Values:
    """The largest of the distances, over that of an OF from a simplex ETF."""

    def values(frames: Frames) -> pd.Series:
        from ncpipe.ufm.misfit import frames_apart  # with torch, which what reads tables does without

        runs = _networks(frames, query, *norms)
        largest = pd.concat([final(frames, runs, name) for name in metrics], axis=1).max(axis=1, skipna=False)
        return largest / [frames_apart(int(number)) for number in by_class_count(frames, largest)]

    return values


def _depth_ratio(frames: Frames) -> pd.Series:
    """log10 of NC1 at the last layer over NC1 at the first, at the last epoch."""
    rows = at_last_time(measured(frames, run_ids(frames, NETWORKS), "nc1_pinv", layer=None))
    by_run = rows.sort_values("depth").groupby("run_id")["value"]
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
    fits = fits_of(frames, kind="matched", model=model)
    return fits[fits["network_id"].isin(_networks(frames, NETWORKS, *WITH_NORM))]


def _matched(model: str, column: str) -> Values:
    """Distance between the unit-norm Grams, predicted and measured, by network."""

    def values(frames: Frames) -> pd.Series:
        return _matched_fits(frames, model).set_index("run_id")[f"{column}_error"].dropna().astype(float)

    return values


SIZES = ("weight_norm", "feature_norm", "objective")


def _size_error(model: str) -> Values:
    """The largest of | measured / predicted - 1 | over |W|, |H| and the objective, by network."""

    def values(frames: Frames) -> pd.Series:
        fits = _matched_fits(frames, model).set_index("run_id")
        ratios = [(fits[f"measured_{name}"] / fits[f"predicted_{name}"]).astype(float) for name in SIZES]
        errors = [(ratio - 1).abs() for ratio in ratios]
        return pd.concat(errors, axis=1).max(axis=1, skipna=False)

    return values


def _misfits(frames: Frames, model: str, *norms: str) -> pd.DataFrame:
    """Misfits of a model, by the first network of a sweep."""
    values = misfit_values(frames)
    values = values[values["matched"] == model].set_index("run_id")
    return values[values.index.isin(_networks(frames, NETWORKS, *norms))]


def _error(*norms: str) -> Values:
    return lambda frames: _misfits(frames, "extended", *norms)["relative"].astype(float)


def _error_beside_the_guess(frames: Frames) -> pd.Series:
    """Error of the UFM with no parameter minus that of the guess, over sweeps in which sizes tell the two apart."""
    rows = _misfits(frames, "predicted", NORMED)
    rows = rows[rows["sized"]]
    return (rows["error"] - rows["guess_error"]).astype(float)


def _error_difference(frames: Frames) -> pd.Series:
    extended, plain = (_misfits(frames, model, *WITH_NORM) for model in ("extended", "plain"))
    with_etf = extended[extended["classifier"] == "etf"]
    return (with_etf["frames"] - plain["frames"].reindex(with_etf.index)).astype(float)


def _frame_below(frames: Frames) -> pd.Series:
    return _misfits(frames, "predicted_extended", ONE_BELOW)["below"].dropna().astype(float)


def _scatter(frames: Frames) -> pd.Series:
    return final(frames, pd.Index(_matched_fits(frames, "extended")["network_id"]), "within_share")


def _solved(frames: Frames, query: str) -> pd.DataFrame:
    """Declared UFMs of the paper by L-BFGS that have a closed form, with their settings."""
    query = f"kind == 'declared' and optimizer == 'lbfgs' and loss == 'mse' and status == 'done' and {query}"
    runs = frames["runs"].query(query)[["run_id", "settings"]]
    fits = fits_of(frames, kind="declared").dropna(subset="optimum").merge(runs, on="run_id").set_index("run_id")
    chosen = [_of_the_paper(json.loads(text)) for text in fits["settings"]]
    return fits[np.array(chosen, dtype=bool)]


def _of_the_paper(settings: dict[str, Any]) -> bool:
    """Classes of one size, the plain squared loss, a trained classifier, features of any sign."""
    usual = tuple(settings.get("rescale", (1, 1))) == (1, 1) and settings.get("classifier", "free") == "free"
    usual = usual and not settings.get("nonnegative", False)
    return isinstance(settings["samples"], int) and usual


def _objective_error(query: str) -> Values:
    """| objective / closed form - 1 |, of both signs: a value below would refute the closed form."""

    def values(frames: Frames) -> pd.Series:
        fits = _solved(frames, query)
        return (fits["gap"] / fits["optimum"]).abs().astype(float)

    return values


PENALISED = "model == 'plain' and bias not in ('none', 'free')"


def _in_etf_regime(fits: pd.DataFrame) -> pd.Series:
    """Whether the bias takes the whole mean: c >= lb / (1 + lb), c = K sqrt(n lW lH)."""
    penalty = fits["bias"].astype(float)
    decay = fits["weight_decay"].str[0].astype(float)
    c = fits["classes"] * np.sqrt((fits["samples"] * decay * fits["feature_decay"]).astype(float))
    return c >= penalty / (1 + penalty)


def _etf_regime_distance(frames: Frames) -> pd.Series:
    """Distance of W W^T to the ETF of UFMs whose bias takes the mean."""
    fits = _solved(frames, PENALISED)
    return final(frames, fits.index[_in_etf_regime(fits)], "nc2_weights_etf")


FRAME_DISTANCES = ("nc2_means_of", "nc2_means_uncentred_etf", "nc2_weights_of", "nc2_weights_etf")


def _between_frames(frames: Frames) -> pd.Series:
    """Largest difference of the four distances from the closed form's, of UFMs whose bias takes part of the mean."""
    fits = _solved(frames, PENALISED)
    fits = fits[~_in_etf_regime(fits)]
    reached = pd.DataFrame({name: final(frames, fits.index, name) for name in FRAME_DISTANCES})
    predicted = pd.DataFrame({run: _closed_form_frames(text) for run, text in fits["settings"].items()}).T
    return (reached - predicted.reindex(reached.index)).abs().max(axis=1, skipna=False)


def _closed_form_frames(settings: str) -> dict[str, float]:
    """The four distances of the minimiser that the closed form gives."""
    from ncpipe.collapse import collapse_metrics  # with torch, which what reads tables does without
    from ncpipe.ufm import Problem

    point = Problem(**UfmSpec.model_validate_json(settings).declared()).construct()
    metrics = collapse_metrics(point.statistics()["features"], point.weights[-1], point.bias)
    return {name: metrics[name] for name in FRAME_DISTANCES}


ERROR_AT_BOTH = (
    "error of the extended UFM in the frames of both levels and the classifier, over the distance of an OF from an"
    " ETF, by sweep of weight decay"
)

_tirer = ClaimsOf("tirer2022", REFERENCE)


CLAIMS = (
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
    # 5c to 5e: half-way between the two frames a set of means is told from one of them.
    _tirer("5a", "With BatchNorm, networks with MSE and no bias end with the classifier nearer an OF than an ETF.",
           "nc2_weights_of - nc2_weights_etf at the end", 0.0,
           _frame_difference(MSE_NO_BIAS, "nc2_weights_of", "nc2_weights_etf")),
    _tirer("5b", "With BatchNorm, networks with CE and bias end with the classifier nearer an ETF than an OF.",
           "nc2_weights_of - nc2_weights_etf at the end", 0.0,
           _frame_difference(CE_BIAS, "nc2_weights_of", "nc2_weights_etf"), "above"),
    _tirer("5c", "With BatchNorm, networks with MSE and no bias end with uncentred class means at an OF.",
           "nc2_means_of at the end over the distance of an OF from an ETF", 0.5,
           _frame_distance(MSE_NO_BIAS, "nc2_means_of")),
    _tirer("5d", "With BatchNorm, networks with CE and bias end with uncentred class means at an OF, so that the"
           " centred ones are an ETF.",
           "larger of nc2_means_of and nc2_means_etf at the end over the distance of an OF from an ETF", 0.5,
           _frame_distance(CE_BIAS, "nc2_means_of", "nc2_means_etf")),
    _tirer("5e", "Without BatchNorm class means do not end at an OF.",
           "nc2_means_of at the end over the distance of an OF from an ETF", 0.5,
           _frame_distance(TRAINED_HEAD, "nc2_means_of", norms=(BARE,)), "above"),
    _tirer("6a", "NC1 falls with depth in trained networks.",
           "log10 of nc1_pinv, last layer over first, at the last epoch", 0.0, _depth_ratio),
    _tirer("6b", "NC1 falls after zero training error.",
           "log10 of nc1_pinv of the features, at the end over the first measured zero-error epoch", 0.0,
           terminal_change("nc1_pinv")),
    _tirer("6c", "The ReLU extended UFM has lower NC1 after its first layer than before.",
           "log10 of nc1_pinv, relu(W_1 H_1) over H_1, median over iterations", 0.0, _level_ratio),
    _tirer("6d", "The curves of the NC metrics of networks with MSE and no bias are nearer those of the ReLU extended"
           " UFM than those of the linear one.",
           "decades from the curves of the ReLU model minus decades from those of the linear one, time free", 0.0,
           likeness_difference),
    _tirer("7a", "With BatchNorm, the matched plain UFM predicts the Gram of the classifier weights.",
           "distance of the unit-norm Grams, predicted and measured", 0.2, _matched("plain", "weights_gram")),
    _tirer("7b", "With BatchNorm, the matched ReLU extended UFM predicts the Gram of the uncentred class means.",
           "distance of the unit-norm Grams, predicted and measured", 0.2, _matched("extended", "means_gram")),
    # 1 % of the variance moves a sample by a tenth of its distance from the mean of all.
    _tirer("7c", "With BatchNorm, networks have next to no scatter within classes, as the UFMs predict.",
           "within_share of the features at the end", 0.01, _scatter),
    _tirer("7d", "With BatchNorm below the head, the non-negative UFM predicts |W|, |H| and objective from the weight"
           " decay alone.",
           "largest of | measured / predicted - 1 | over |W|, |H| and objective", 0.05, _size_error("predicted")),
    _tirer("7e", "With BatchNorm one layer below, the non-negative extended UFM predicts them from the weight decay"
           " alone.",
           "largest of | measured / predicted - 1 | over |W|, |H| and objective", 0.05,
           _size_error("predicted_extended")),
    # Half-way between the two frames a prediction tells one of them from the other.
    _tirer("8a", "With BatchNorm one layer below, the matched ReLU extended UFM predicts frames at both its levels.",
           ERROR_AT_BOTH, 0.5, _error(ONE_BELOW)),
    _tirer("8b", "With BatchNorm below the head, the UFM without a parameter predicts frames and sizes better than"
           " the guess: known frames, and for sizes the best constant of the sweep.",
           "error of the UFM minus that of the guess, by sweep of weight decay", 0.0, _error_beside_the_guess),
    # Without a bias both say the same of the squared error. They are fitted to 1e-8 of the objective, so that their
    # frames are known to the root of it.
    _tirer("8c", "With BatchNorm and a bias, the matched ReLU extended UFM predicts the frames of last features and"
           " classifier better than the plain one.",
           "error of the extended minus that of the plain UFM, by sweep of weight decay", 0.0, _error_difference,
           rounding=FRAME_ROUNDING),
    _tirer("8d", "With BatchNorm below the head, the matched ReLU extended UFM does not predict both levels: nothing"
           " penalises the lower one.",
           ERROR_AT_BOTH, 0.5, _error(NORMED), "above"),
    _tirer("8e", "Without BatchNorm the matched ReLU extended UFM does not predict frames.",
           ERROR_AT_BOTH, 0.5, _error(BARE), "above"),
    _tirer("8f", "With BatchNorm one layer below, class means there are the OF that the non-negative extended UFM has"
           " with nothing matched.",
           "distance of the Gram one layer below over that of an OF from an ETF, by sweep of weight decay", 0.5,
           _frame_below),
    # Objectives: the precision asked of solvers. Distances grow with the gradient, not with its square as the
    # objective does, over the smallest curvature, a penalty of 1e-3 or more: 1e-6 is left of gradients of 1e-9.
    _tirer("9a", "Over the penalty of its bias the MSE UFM reaches the objective of the closed form.",
           "| objective / closed form - 1 | of UFMs with a penalised bias", 1e-8, _objective_error(PENALISED)),
    _tirer("9b", "Under a small bias penalty, lb / (1 + lb) <= K sqrt(n lW lH), the MSE UFM ends at an exact ETF.",
           "nc2_weights_etf at the end", 1e-6, _etf_regime_distance),
    _tirer("9c", "Under a larger one its frame lies between ETF and OF, where the closed form has it.",
           "largest difference of the distances to both frames, of means and weights, from the closed form's",
           1e-6, _between_frames),
    _tirer("10a", "Without and with a free bias the MSE UFM reaches the objective of the closed form.",
           "| objective / closed form - 1 | by L-BFGS", 1e-8,
           _objective_error("model == 'plain' and bias in ('none', 'free')")),
    _tirer("10b", "The linear extended UFM reaches the objective of the closed form.",
           "| objective / closed form - 1 | by L-BFGS", 1e-8,
           _objective_error("model == 'extended' and activation == 'linear' and bias in ('none', 'free')")),
    _tirer("10c", "The ReLU extended UFM reaches the objective of the non-negative OF, and nothing lower is found.",
           "| objective / closed form - 1 | by L-BFGS", 1e-8,
           _objective_error("model == 'extended' and activation == 'relu' and bias == 'none'")),
    # The zero point of two weight layers has the penalties for curvatures, and so are dead directions of every point.
    _tirer("11a", "Every critical point of the plain MSE UFM above the optimum is a strict saddle.",
           TRAPS, 0.5,
           traps("model == 'plain'")),
    _tirer("11b", "The extended UFMs have minima above the optimum: zero is one.",
           TRAPS, 0.5,
           traps("model == 'extended'"), "above"),
)  # fmt: skip
