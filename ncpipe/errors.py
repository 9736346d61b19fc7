"""The one exception whose message is shown to the user as a single line, without a traceback."""


class UserError(Exception):
    """A mistake the user can mend: the message names the thing and the remedy, in one line."""
