"""``python -m fuzz``, from ``make fuzz``: all cases of all surfaces, and the table of their outcomes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from fuzz.runner import main
from fuzz.surfaces import SURFACES

if __name__ == "__main__":
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases; 1: all")
    parser.add_argument("--surface", default="", help="only surfaces with this in their name")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ncpipe-fuzz-") as folder:
        sys.exit(main(SURFACES, options.share, Path(folder), options.surface))
