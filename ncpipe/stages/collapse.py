"""The collapse stage: metrics of every layer, split and time of a run, and its last Grams, from its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ncpipe.collapse import Measurement, Moment, Trace, balancedness, collapse_metrics
from ncpipe.records.schemas import COLLAPSE, GRAMS
from ncpipe.records.traces import load_traces
from ncpipe.records.writing import write_rows
from ncpipe.system.provenance import in_json, origin


def write_collapse(statistics: Path, source: str, target: Path) -> None:
    """Read ``statistics.safetensors`` of a network or a UFM batch, write its ``collapse.parquet`` to ``target`` and
    ``grams.parquet`` beside it."""
    traces = load_traces(statistics)
    rows = (row for run_id, trace in traces.items() for row in collapse_rows(source, run_id, trace))
    metadata = {"provenance": in_json(origin())}
    write_rows(target, COLLAPSE, rows, metadata)
    grams = (row for run_id, trace in traces.items() for row in gram_rows(source, run_id, trace))
    write_rows(target.with_name("grams.parquet"), GRAMS, grams, metadata)


def collapse_rows(source: str, run_id: str, trace: Trace) -> Iterator[dict[str, Any]]:
    """Rows of the ``collapse`` table; the trace's scalars stand among the metrics of the last layer."""
    for moment in sorted(trace.statistics, key=lambda m: (m.time, trace.depth(m.layer), m.split)):
        last = moment.layer == trace.layers[-1]
        train = trace.statistics.get(replace(moment, split="train")) if moment.split == "test" else None
        row = collapse_metrics(
            trace.statistics[moment],
            *(trace.heads[moment.time] if last else ()),
            next_weight=trace.weights.get((moment.time, moment.layer)),
            train_means=None if train is None else train.means,
        )
        _add_balancedness(row, trace, moment)
        if last:
            row |= trace.scalars[moment.time, moment.split]
            row.undefined |= trace.reasons.get((moment.time, moment.split), {})
        yield from _rows(source, run_id, moment, trace.depth(moment.layer), row)


LINEAR = 1e-3
"""Class means that a weight leads to, relative, may be so far off: features are in single precision."""


def _add_balancedness(row: Measurement, trace: Trace, moment: Moment) -> None:
    """``balancedness`` of a layer that a matrix reads and a linear map leads to: as the class means show, from the
    layer before with no ReLU, bias or layer that is not measured between."""
    if moment.layer == trace.layers[0]:
        return
    last, before = moment.layer == trace.layers[-1], trace.layers[trace.depth(moment.layer) - 2]
    reader = trace.heads[moment.time][0] if last else trace.weights.get((moment.time, moment.layer))
    weight, known = trace.weights.get((moment.time, before)), trace.statistics.get(replace(moment, layer=before))
    means = trace.statistics[moment].means
    if reader is None or weight is None or known is None or len(weight) != means.shape[1]:
        return
    if (known.means @ weight.T.to(means) - means).norm() <= LINEAR * means.norm():
        row.fill({"balancedness": balancedness(reader, weight)}, "the weight before the layer is zero")


def _rows(source: str, run_id: str, moment: Moment, depth: int, values: Measurement) -> Iterator[dict[str, Any]]:
    rank, condition = int(values.pop("rank")), values.pop("condition")
    for metric, value in values.items():
        yield {
            "source": source,
            "run_id": run_id,
            "split": moment.split,
            "layer": moment.layer,
            "depth": depth,
            "time": moment.time,
            "metric": metric,
            "value": value,
            "rank": rank,
            "condition": condition,
            "reason": values.undefined.get(metric),
        }


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
