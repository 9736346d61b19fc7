"""Claims of Súkeník, Lampert & Mondelli 2025: deep residual networks end closer to collapse than shallow ones."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.bibliography import Reference
from ncpipe.claims.evidence.claim import Claim, ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import NETWORKS, alike, final, log10, run_ids, setting, statistic

REFERENCE = Reference(
    "Súkeník, Lampert & Mondelli 2025",
    ("Súkeník, Peter", "Lampert, Christoph H.", "Mondelli, Marco"),
    "Neural Collapse is Globally Optimal in Deep Regularized ResNets and Transformers",
    ("misc", "howpublished", "arXiv:2505.15239"),
    2025,
)
STATISTIC = "slope of log10 of {} at the end over log2 of the depth, networks that differ in depth alone"


@statistic
def _slope(frames: Frames, metric: str, losses: str) -> pd.Series:
    """Decades by which a metric changes when the depth doubles, by least squares over the networks of one seed that
    differ in depth alone; by the run of the deepest."""
    ends = log10(final(frames, run_ids(frames, f"{NETWORKS} and {losses} and fixed_etf == False"), metric))
    depths = setting(frames, "model.depth").reindex(ends.index).astype(float)
    table = pd.DataFrame({"depth": np.log2(depths), "end": ends, "rest": alike(frames, without=("model.depth",))})
    table = table.replace([np.inf, -np.inf], np.nan).dropna().sort_values("depth")
    slopes = {
        group.index[-1]: np.polyfit(group["depth"], group["end"], 1)[0]
        for _, group in table.groupby("rest")
        if group["depth"].nunique() > 1
    }
    return pd.Series(slopes, dtype=float)


_sukenik = ClaimsOf("sukenik2025", REFERENCE)


def _with(number: str, name: str, losses: str, frame: str, nc2: str, nc3: str) -> Iterator[Claim]:
    for letter, what, metric in (
        ("a", "the features to their class means (NC1)", "nc1_pinv"),
        ("b", f"the class means to {frame} (NC2)", nc2),
        ("c", "the classifier to the class means (NC3)", nc3),
    ):
        statement = f"Trained with {name}, the deeper the residual network the closer end {what}."
        yield _sukenik(f"{number}{letter}", statement, STATISTIC.format(metric), 0.0, _slope(metric, losses))


# The paper proves that global optima are collapsed up to an error that gets smaller as the depth grows, and sees it
# in training; of networks brought near stationary points one then expects a fall with depth. The rate of its bound
# was not at hand, so that no change is the threshold. NC2 and NC3 are those of the frame that is optimal for the last
# layer: a simplex ETF with cross entropy, an orthogonal frame with squared error and no bias.
CLAIMS = (
    *_with("1", "cross entropy", "loss == 'ce'", "a simplex ETF", "nc2_means_etf", "nc3_duality"),
    *_with("2", "squared error", "loss == 'mse' and bias == 'no'", "an orthogonal frame", "nc2_means_of", "nc3_rows"),
)
