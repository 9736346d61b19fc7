"""``python -m ncpipe``."""

from ncpipe.cli import main

main()
