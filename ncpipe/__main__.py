"""Entrance of the ``ncpipe`` command: says what to install where only the light library is there."""

import os
import sys


def main() -> None:
    if os.environ.get("NCPIPE_JOB_SERVER"):
        from ncpipe.job_server.client import hand_over

        hand_over()
    # MKL then gives a product the same bits wherever its factors lie in memory, so that a run does not depend on
    # what it is batched with. It is read at the first product.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    # A thread of libgomp that waits for others sleeps after some 50 microseconds, not after milliseconds: where other
    # processes are busy, those are not running. It is what libgomp takes where it has more threads than cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    try:
        from ncpipe.cli.main import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"ncpipe: the command line needs {error.name}: pip install 'ncpipe[pipeline]'")
    run()


if __name__ == "__main__":
    main()
