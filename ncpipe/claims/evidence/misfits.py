"""The misfit of the matched models to the networks of a study: one for every sweep of weight decay and every seed."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from ncpipe.claims.evidence.claim import Frames
from ncpipe.claims.evidence.selectors import NETWORKS, alike, final
from ncpipe.records.reading import rows_of
from ncpipe.records.schemas import TABLES
from ncpipe.ufm.misfit import GRAMS, SIZES, Signature, frames_apart, misfit

DECAYS = ("optimizer.weight_decay", "optimizer.head_weight_decay")
"""The settings in which the networks of a sweep may differ, beside their seed."""
PREDICTED = ("predicted", "predicted_extended")
"""Kinds of models with nothing matched: what they say of norms and objective is a prediction too."""
SIDES = {f"{side}_{name}" for side in ("predicted", "measured") for name in ("loss", *GRAMS, *SIZES)}
READ = [name for name in TABLES["ufm"].names if name in {"network_id", "kind", "model", *SIDES}]
"""Columns of the ``ufm`` table, as far as it has what is compared."""
COLUMNS = ["sweep", "seed", "run_id", "decay", "classes", "classifier", "matched"]


def matched_signatures(frames: Frames) -> pd.DataFrame:
    """Matched fits of networks past zero error beside what was measured.

    Columns: ``sweep``, settings that its networks of all seeds share, as text; ``seed``, ``run_id``, ``decay`` and
    ``classes`` of the network; ``classifier``, the guess for its frame; ``matched``, the kind of model;
    ``predicted`` and ``measured``, a ``Signature`` each. Networks in the order of their weight decay.
    """
    nets = frames["runs"].query(NETWORKS)
    nets = nets.assign(
        sweep=nets["run_id"].map(alike(frames, without=(*DECAYS, "seed"))),
        decay=[classifier_decay(decays) for decays in nets["weight_decay"]],
        classifier=guessed_classifier(nets),
        scatter=nets["run_id"].map(final(frames, pd.Index(nets["run_id"]), "within_share")),
    )
    fits = rows_of(frames, "ufm", READ, kind="matched").rename(columns={"model": "matched"})
    fits = fits[fits["predicted_loss"].notna() & (fits["measured_loss"] > 0)]
    shared = ["sweep", "seed", "run_id", "decay", "classifier", "scatter"]
    both = nets[shared].merge(fits, left_on="run_id", right_on="network_id")
    both = both.assign(**{side: _signatures(both, side) for side in ("predicted", "measured")})
    both["classes"] = [len(signature.means_gram) for signature in both["measured"]]
    return both[[*COLUMNS, "predicted", "measured"]].sort_values("decay", kind="stable")


def guessed_classifier(nets: pd.DataFrame) -> pd.Series:
    """Frame of the classifier by rows of ``runs``: "of" with squared error and no bias, else "etf"."""
    free = (nets["loss"] == "mse") & (nets["bias"] == "no")
    return free.map({True: "of", False: "etf"})


def classifier_decay(decays: Any) -> float:
    """Weight decay of a network's classifier, the last of the ``weight_decay`` column; NaN where it is not known."""
    return float("nan") if decays is None else float(np.ravel(decays)[-1])


def misfits(frames: Frames) -> pd.DataFrame:
    """A row for every sweep, seed and model: ``COLUMNS`` of its first network, and ``misfit``, a ``Misfit``.

    Where the classifier's decay does not vary, sizes are left out: a constant fits them whatever the model.
    """
    rows: list[dict[Hashable, Any]] = []
    for _, own in matched_signatures(frames).groupby(["sweep", "seed", "matched"], dropna=False, sort=False):
        predicted, measured = [*own["predicted"]], [*own["measured"]]
        if own["decay"].nunique() < 2:
            predicted, measured = ([one.without_sizes() for one in side] for side in (predicted, measured))
        first = own.iloc[0].to_dict()
        rows.append(first | {"misfit": misfit(predicted, measured, first["classifier"])})
    return pd.DataFrame(rows, columns=[*COLUMNS, "misfit"])


def misfit_values(tables: Frames) -> pd.DataFrame:
    """The misfits as numbers, a row each: ``COLUMNS``, ``error``, ``guess_error``, ``relative``, the error in units
    of the distance between an orthogonal frame and a simplex ETF, ``frames``, the error in the frames of last
    features and classifier alone, which all models have, ``below``, that of the frame one layer below in the unit of
    ``relative``, NaN where there is none, and ``sized``, whether sizes count."""
    found = misfits(tables)
    values = {name: [getattr(one, name) for one in found["misfit"]] for name in ("error", "guess_error")}
    apart = np.array([frames_apart(classes) for classes in found["classes"]])
    below = np.array([one.errors.get("hidden_gram", np.nan) for one in found["misfit"]])
    values |= {"relative": np.array(values["error"]) / apart, "below": below / apart}
    sized = [bool(set(SIZES) & set(one.model)) for one in found["misfit"]]
    frames = [np.hypot(one.errors["means_gram"], one.errors["weights_gram"]) / np.sqrt(2) for one in found["misfit"]]
    return found[COLUMNS].assign(**values, frames=frames, sized=np.array(sized, dtype=bool))


def _signatures(fits: pd.DataFrame, side: str) -> pd.Series:
    found = []
    for fit in fits.to_dict("records"):
        parts: dict[str, Any] = {name: _square(fit.get(f"{side}_{name}")) for name in GRAMS}
        if fit["matched"] in PREDICTED:
            parts |= {name: _size(fit.get(f"{side}_{name}")) for name in SIZES}
        found.append(Signature(**parts, scatter=0.0 if side == "predicted" else _size(fit["scatter"])))
    return pd.Series(found, index=fits.index, dtype=object)


def _size(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)


def _square(gram: Any) -> Any:
    if np.ndim(gram) == 0:  # none was written
        return None
    values = np.asarray(gram, dtype=float)
    size = round(values.size**0.5)
    return values.reshape(size, size)
