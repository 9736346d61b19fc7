"""How alike the curves of collapse of networks and models are: the comparison of Tirer & Bruna 2022, as a number."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ncpipe.claims.evidence.claim import Frames
from ncpipe.claims.evidence.selectors import TRAINED
from ncpipe.records.reading import fits_of, rows_of, unconstrained

METRICS = ("nc1_pinv", "nc2_means_of", "nc2_weights_of", "nc3_of")
"""Metrics of the last features; all are 0 at what the theorems of squared error without a bias predict."""
FLOOR = 1e-12
"""Smaller values count as this: rounding is no part of a curve."""
BETWEEN = 8
"""Points of the model's curve that are tried between two measured times."""

# A frozen or a normalised classifier is not that of the models.
NETWORKS = f"{TRAINED} and loss == 'mse' and bias == 'no' and head == 'linear' and fixed_etf != True"
UFMS = (
    "kind == 'declared' and status == 'done' and optimizer == 'gradient_descent' and model == 'extended'"
    " and loss == 'mse' and bias == 'none'"
)


def curve_distance(network: ArrayLike, model: ArrayLike) -> float:
    r"""Distance of two curves in decades, whatever the unit in which each measures time.

    .. math:: \min_{s(1) \le \dots \le s(T)} \frac1T \sum_{t=1}^T \frac{1}{|M_t|} \sum_{m \in M_t}
              \big| \log_{10} a_{tm} - \log_{10} b_{s(t)m} \big|

    Every time t of the network is assigned to a point s(t) of the model's curve, never back, one for all metrics;
    the model may begin before and end after what is assigned. Its curve is linear in the logarithms between its
    times, so that these do not decide: 8 points are tried between each two. The least assignment is found by
    dynamic programming, D[t, s] = c[t, s] + min over s' <= s of D[t - 1, s'].

    Values below 1e-12 count as 1e-12. M_t are the metrics that are finite in the network at t, of those that the
    model has at all; times of the model at which one of them is not finite are left out.

    Args:
        network: metrics at its times, in their order, (T, M).
        model: the same metrics at its own times, (S, M).

    Returns:
        The distance; NaN where there is nothing to compare.

    Raises:
        ValueError: an argument is no matrix, or they differ in the number of metrics.
    """
    a, b = _logarithms("network", network), _logarithms("model", model)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"model has {b.shape[1]} metrics and network {a.shape[1]}; both need the same")
    known = np.isfinite(b).any(axis=0)
    a, b = a[:, known], b[:, known]
    a, b = a[np.isfinite(a).any(axis=1)], b[np.isfinite(b).all(axis=1)]
    if not len(a) or not len(b):
        return math.nan
    points, total = _with_points_between(b), np.zeros(1)
    for now in a:
        total = np.nanmean(np.abs(now - points), axis=1) + np.minimum.accumulate(total)
    return float(total.min() / len(a))


def _logarithms(name: str, values: ArrayLike) -> NDArray[np.float64]:
    curve = np.asarray(values, dtype=float)
    if curve.ndim != 2:
        raise ValueError(f"{name} has shape {curve.shape}; it needs two dimensions, times and metrics")
    return np.log10(np.where(np.isfinite(curve), np.maximum(curve, FLOOR), np.nan))


def _with_points_between(curve: NDArray[np.float64]) -> NDArray[np.float64]:
    places = np.arange((len(curve) - 1) * (BETWEEN + 1) + 1) / (BETWEEN + 1)
    return np.stack([np.interp(places, np.arange(len(curve)), column) for column in curve.T], axis=1)


def curve_distances(frames: Frames) -> pd.DataFrame:
    """Distances in decades of networks with squared error and no bias from the linear and the ReLU extended UFM.

    Columns: ``run_id``, the network; ``model``, 'linear' or 'relu'; ``distance``, the median over the seeds of the
    model's UFMs by gradient descent, of several labels the least. A network is compared with UFMs of as many classes
    as it has, on which the metrics depend; where there is none it has no row.
    """
    nets, ufms = frames["runs"].query(NETWORKS), extended_ufms(frames)
    ufms = ufms[ufms["classes"].isin(nets["classes"])]
    of_nets, of_ufms = _curves(frames, nets), _curves(frames, ufms)
    nets, ufms = nets[nets["run_id"].isin(of_nets.keys())], ufms[ufms["run_id"].isin(of_ufms.keys())]
    rows = []
    for run_id, classes in zip(nets["run_id"], nets["classes"]):
        for model, own in ufms[ufms["classes"] == classes].groupby("activation"):
            distances = [curve_distance(of_nets[run_id], of_ufms[ufm]) for ufm in own["run_id"]]
            rows.append((run_id, model, own.assign(distance=distances).groupby("label")["distance"].median().min()))
    return pd.DataFrame(rows, columns=["run_id", "model", "distance"]).astype({"distance": float}).dropna()


def likeness_difference(frames: Frames) -> pd.Series:
    """Distance from the ReLU extended UFM minus that from the linear one, by network; negative: ReLU is likelier."""
    by_model = curve_distances(frames).pivot(index="run_id", columns="model", values="distance")
    by_model = by_model.reindex(columns=["relu", "linear"])
    return (by_model["relu"] - by_model["linear"]).dropna()


def extended_ufms(frames: Frames) -> pd.DataFrame:
    """Rows of ``runs``: declared UFMs of the paper by gradient descent, with two weight matrices and no bias."""
    fits = unconstrained(fits_of(frames, kind="declared"))
    usual = fits.loc[fits["classifier"].ne("etf") & fits["rescale"].isna(), "run_id"]
    found = frames["runs"].query(UFMS)
    return found[found["run_id"].isin(usual)]


def _curves(frames: Frames, runs: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """``METRICS`` of the last features at the measured times, (times, metrics), by run."""
    wanted = {"split": "train", "layer": "features", "metric": METRICS, "run_id": set(runs["run_id"])}
    rows = rows_of(frames, "collapse", ["run_id", "time", "metric", "value"], **wanted)
    rows = rows.astype({"run_id": str, "metric": str})  # categories have values that no row has
    wide = rows.pivot(index=["run_id", "time"], columns="metric", values="value")  # by time
    wide = wide.reindex(columns=list(METRICS)).astype(float)
    return {str(run): own.to_numpy() for run, own in wide.groupby(level="run_id")}
