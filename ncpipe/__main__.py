"""Entrance of the ``ncpipe`` command: says what to install where only the light library is there."""

import os
import sys


def main() -> None:
    if os.environ.get("NCPIPE_JOB_SERVER"):
        from ncpipe.job_server.client import hand_over

        hand_over()
    from ncpipe.system.process import configure_libraries

    configure_libraries()
    try:
        from ncpipe.cli.main import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"ncpipe: the command line needs {error.name}: pip install 'ncpipe[pipeline]'")
    run()


if __name__ == "__main__":
    main()
