"""Claims of a user's own: functions of the tables in a file, each with a statement and a threshold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType

import pandas as pd

from ncpipe.claims.evidence.claim import Claim, Values
from ncpipe.records.reading import Frames
from ncpipe.settings.source import own, short_name
from ncpipe.system.errors import UserError


def claim(
    statement: str, statistic: str, *, below: float | None = None, above: float | None = None, rounding: float = 0.0
) -> Callable[[Values], Claim]:
    """Decorator that makes a claim of the function which computes its statistic; its id is the function's name.

    The function takes the tables, a mapping of pandas frames by name, and gives the statistic of every run that the
    claim speaks of: a Series of numbers by run id.

    Args:
        statement: what is claimed, a sentence.
        statistic: what the function computes, in words.
        below, above: one of them, the threshold on whose side the statistic lies where the claim holds.
        rounding: what rounding alone makes of the statistic.

    Raises:
        ValueError: no threshold, or two.

    Example:
        >>> from ncpipe.claims import final, run_ids
        >>> @claim("Networks collapse.", "nc1_pinv of the last layer at the end", below=0.1)
        ... def collapse(tables):
        ...     return final(tables, run_ids(tables, "kind == 'network'"), "nc1_pinv")
        >>> collapse.id, collapse.direction, collapse.threshold
        ('collapse', 'below', 0.1)
    """
    if (below is None) == (above is None):
        raise ValueError("claim: needs one threshold, below=... or above=...")

    def made(values: Values) -> Claim:
        name = getattr(values, "__name__", "claim")
        if above is not None:
            return Claim(name, "", statement, statistic, "above", above, values, rounding)
        assert below is not None
        return Claim(name, "", statement, statistic, "below", below, values, rounding)

    return made


def own_claims(path: str, module: ModuleType) -> list[Claim]:
    """Claims of a file: its ``CLAIMS``, or all that stand in it, with ids that begin with the file's name.

    Raises:
        UserError: it has none.
    """
    found = [*getattr(module, "CLAIMS", (each for each in vars(module).values() if isinstance(each, Claim)))]
    if not found:
        raise UserError(f"{path} has no claim; decorate a function with ncpipe.claims.claim")
    about = (module.__doc__ or "").strip().partition("\n")[0].rstrip(".") or path
    return [_named(each, path, about) for each in found]


def _named(found: Claim, path: str, about: str) -> Claim:
    named = found if found.source else replace(found, id=f"{short_name(path)}-{found.id}", source=about)
    return replace(named, values=_checked(named, path))


def _checked(found: Claim, path: str) -> Values:
    def values(frames: Frames) -> pd.Series:
        with own(path).running():
            given = found.values(frames)
            if not isinstance(given, pd.Series):
                kind = type(given).__name__
                raise UserError(f"{path}: claim {found.id!r} gave {kind}; it needs a Series of numbers by run id")
            if unknown := sorted({*map(str, given.index)} - {*frames["runs"]["run_id"]}):
                raise UserError(f"{path}: claim {found.id!r} gave a value for {unknown[0]!r}, which is no run id")
            return given.astype(float)

    return values
