"""Results of a clock that was set back since: Snakemake would refuse what is made from files of the future."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from itertools import chain
from pathlib import Path


def bring_back(results: Path) -> None:
    """Date what is from the future to now, in its order, and say so in one line.

    Files are written beside their place and renamed, which dates their folder: only where one of the folders of
    results, or of their stages and runs, is from the future is everything looked at.
    """
    now = time.time_ns()
    if not any(_time(path) > now for path in chain([results], results.glob("*/"), results.glob("*/*/"))):
        return
    future = {path: moment for path in chain([results], results.rglob("*")) if (moment := _time(path)) > now}
    latest_first = sorted(set(future.values()), reverse=True)
    dated = {moment: now - 1000 * place for place, moment in enumerate(latest_first)}  # a microsecond apart
    for path, moment in future.items():
        with suppress(PermissionError):  # of another user; Snakemake names it where it matters
            os.utime(path, ns=(dated[moment], dated[moment]), follow_symlinks=False)
    what = f"ncpipe: {len(future)} files and folders of {results} were from the future"
    print(f"{what}, as where the clock was set back: they are dated to now", file=sys.stderr, flush=True)


def _time(path: Path) -> int:
    try:
        return path.lstat().st_mtime_ns
    except FileNotFoundError:  # a temporary file of a job that lives on
        return 0
