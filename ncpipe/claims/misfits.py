"""The misfit of the matched models to the networks of a study: one for every sweep of weight decay and every seed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from ncpipe.claims.claim import Frames
from ncpipe.claims.selectors import NETWORKS
from ncpipe.tables.reading import rows_of

SWEEP = ["dataset", "model", "width", "depth", "batch_norm", "loss", "loss_scaling", "bias", "head", "seed"]
"""Networks that agree in these columns of ``runs`` are a sweep: they differ in their weight decay."""
SIDES = [f"{side}_{what}" for side in ("predicted", "measured")
         for what in ("loss", "feature_norm", "weight_norm", "means_gram", "weights_gram")]  # fmt: skip
COMPARED = ["network_id", "kind", "model", *SIDES]


def matched_signatures(frames: Frames) -> pd.DataFrame:
    """Matched fits of networks past zero error beside what was measured.

    Columns: those of a sweep; ``run_id`` and ``decay`` of the network; ``matched``, the kind of model;
    ``predicted`` and ``measured``, a ``Signature`` each. Networks in the order of their weight decay.
    """
    nets = frames["runs"].query(NETWORKS)
    nets = nets.assign(decay=[classifier_decay(decays) for decays in nets["weight_decay"]])
    fits = rows_of(frames, "ufm", COMPARED, kind="matched").rename(columns={"model": "matched"})
    fits = fits[fits["predicted_loss"].notna() & (fits["measured_loss"] > 0)]
    fits = fits.assign(predicted=_signatures(fits, "predicted"), measured=_signatures(fits, "measured"))
    both = nets[[*SWEEP, "run_id", "decay"]].merge(
        fits[["network_id", "matched", "predicted", "measured"]], left_on="run_id", right_on="network_id"
    )
    return both.drop(columns="network_id").sort_values("decay", kind="stable")


def classifier_decay(decays: Any) -> float:
    """Weight decay of a network's classifier, the last of the ``weight_decay`` column."""
    return float(np.ravel(decays)[-1])


def misfits(frames: Frames) -> pd.DataFrame:
    """A row for every sweep and matched model: columns of the sweep, ``run_id`` of its first network, ``matched``,
    and ``misfit``, a ``Misfit``."""
    from ncpipe.ufm.misfit import misfit  # with torch, which what reads tables does without

    groups = matched_signatures(frames).groupby([*SWEEP, "matched"], dropna=False, sort=False)
    rows: list[dict[Hashable, Any]] = [
        own.iloc[0].to_dict() | {"misfit": misfit([*own["predicted"]], [*own["measured"]])} for _, own in groups
    ]
    return pd.DataFrame(rows, columns=[*SWEEP, "run_id", "matched", "misfit"])


def misfit_values(frames: Frames) -> pd.DataFrame:
    """The misfits as numbers: sweeps by the id of their first network, a column per matched model."""
    found = misfits(frames)
    values = found.assign(value=[one.value for one in found["misfit"]])
    return values.pivot(index="run_id", columns="matched", values="value")


def _signatures(fits: pd.DataFrame, side: str) -> pd.Series:
    from ncpipe.ufm.misfit import Signature

    found = [
        Signature(
            means_gram=_square(fit[f"{side}_means_gram"]),
            weights_gram=_square(fit[f"{side}_weights_gram"]),
            norms=fit[f"{side}_weight_norm"] * fit[f"{side}_feature_norm"],
            loss=fit[f"{side}_loss"],
        )
        for fit in fits.to_dict("records")
    ]
    return pd.Series(found, index=fits.index, dtype=object)


def _square(gram: Any) -> Any:
    values = np.asarray(gram, dtype=float)
    size = round(values.size**0.5)
    return values.reshape(size, size)
