"""The entrance of the command line: all commands, and how their errors are told."""

from __future__ import annotations

import errno
import os
import sys

from ncpipe.cli import arrays, recording, stages, studies
from ncpipe.cli.app import app
from ncpipe.system.errors import UserError
from ncpipe.system.files import unwritable

__all__ = ["app", "arrays", "main", "recording", "stages", "studies"]


def main() -> None:
    """Run the command; a user's mistake is one line and exit code 1, a traceback only with NCPIPE_TRACEBACK=1."""
    try:
        app()
    except UserError as error:
        if os.environ.get("NCPIPE_TRACEBACK") == "1":
            raise
        sys.exit(f"ncpipe: {error}")
    except SystemExit as stop:
        if message := getattr(stop, "message", None):  # a job that was told to stop, and has saved
            print(f"ncpipe: {message}", file=sys.stderr, flush=True)
        raise
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            sys.exit(f"ncpipe: no file has a name as long as {str(error.filename)[:40]!r}...")
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        sys.exit(f"ncpipe: {unwritable(error.filename, error)}")
