"""What came of a reproduction, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console

from ncpipe.claims.evidence.wording import number
from ncpipe.compare.agreement import Agreement
from ncpipe.compare.comparison import Row, facts
from ncpipe.compare.terminal import print_section
from ncpipe.compare.wording import LISTED, Section, deviations, value
from ncpipe.reproduce.tensors import TensorAgreement
from ncpipe.system.provenance import CODE, HARDWARE, Origin
from ncpipe.system.words import plural


@dataclass(frozen=True)
class Reproduction:
    """A run beside itself made again: A is the record, B the rerun."""

    run_id: str
    results: str
    tables: Agreement
    """By the tables of the study."""
    records: Agreement | None
    """By the files in the run's folder; None where it is gone."""
    tensors: TensorAgreement
    recorded: Origin
    """Empty of a run that was made before origins were recorded."""
    recorded_commit: str
    """Commit of the code that wrote the tables."""
    now: Origin

    @property
    def agreements(self) -> list[Agreement]:
        return [self.tables] if self.records is None else [self.tables, self.records]

    @property
    def equal(self) -> bool:
        return not any(each.differing for each in self.agreements) and not self.tensors.deviations

    @property
    def changes(self) -> list[Row]:
        """Entries of code, packages and hardware that are not the recorded ones."""
        rows = facts("made by", self.recorded, self.now) if self.recorded else ()
        return [row for row in rows if not row["equal"]]


def verdict(rerun: Reproduction) -> str:
    """The answer in one line: 'Equal, bit for bit: 412 values and 31 tensors of ID.'"""
    values, tensors = sum(each.values for each in rerun.agreements), rerun.tensors.tensors
    if rerun.equal:
        return f"Equal, bit for bit: {plural(values, 'value')} and {plural(tensors, 'tensor')} of {rerun.run_id}."
    deviations = [row for each in rerun.agreements for row in each.deviations] + rerun.tensors.deviations
    largest = [(row["relative"], row["quantity"]) for row in deviations if row["relative"] is not None]
    differs = sum(each.differing for each in rerun.agreements)
    parts = f"{differs:,} of {plural(values, 'value')} and {len(rerun.tensors.deviations):,} of "
    parts += f"{plural(tensors, 'tensor')} of {rerun.run_id}"
    relative, where = max(largest, default=(None, ""))
    return f"Differs in {parts}" + (f"; by {number(relative)} relative at most ({where})." if where else ".")


def remarks(rerun: Reproduction) -> Iterator[str]:
    """What else there is to say: other code, packages or hardware, and what could not be compared."""
    if not rerun.recorded:
        commit = f"{rerun.recorded_commit}; this is {rerun.now.get('commit', 'unknown')}"
        yield f"The record names neither packages nor hardware. Its tables were written at commit {commit}."
    kind_of = dict.fromkeys(CODE, "code") | dict.fromkeys(HARDWARE, "hardware")
    changed = {kind_of.get(change["quantity"], "packages") for change in rerun.changes}
    if kinds := [kind for kind in ("code", "packages", "hardware") if kind in changed]:
        yield f"Not as recorded: {', '.join(kinds)}."
    elif rerun.recorded:
        yield "Code, packages and hardware are as recorded."
    if rerun.records is None:
        yield f"The folder of the run is gone from {rerun.results}: the tables alone are compared."
    elif rerun.tensors.unrecorded:
        yield f"Not compared, since not in the record: {', '.join(rerun.tensors.unrecorded[:LISTED])}."


def print_reproduction(rerun: Reproduction) -> None:
    """Print the verdict, what surrounds it, and what differs most."""
    console = Console(markup=False, emoji=False, highlight=False)
    console.print(verdict(rerun), style="bold", soft_wrap=True)
    for remark in remarks(rerun):
        console.print(remark, soft_wrap=True)
    rows = [(row["quantity"], value(row["a"]), value(row["b"])) for row in rerun.changes]
    print_section(console, Section("made by", ("recorded", "now"), rows))
    for each, title in zip(rerun.agreements, (f"tables of {rerun.results}", "files of the run")):
        if each.differing:
            console.print(f"\n{title}: A is the record, B the rerun", style="bold")
            for section in deviations(each):
                print_section(console, section)
    tensors = [
        (d["quantity"], f"{d['differing']:,} of {d['values']:,}", number(d["relative"]) if d["relative"] else "–")
        for d in rerun.tensors.deviations[:LISTED]
    ]
    more = len(rerun.tensors.deviations) - len(tensors)
    print_section(console, Section("tensors" + (f" ({more} more)" if more else ""), ("differ", "relative"), tensors))
