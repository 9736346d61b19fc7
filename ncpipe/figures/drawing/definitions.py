"""What a metric means, in the few words or symbols that fit over a panel. In full: docs/metrics.md."""

from __future__ import annotations

import re
from math import sqrt

from ncpipe.collapse.metrics import label
from ncpipe.ufm.misfit import frames_apart

HISTORY = {
    "gap": "objective − optimum",
    "train_loss": "training mode, running",
    "test_loss": "evaluation mode",
    "train_error": "training mode, running",
    "test_error": "evaluation mode",
}
"""By history quantity."""


def definition(name: str) -> str:
    """What a metric or history quantity means; empty where nothing is known of it.

    'to ETF', 'to OF': Frobenius distance of the Gram, both of unit norm."""
    return label(name) or HISTORY.get(name, "")


def title(name: str) -> str:
    """What a metric or history quantity is called over a panel, beside its definition: NC1, test loss."""
    property_ = re.match(r"g?u?nc\d", name)
    return property_[0].upper() if property_ else name.replace("_", " ")


def at_other_frame(name: str, classes: float) -> float | None:
    """A metric of the distance to one exact frame, where the other is: to the ETF at the OF, to the OF at the ETF.

    nc3_duality where W is an OF, and M is W centred: |W/|W| - M/|M||^2 = 2 - 2 sqrt(1 - 1/K).
    """
    if name in ("nc2_means_of", "nc2_means_uncentred_etf", "nc2_weights_of", "nc2_weights_etf"):
        return frames_apart(classes)
    return 2 - 2 * sqrt(1 - 1 / classes) if name == "nc3_duality" else None
