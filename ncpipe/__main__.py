"""Entrance of the ``ncpipe`` command: says what to install where only the light library is there."""

import sys


def main() -> None:
    try:
        from ncpipe.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"ncpipe: the command line needs {error.name}: pip install 'ncpipe[pipeline]'")
    run()


if __name__ == "__main__":
    main()
