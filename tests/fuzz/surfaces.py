"""All surfaces, in the order of the table."""

from __future__ import annotations

from fuzz import test_command_line, test_config, test_data_files, test_tables
from fuzz.runner import Surface

SURFACES: tuple[Surface, ...] = (
    *test_config.SURFACES,
    test_config.SNAKEMAKE,
    *test_command_line.SURFACES,
    *test_data_files.SURFACES,
    *test_tables.SURFACES,
)
