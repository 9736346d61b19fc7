"""The data sets by name."""

from typing import Any

from ncpipe.settings.registry import Registry

DATASETS: Registry[Any] = Registry("ncpipe.data.sets", "DATASET")
"""Each a ``ncpipe.data.source.DataSet``. Not beside the sets, whose modules read the settings of data sets."""
