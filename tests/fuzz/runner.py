"""A surface of ncpipe and its cases: each is run in the sandbox, and its outcome named."""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy

from fuzz.sandbox import GIGABYTES, Hang, Sandbox, growth, limited, watched
from ncpipe.system.errors import UserError

ACCEPTED, REFUSED, FAILED = "accepted", "refused by one line", "FAILED"
LONGEST = 1000
"""Characters of one line."""


@dataclass(frozen=True)
class Outcome:
    """How a case ended; what is said of it, or what went wrong."""

    kind: str
    text: str = ""


@dataclass(frozen=True)
class Surface:
    """An entrance of ncpipe."""

    name: str
    cases: SearchStrategy[Any] | tuple[Any, ...]
    """Or all of them."""
    act: Callable[[Any], object]
    """Runs a case in the working folder of the sandbox; an ``Outcome`` where it is told by more than exceptions."""
    count: int
    """Cases of ``make fuzz``."""
    sample: int
    """Cases of ``make test-all``; ``make test`` has a quarter."""
    prepare: Callable[[Path], None] = lambda folder: None
    """Puts files that all cases read into the working folder."""
    writes: Callable[[Any], Iterable[str]] = lambda case: ["results"]
    """What a case may write: its results folder, or the files that it names."""

    def __str__(self) -> str:
        return self.name


@dataclass
class Tally:
    """Outcomes of one surface."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[Any, str]] = field(default_factory=list)


def fuzz(surface: Surface, folder: Path, count: int, keep_going: bool = False) -> Tally:
    """Run ``count`` cases of a surface, the same at every call.

    The first failed case is an ``AssertionError`` after hypothesis has made it small; with ``keep_going`` failed
    cases are collected instead.
    """
    box, tally = Sandbox(folder), Tally()
    surface.prepare(box.work)

    def one(case: Any) -> None:
        outcome = run(surface, case, box)
        tally.counts[outcome.kind] += 1
        if outcome.kind == FAILED and keep_going:
            tally.failures.append((case, outcome.text))
        else:
            assert outcome.kind != FAILED, outcome.text

    if isinstance(surface.cases, tuple):
        for case in surface.cases[:count]:
            one(case)
        return tally

    @seed(8)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(surface.cases)
    def drawn(case: Any) -> None:
        one(case)

    drawn()
    return tally


def run(surface: Surface, case: Any, box: Sandbox) -> Outcome:
    """The outcome of one case. The sandbox is left as it was."""
    before = box.files()
    with box.inside():
        allowed = [Path(name) for name in surface.writes(case)]
        with growth() as grown, watched([box.temporary, *(box.work / path for path in allowed)]) as seen:
            outcome = _outcome(surface.act, case)
        outcome = _judged(outcome, seen, grown[0])
        places = {str((box.work / path).resolve()) for path in allowed}
    after = box.files()
    changed = [name for name in {*before, *after} if before.get(name) != after.get(name)]
    outside = [name for name in changed if not any(_within(box.root / name, place) for place in places)]
    _remove(box, [name for name in after if name not in before])
    if outside and outcome.kind != FAILED:
        return Outcome(FAILED, f"written outside: {outside[:3]} (after {outcome})")
    return outcome


def _outcome(act: Callable[[Any], object], case: Any) -> Outcome:
    printed = io.StringIO()
    try:
        with limited(), warnings.catch_warnings(), contextlib.redirect_stdout(printed):
            warnings.simplefilter("ignore")
            told = act(case)
    except UserError as error:
        return refusal(str(error))
    except Hang as error:
        return Outcome(FAILED, f"hangs: {error}")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return Outcome(FAILED, "".join(traceback.format_exception(error, limit=-6)))
    return told if isinstance(told, Outcome) else Outcome(ACCEPTED)


def refusal(message: str) -> Outcome:
    """Refused by one line, where ``message`` is one that a terminal can show."""
    if not message.strip() or len(message.splitlines()) > 1 or len(message) > LONGEST:
        return Outcome(FAILED, f"not one line of at most {LONGEST} characters: {message[:3000]!r}")
    if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in message):
        return Outcome(FAILED, f"control characters in the message: {message!r}")
    try:
        message.encode()
    except UnicodeEncodeError:
        return Outcome(FAILED, f"the message cannot be printed: {message!r}")
    return Outcome(REFUSED, message)


def _judged(outcome: Outcome, seen: list[str], grown: float) -> Outcome:
    if outcome.kind != FAILED and seen:
        return Outcome(FAILED, f"did what it must not: {seen[:3]} (after {outcome})")
    if outcome.kind != FAILED and grown > GIGABYTES:
        return Outcome(FAILED, f"took {grown:.1f} GiB of memory")
    return outcome


def _within(path: Path, place: str) -> bool:
    return str(path) == place or place in map(str, path.parents) or str(path) in map(str, Path(place).parents)


def _remove(box: Sandbox, names: list[str]) -> None:
    for name in sorted(names):
        path = box.root / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.is_symlink() or path.exists():
            path.unlink()


def table(tallies: dict[str, Tally]) -> str:
    """Surface x outcome as Markdown, with the sums."""
    kinds = (ACCEPTED, REFUSED, FAILED)
    rows = [["surface", "cases", *kinds], ["---", *["---:"] * 4]]
    total: Counter[str] = Counter()
    for name, tally in tallies.items():
        total += tally.counts
        rows.append(
            [name, *(f"{number:,}" for number in (tally.counts.total(), *map(tally.counts.get, kinds, [0] * 3)))]
        )
    rows.append(["all", *(f"{number:,}" for number in (total.total(), *map(total.get, kinds, [0] * 3)))])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(surfaces: Iterable[Surface], share: float, folder: Path, wanted: str) -> int:
    """Run all cases, print the table and every failed case once; 1 where there is one."""
    tallies = {}
    for number, surface in enumerate(surfaces):
        if wanted in surface.name:
            count = max(1, round(share * surface.count))
            tallies[surface.name] = fuzz(surface, folder / str(number), count, keep_going=True)
            print(f"{surface.name}: {dict(tallies[surface.name].counts)}", file=sys.stderr, flush=True)
    failures = [(name, *failure) for name, tally in tallies.items() for failure in tally.failures]
    told: set[str] = set()
    for name, case, text in failures:
        if (last := text.strip().splitlines()[-1][:60]) not in told:
            told.add(last)
            print(f"--- {name}\n{str(case)[:2000]}\n{text}")
    print(table(tallies))
    return 1 if failures else 0
