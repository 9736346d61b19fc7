"""How many cases are tried of those that are drawn: all where the dear tests run too, else a quarter."""

from __future__ import annotations

share = 1.0
"""Set by ``pytest_configure`` in conftest.py, before any test is collected."""


def cases(thorough: int) -> int:
    """Of so many in a thorough run."""
    return max(1, round(share * thorough))
