"""All surfaces, in the order of the table."""

from __future__ import annotations

from fuzz import test_config, test_data_files
from fuzz.runner import Surface

SURFACES: tuple[Surface, ...] = (*test_config.SURFACES, test_config.SNAKEMAKE, *test_data_files.SURFACES)
