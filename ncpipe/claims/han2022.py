"""Claims of Han, Papyan & Donoho 2022: the split of the squared error, and the central path."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.bibliography import ICLR, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import (
    NETWORKS,
    TRAINED,
    class_counts,
    log_change,
    measured,
    past_zero_error,
    recorded,
    run_ids,
    since_zero_error,
    statistic,
    terminal_change,
)

REFERENCE = Reference(
    "Han, Papyan & Donoho 2022",
    ("Han, X. Y.", "Papyan, Vardan", "Donoho, David L."),
    "Neural Collapse Under MSE Loss: Proximity to and Dynamics on the Central Path",
    ICLR,
    2022,
)

MSE, MSE_AT_ZERO_ERROR = f"{TRAINED} and loss == 'mse'", f"{NETWORKS} and loss == 'mse'"
PATHS = "kind == 'declared' and status == 'done' and optimizer == 'central_path'"
LATE = 50.0
"""w^2/K from which growth is late: there the slope d log w / d log t differs from 1/4 by about K/(2 w^2) = 0.01."""


NEAR = 0.1
"""L_perp / L_LS below which it is far below: a tenth."""


def _parts(frames: Frames, query: str, split: str = "train") -> pd.DataFrame:
    """The split of the squared error of these networks, and the penalised loss, by run and epoch."""
    runs = run_ids(frames, query)
    names = ("loss_nc1", "loss_nc23", "loss_perp", "loss_penalised")
    rows = pd.concat([measured(frames, runs, name, split=split) for name in names])
    return rows.pivot(index=["run_id", "time"], columns="metric", values="value").reindex(columns=names).astype(float)


def _decomposition_error(frames: Frames) -> pd.Series:
    """Largest relative difference, over the epochs, of the sum of the parts from the penalised loss."""
    parts = _parts(frames, MSE)
    total = parts[["loss_nc1", "loss_nc23", "loss_perp"]].sum(axis=1, skipna=False)
    return ((total - parts["loss_penalised"]).abs() / parts["loss_penalised"]).groupby("run_id").max()


@statistic
def _near_steps(frames: Frames, split: str, query: str) -> pd.Series:
    """Share of the steps with L_perp below a tenth of L_LS, by run: from zero error on where the query asks for it,
    else from the first epoch on. Half of the steps between two measured times are as at either."""
    parts = _parts(frames, query, split)
    share = parts["loss_perp"] / (parts["loss_nc1"] + parts["loss_nc23"])
    rows = share.dropna().lt(NEAR).astype(float).rename("value").reset_index().query("time >= 1")
    rows = since_zero_error(frames, rows) if query == MSE_AT_ZERO_ERROR else rows
    several = {run: own for run, own in rows.groupby("run_id") if len(own) > 1}
    shares = {run: np.trapezoid(own["value"], own["time"]) / np.ptp(own["time"]) for run, own in several.items()}
    return pd.Series(shares, dtype=float)


def _snr(frames: Frames, name: str) -> pd.DataFrame:
    """Singular values over time: a row per run, time and direction i, from the quantities ``name``_i."""
    rows = recorded(frames, run_ids(frames, PATHS))
    direction = rows["quantity"].astype(str).str.extract(rf"^{name}_(\d+)$")[0]
    rows = rows.assign(direction=direction.astype(float)).dropna(subset="direction")
    return rows[["run_id", "time", "direction", "value"]]


def _law_error(frames: Frames) -> pd.Series:
    both = _snr(frames, "snr").merge(_snr(frames, "snr_law"), on=["run_id", "time", "direction"])
    return (both["value_x"] / both["value_y"] - 1).abs().groupby(both["run_id"]).max()


def _exponent_error(frames: Frames) -> pd.Series:
    """Largest |d log w / d log t - 1/4| between recorded times, where the growth is late in all directions."""
    rows = _snr(frames, "snr").sort_values("time")
    smallest = rows.groupby(["run_id", "time"])["value"].transform("min")
    late = smallest**2 >= LATE * class_counts(frames, rows["run_id"]).set_axis(rows.index)
    rows = rows[late & (rows["time"] > 0)]
    logs = rows.assign(time=np.log(rows["time"].astype(float)), value=np.log(rows["value"]))[["time", "value"]]
    steps = logs.groupby([rows["run_id"], rows["direction"]]).diff().dropna()
    return (steps["value"] / steps["time"] - 0.25).abs().groupby(rows["run_id"]).max()


def _equalisation(frames: Frames) -> pd.Series:
    """log10 of snr_max/snr_min at the last epoch over that at the first measured zero-error epoch."""
    largest, smallest = (past_zero_error(frames, name, MSE_AT_ZERO_ERROR) for name in ("snr_max", "snr_min"))
    return log_change(largest / smallest)


_han = ClaimsOf("han2022", REFERENCE)


_SHARE = "share of the steps {} with loss_perp / (loss_nc1 + loss_nc23) below 0.1"
_AFTER = "After zero training error L_perp is far below L_LS: networks are near the central path"
_THROUGH = "Through training L_perp is far below L_LS"

# 1: an identity, up to the rounding of float32, 6e-8, in what the parts are measured on. 2: "far below" is read as a
# tenth, and "through" as most of the steps: of measured epochs, which are log-spaced, half lie in the first few.
# SGD moves the network of batch mode; the one in evaluation mode is what is used. 3: the flow is integrated to 1e-12,
# relative, in a step; 1e-6 leaves room for a million steps of it. 5: twice what theory gives for the times
# that enter.
CLAIMS = (
    _han("1", "The penalised squared error is exactly L_NC1 + L_NC2/3 + L_perp.",
         "largest relative difference over the epochs", 1e-6, _decomposition_error),
    _han("2a", f"{_AFTER}.", _SHARE.format("from zero error on"), 0.5,
         _near_steps("train", MSE_AT_ZERO_ERROR), "above"),
    _han("2b", f"{_THROUGH}.", _SHARE.format("from epoch 1 on"), 0.5, _near_steps("train", MSE), "above"),
    _han("2c", f"{_AFTER}, in batch mode.", f"{_SHARE.format('from zero error on')}, in batch mode", 0.5,
         _near_steps("train_mode", MSE_AT_ZERO_ERROR), "above"),
    _han("2d", f"{_THROUGH}, in batch mode.", f"{_SHARE.format('from epoch 1 on')}, in batch mode", 0.5,
         _near_steps("train_mode", MSE), "above"),
    _han("3", "On the central path every singular value of the SNR matrix follows its law.",
         "largest | measured over law - 1 | over times and directions", 1e-6, _law_error),
    _han("4", "Past zero error the singular values of the SNR matrix of networks become more alike.",
         "log10 of snr_max / snr_min, last epoch over first measured zero-error epoch", 0.0, _equalisation),
    _han("5", "On the central path singular values grow as t^(1/4) at last.",
         "largest | d log w / d log t - 1/4 | where w^2 > 50 K", 0.02, _exponent_error),
    _han("6", "NC1 falls past zero error in networks with squared error.",
         "log10 of nc1_pinv of the features, last epoch over first measured zero-error epoch", 0.0,
         terminal_change("nc1_pinv", MSE_AT_ZERO_ERROR)),
)  # fmt: skip
