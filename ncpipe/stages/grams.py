"""Rows of the ``grams`` table: Gram matrices of a run's class means and classifier at its last measured time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from ncpipe.collapse import Moment, Trace

MOST_CLASSES = 100
"""K beyond which a run has no Grams in the table: they hold K^2 numbers each."""


def gram_rows(source: str, run_id: str, trace: Trace) -> Iterator[dict[str, Any]]:
    r"""Rows of the ``grams`` table, K x K for each Gram; none for more than ``MOST_CLASSES`` classes.

    Of the last features on the training split, with :math:`\mu_c` in the rows of the class means (K, d):
    ``means_uncentred`` :math:`\langle\mu_c, \mu_{c'}\rangle`, ``means`` the same of
    :math:`\mu_c - \frac1K\sum_k\mu_k`, ``weights`` :math:`\langle w_c, w_{c'}\rangle`. As measured, not normalised.

    Args:
        source: ``net`` or ``ufm``.
        run_id: id of the run.
        trace: its statistics over time.
    """
    last, layer = trace.times[-1], trace.layers[-1]
    means = trace.statistics[Moment(last, layer)].means.double()
    if len(means) > MOST_CLASSES:
        return
    grams = {"means_uncentred": means, "means": means - means.mean(dim=0), "weights": trace.heads[last][0].double()}
    at = {"source": source, "run_id": run_id, "layer": layer, "time": last}
    for name, vectors in grams.items():
        yield from (at | {"gram": name} | entry for entry in _entries(vectors @ vectors.T))


def _entries(gram: Tensor) -> Iterator[dict[str, Any]]:
    for row, values in enumerate(gram.tolist()):
        for column, value in enumerate(values):
            yield {"row": row, "column": column, "value": value}
