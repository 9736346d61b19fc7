"""What MLflow shows of a run in words: its name, and a description in Markdown."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from ncpipe.claims.evidence.wording import held, in_cell, number, span

Row = dict[str, Any]

MAX_TAG_CHARACTERS = 8000
"""MLflow's limit to the value of a tag, and so to a description."""


def run_name(row: Row, network: Row | None = None) -> str:
    """Seed and label, the seed first since MLflow cuts long names; a matched UFM bears those of its network."""
    label: str = row["label"] or row["run_id"]
    if network:
        label = f"{label} of {network['label'] or network['run_id']}"
    seed = (network or row).get("seed")
    return label if seed is None else f"s{seed} {label}"


def study_note(title: str, text: str, claims: list[Row]) -> str:
    """Title, description and the table of claims, as far as MLflow holds it."""
    lines = [f"# {title}", "", *([text, ""] if text else [])]
    if claims:
        lines += ["| claim | statement | verdict | effect | over seeds | runs |", "|---|---|---|---|---|---|"]
        lines += map(_claim_line, claims)
    cut = "\n\n… more in the artifact claims.json"
    size = list(accumulate(len(line) + 1 for line in lines))
    if size[-1] <= MAX_TAG_CHARACTERS:
        return "\n".join(lines)
    return "\n".join(lines[: bisect_right(size, MAX_TAG_CHARACTERS - len(cut))]) + cut


def _claim_line(claim: Row) -> str:
    interval = span(claim["interval_low"], claim["interval_high"])
    numbers = f"{number(claim['effect'])} | {interval} | {held(claim)}"
    return f"| {claim['claim_id']} | {in_cell(claim['statement'])} | **{claim['verdict']}** | {numbers} |"


def network_note(row: Row, nc1: float | None, weights: str | None) -> Iterator[str]:
    """A network in a few sentences: data, zero error, how far it collapsed, where its weights are, if known."""
    shape = f" (K = {row['classes']}, N = {row['train_samples']})" if row["classes"] and row["train_samples"] else ""
    yield f"**{run_name(row)}** on {row['dataset']}{shape}."
    if row["status"] == "diverged":
        yield f"Its loss stopped being finite at epoch {number(row['final_epoch'])}."
    elif row["zero_error_epoch"] is None:
        yield f"No zero training error in {number(row['final_epoch'])} epochs."
    else:
        yield f"Zero training error at epoch {row['zero_error_epoch']} of {number(row['final_epoch'])}."
    if nc1 is not None:
        yield f"At the end nc1_pinv of the last features is {number(nc1)}."
    if row["final_test_accuracy"] is not None:
        yield f"Test accuracy {100 * row['final_test_accuracy']:.1f} %."
    if weights is not None:
        yield f"Weights: `{weights}` in the results folder."
