"""Claims of Zhou et al. 2022: four losses collapse alike, and so do their test accuracies."""

from __future__ import annotations

import pandas as pd

from ncpipe.claims.evidence.bibliography import NEURIPS, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.landscape import TRAPS, traps
from ncpipe.claims.evidence.selectors import NETWORKS, TRAINED, Values, alike, final, statistic, terminal_change

REFERENCE = Reference(
    "Zhou et al. 2022",
    ("Zhou, Jinxin", "You, Chong", "Li, Xiao", "Liu, Kangning", "Liu, Sheng", "Qu, Qing", "Zhu, Zhihui"),
    "Are All Losses Created Equal: A Neural Collapse Perspective",
    NEURIPS,
    2022,
)

LOSSES = {"ce": "CE", "label_smoothing": "label smoothing", "focal": "focal loss", "mse": "MSE"}
SPAN = "last epoch over first measured zero-error epoch"


def _falls(metric: str, losses: tuple[str, ...] = tuple(LOSSES)) -> Values:
    return terminal_change(metric, f"{NETWORKS} and fixed_etf == False and loss in {list(losses)}")


def spreads(frames: Frames) -> pd.DataFrame:
    r"""Variance of the final test accuracy a over the four losses less that of chance, ``spread``, in squared points
    (percent), of networks that share ``width``, ``epochs``, ``seed`` and the ``rest``: data set and other settings of
    the model.

    .. math:: \mathrm{Var}_{loss}\, a_{loss, seed} - \mathrm{mean}_{loss} \mathrm{Var}_{seed}\, a_{loss, seed}

    Both variances are unbiased, so that losses which differ by chance alone have 0 in the mean (the analysis of
    variance with losses as groups). Chance is the draw of weights and batches and, of n test images, a part of
    a (1 - a)/n each; what of it all seeds have in common stays. With one seed nothing is known of chance, and nothing
    is subtracted. Where a loss has several networks their mean counts. A row where all four losses are
    there, indexed by the run with CE."""
    runs = frames["runs"].query(f"{TRAINED} and fixed_etf == False and loss in {list(LOSSES)}").set_index("run_id")
    rest = alike(frames, "dataset", "model", without=("model.width",)).reindex(runs.index)
    accuracy = 100 * final(frames, runs.index, "accuracy", split="test").reindex(runs.index)
    table = runs[["width", "epochs", "seed", "loss"]].assign(rest=rest, accuracy=accuracy).reset_index().dropna()
    cell = ["rest", "width", "epochs"]
    by_loss = (
        table.groupby([*cell, "seed", "loss"])["accuracy"].mean().unstack().reindex(columns=list(LOSSES)).dropna()
    )
    chance = by_loss.groupby(cell).transform("var").mean(axis=1).fillna(0)
    spread = (by_loss.var(axis=1) - chance).rename("spread")
    names = table[table["loss"] == "ce"].drop_duplicates([*cell, "seed"]).set_index([*cell, "seed"])["run_id"]
    return spread.to_frame().join(names).reset_index().set_index("run_id")


@statistic
def _spread_change(frames: Frames, along: tuple[str, ...]) -> pd.Series:
    """Spread where all of ``along`` are largest minus where all are smallest, the rest fixed; by the larger run."""
    table = spreads(frames)
    changes = {}
    for _, group in table.groupby(["rest", "seed", *({"width", "epochs"} - set(along))]):
        extents = group[list(along)]
        large, small = (extents == extents.max()).all(axis=1), (extents == extents.min()).all(axis=1)
        if large.any() and small.any() and (extents.max() > extents.min()).all():
            larger, smaller = group[large].iloc[0], group[small].iloc[0]
            changes[larger.name] = larger["spread"] - smaller["spread"]
    return pd.Series(changes, dtype=float)


SPREAD = "variance of the test accuracy over the losses less that of chance, squared points"

_zhou = ClaimsOf("zhou2022", REFERENCE)


# The paper states directions without a size.
CLAIMS = (
    *(
        _zhou(f"1{letter}", f"Trained with {name}, NC1 falls past zero training error.",
              f"log10 of nc1_pinv of the features, {SPAN}", 0.0, _falls("nc1_pinv", (loss,)))
        for letter, (loss, name) in zip("abcd", LOSSES.items())
    ),
    _zhou("2", "With all four losses the class means approach a simplex ETF past zero training error.",
          f"log10 of nc2_means_etf of the features, {SPAN}", 0.0, _falls("nc2_means_etf")),
    _zhou("3", "With all four losses classifier and class means approach each other past zero training error.",
          f"log10 of nc3_duality, {SPAN}", 0.0, _falls("nc3_duality")),
    _zhou("4", "Wide networks trained long have closer test accuracies with the four losses than narrow ones trained"
          " briefly.", f"{SPREAD}, widest and longest minus narrowest and shortest", 0.0,
          _spread_change(("width", "epochs"))),
    _zhou("5a", "The test accuracies with the four losses come closer with width, at any number of epochs.",
          f"{SPREAD}, widest minus narrowest", 0.0, _spread_change(("width",))),
    _zhou("5b", "The test accuracies with the four losses come closer with epochs, at any width.",
          f"{SPREAD}, longest minus shortest", 0.0, _spread_change(("epochs",))),
    # Theorems for CE, label smoothing and MSE; of focal loss the paper proves it near the optimum only.
    *(
        _zhou(f"6{letter}", f"Every critical point of the UFM with {name} above the optimum is a strict saddle.",
              TRAPS, 0.5,
              traps(f"loss == '{loss}' and depth == 1 and dim >= classes"))
        for letter, (loss, name) in zip("abcd", LOSSES.items())
    ),
)  # fmt: skip
