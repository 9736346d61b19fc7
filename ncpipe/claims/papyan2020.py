"""Claims of Papyan, Han & Donoho 2020: collapse and its benefits past zero training error."""

from __future__ import annotations

import pandas as pd

from ncpipe.claims.evidence.bibliography import PNAS, Reference
from ncpipe.claims.evidence.claim import ClaimsOf, Frames
from ncpipe.claims.evidence.selectors import past_zero_error, statistic, terminal_change

REFERENCE = Reference(
    "Papyan, Han & Donoho 2020",
    ("Papyan, Vardan", "Han, X. Y.", "Donoho, David L."),
    "Prevalence of neural collapse during the terminal phase of deep learning training",
    PNAS,
    2020,
    (("volume", "117"), ("number", "40"), ("pages", "24652--24663")),
)

SPAN = "last epoch over first measured zero-error epoch"
DIFFERENCE = "last epoch minus first measured zero-error epoch"

SMALLEST_RISE = 1e-9
"""Share of samples, below one sample of any data set, so that 'no rise' counts and rounding does not."""


@statistic
def _difference(frames: Frames, metric: str, split: str = "train") -> pd.Series:
    ends = past_zero_error(frames, metric, split=split)
    return ends["last"] - ends["first"]


_papyan = ClaimsOf("papyan2020", REFERENCE)


# The paper states directions without a size: every threshold is no change, or for NC4, which may stay 0, no rise.
CLAIMS = (
    _papyan("1", "Past zero training error the variability within classes falls (NC1).",
            f"log10 of nc1_pinv of the features, {SPAN}", 0.0, terminal_change("nc1_pinv")),
    _papyan("2a", "Past zero training error the class means approach equal norms (NC2).",
            f"log10 of nc2_means_equinorm of the features, {SPAN}", 0.0, terminal_change("nc2_means_equinorm")),
    _papyan("2b", "Past zero training error the class means approach equal, maximal angles (NC2).",
            f"log10 of nc2_means_equiangle of the features, {SPAN}", 0.0, terminal_change("nc2_means_equiangle")),
    _papyan("3", "Past zero training error classifier and class means approach each other (NC3).",
            f"log10 of nc3_duality, {SPAN}", 0.0, terminal_change("nc3_duality")),
    _papyan("4", "Past zero training error the classifier does not leave the nearest class mean (NC4).",
            f"nc4_mismatch, {DIFFERENCE}", SMALLEST_RISE, _difference("nc4_mismatch")),
    _papyan("5", "Past zero training error the test accuracy still rises.",
            f"test accuracy, {DIFFERENCE}", 0.0, _difference("accuracy", "test"), "above"),
    _papyan("6", "Past zero training error the robustness to adversarial changes still rises.",
            f"log10 of robustness of the test images, {SPAN}", 0.0, terminal_change("robustness", split="test"),
            "above"),
)  # fmt: skip
