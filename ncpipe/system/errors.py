"""The one exception whose message is shown to the user as a single line, without a traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 1000
"""Characters of a message: it may hold what a user or a file gave."""


class UserError(Exception):
    """A mistake the user can mend: the message names the thing and the remedy, in one line.

    What a terminal cannot show of it (control characters, halves of surrogate pairs) is escaped; what is too long is
    cut.
    """

    def __init__(self, message: str) -> None:
        cut = message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} ... {message[-LONGEST // 3 :]}"
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut))


@contextmanager
def in_a_line() -> Iterator[None]:
    """End this process with the message of a ``UserError`` that is raised within."""
    try:
        yield
    except UserError as error:
        sys.exit(f"ncpipe: {error}")
