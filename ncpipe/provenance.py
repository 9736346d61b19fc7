"""Where a result comes from: the code and the versions that made it."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git_commit() -> str:
    """Commit of the working tree ncpipe is imported from, with ``+dirty`` for changed files; else ``unknown``."""
    here = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty=+dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
