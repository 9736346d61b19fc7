"""Words of messages: lists of names, and nouns with their number."""

from __future__ import annotations

from collections.abc import Sequence


def listed(names: Sequence[object], most: int = 6) -> str:
    """'a, b, c'; of more than ``most`` names the first ones: 'a, b and 3 more'."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + rest


def joined(parts: Sequence[str]) -> str:
    """'a', 'a and b', 'a, b and c'."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def plural(count: int, noun: str) -> str:
    """'1 run', '12,000 runs'."""
    nouns = f"{noun[:-1]}ies" if noun.endswith("ty") else f"{noun}s"
    return f"{count:,} {noun if count == 1 else nouns}"
