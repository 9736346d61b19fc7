"""What claims read of landscapes: critical points above the optimum that are no strict saddles."""

from __future__ import annotations

import pandas as pd

from ncpipe.claims.evidence.claim import Frames
from ncpipe.claims.evidence.selectors import Values, run_ids
from ncpipe.records.reading import critical_points

TRAPS = "critical points found above the optimum without negative curvature"


def traps(query: str) -> Values:
    """Statistic: the number of critical points above the optimum that are no strict saddles, of every UFM that a
    query of ``runs`` selects and of which points above the optimum were found: of others it says nothing."""

    def values(frames: Frames) -> pd.Series:
        points = critical_points(frames)
        above = points[(points["above"] > 0) & points["run_id"].isin(run_ids(frames, query))]
        if above.empty:
            return pd.Series(dtype=float)
        return above["index"].eq(0).groupby(above["run_id"]).sum().astype(float)

    return values
