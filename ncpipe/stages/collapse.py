"""The collapse stage: metrics of every layer, split and time of a run, from its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ncpipe.collapse import Measurement, Moment, Trace, collapse_metrics
from ncpipe.records.schemas import COLLAPSE, GRAMS
from ncpipe.records.traces import load_traces
from ncpipe.records.writing import write_rows
from ncpipe.stages.grams import gram_rows
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
        if last:
            row |= trace.scalars[moment.time, moment.split]
            row.undefined |= trace.reasons.get((moment.time, moment.split), {})
        yield from _rows(source, run_id, moment, trace.depth(moment.layer), row)


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
