"""Claims of Zhou et al. 2022: four losses collapse alike, and so do their test accuracies."""

from __future__ import annotations

import pandas as pd

from ncpipe.claims.evidence.bibliography import NEURIPS, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.landscape import TRAPS, traps
from ncpipe.claims.evidence.selectors import NETWORKS, TRAINED, Values, alike, final, terminal_change

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
    """Largest minus smallest final test accuracy over the four losses, ``spread``, of networks that share ``width``,
    ``epochs`` and the ``rest``: data set, other settings of the model, and seed. Where a loss has several networks
    their mean counts. A row where all four losses are there, indexed by the run with CE."""
    runs = frames["runs"].query(f"{TRAINED} and fixed_etf == False and loss in {list(LOSSES)}").set_index("run_id")
    rest = alike(frames, "dataset", "model", "seed", without=("model.width",)).reindex(runs.index)
    accuracy = final(frames, runs.index, "accuracy", split="test").reindex(runs.index)
    table = runs[["width", "epochs", "loss"]].assign(rest=rest, accuracy=accuracy).reset_index().dropna()
    keys = ["rest", "width", "epochs"]
    by_loss = table.groupby([*keys, "loss"])["accuracy"].mean().unstack().reindex(columns=list(LOSSES)).dropna()
    names = table[table["loss"] == "ce"].drop_duplicates(keys).set_index(keys)["run_id"]
    spread = (by_loss.max(axis=1) - by_loss.min(axis=1)).rename("spread")
    return spread.to_frame().join(names).reset_index().set_index("run_id")


def _spread_change(along: tuple[str, ...]) -> Values:
    """Spread where all of ``along`` are largest minus where all are smallest, the rest fixed; by the larger run."""

    def values(frames: Frames) -> pd.Series:
        table = spreads(frames)
        changes = {}
        for _, group in table.groupby(["rest", *({"width", "epochs"} - set(along))]):
            extents = group[list(along)]
            large, small = (extents == extents.max()).all(axis=1), (extents == extents.min()).all(axis=1)
            if large.any() and small.any() and (extents.max() > extents.min()).all():
                larger, smaller = group[large].iloc[0], group[small].iloc[0]
                changes[larger.name] = larger["spread"] - smaller["spread"]
        return pd.Series(changes, dtype=float)

    return values


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
          " briefly.", "spread of the test accuracy over the losses, widest and longest minus narrowest and shortest",
          0.0, _spread_change(("width", "epochs"))),
    _zhou("5a", "The test accuracies with the four losses come closer with width, at any number of epochs.",
          "spread of the test accuracy over the losses, widest minus narrowest", 0.0, _spread_change(("width",))),
    _zhou("5b", "The test accuracies with the four losses come closer with epochs, at any width.",
          "spread of the test accuracy over the losses, longest minus shortest", 0.0, _spread_change(("epochs",))),
    # Theorems for CE, label smoothing and MSE; of focal loss the paper proves it near the optimum only.
    *(
        _zhou(f"6{letter}", f"Every critical point of the UFM with {name} above the optimum is a strict saddle.",
              TRAPS, 0.5,
              traps(f"loss == '{loss}' and depth == 1 and dim >= classes"))
        for letter, (loss, name) in zip("abcd", LOSSES.items())
    ),
)  # fmt: skip
