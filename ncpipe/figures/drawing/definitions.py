"""What a metric means, in the few words or symbols that fit over a panel. In full: docs/metrics.md."""

from __future__ import annotations

import re

from ncpipe.collapse.metrics import label

HISTORY = {
    "gap": "objective − optimum",
    "train_loss": "training mode, running",
    "test_loss": "evaluation mode",
    "train_error": "1 − train_accuracy, running",
    "test_error": "1 − test_accuracy",
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
