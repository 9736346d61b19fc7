"""Data sets, one a file: published size, where the files are, and how they are read."""

from typing import Any

from ncpipe.settings.registry import Registry

DATASETS: Registry[Any] = Registry(__name__, "DATASET")
"""Each a ``ncpipe.data.source.DataSet``."""
