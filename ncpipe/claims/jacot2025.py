"""Claims of Jacot, Sukenik, Wang & Mondelli 2025: networks that end in linear layers, trained with weight decay."""

from __future__ import annotations

import pandas as pd

from ncpipe.claims.evidence.bibliography import ICLR, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import NETWORKS, at_last_time, final, measured, run_ids, setting, statistic

REFERENCE = Reference(
    "Jacot, Súkeník, Wang & Mondelli 2025",
    ("Jacot, Arthur", "Súkeník, Peter", "Wang, Zihan", "Mondelli, Marco"),
    "Wide Neural Networks Trained with Weight Decay Provably Exhibit Neural Collapse",
    ICLR,
    2025,
)

SQUARED = f"{NETWORKS} and loss == 'mse' and bias == 'no' and fixed_etf == False"


def _linear_layers(frames: Frames) -> pd.Series:
    """Number of linear layers at the end, the classifier included, of networks without others in the head, by run."""
    runs = run_ids(frames, SQUARED)
    hidden = setting(frames, "head.hidden").reindex(runs).fillna(0).astype(int)
    linear = setting(frames, "head.linear").reindex(runs) == True  # noqa: E712 - None where it was not a setting
    return hidden[(hidden == 0) | linear] + 1


def _imbalance(frames: Frames) -> pd.Series:
    """Largest imbalance of two consecutive linear layers at the end, by run."""
    rows = at_last_time(measured(frames, _linear_layers(frames).index, "balancedness", layer=None))
    return rows.groupby("run_id")["value"].max()


@statistic
def _with_several(frames: Frames, metric: str) -> pd.Series:
    layers = _linear_layers(frames)
    return final(frames, layers.index[layers >= SEVERAL], metric)


@statistic
def _gain(frames: Frames, metric: str) -> pd.Series:
    """A metric of the last features with most linear layers minus that with the classifier alone, of one seed and
    data."""
    layers = _linear_layers(frames)
    values, about = final(frames, layers.index, metric), frames["runs"].set_index("run_id")
    table = pd.DataFrame({"value": values, "layers": layers, "seed": about["seed"], "data": about["dataset"]})
    groups = [group.sort_values("layers") for _, group in table.dropna().groupby(["seed", "data"])]
    several = [group for group in groups if group["layers"].iloc[0] < group["layers"].iloc[-1]]
    gains = {group.index[-1]: group["value"].iloc[-1] - group["value"].iloc[0] for group in several}
    return pd.Series(gains, dtype=float)


SEVERAL = 2
"""Linear layers from which on the theorems speak."""

_jacot = ClaimsOf("jacot2025", REFERENCE)

# 1: at a stationary point it is 0; the end phase stops at a gradient of a percent or so. 2 and 5: as in sukenik2023.
# 3 and 4: the theorems bound the condition of the last features by that of the linear part to the power of one over
# its layers, and with it the distance from a frame.
CLAIMS = (
    _jacot("1", "Consecutive linear layers end balanced.",
           "largest balancedness of two linear layers at the end", 0.05, _imbalance),
    _jacot("2", "With two linear layers or more, the last features are collapsed within classes (NC1).",
           "nc1_pinv of the last features at the end", 0.1, _with_several("nc1_pinv")),
    _jacot("3", "Class means of the last features are better conditioned the more linear layers there are.",
           "means_uncentred_condition, most linear layers minus the classifier alone", 0.0,
           _gain("means_uncentred_condition"), "above"),
    _jacot("4",
           "Class means of the last features are nearer an orthogonal frame the more linear layers there are (NC2).",
           "nc2_means_of, most linear layers minus the classifier alone", 0.0, _gain("nc2_means_of")),
    _jacot("5", "With two linear layers or more, rows of the classifier are collinear with the class means (NC3).",
           "nc3_rows of the classifier at the end", 0.1, _with_several("nc3_rows")),
)  # fmt: skip
