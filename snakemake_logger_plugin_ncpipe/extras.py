"""Plugins that a command or its profile asks for: one line where they are an extra of ncpipe that is not installed.

Snakemake's own answer is its usage, hundreds of lines. It imports this package before it reads its options.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from importlib.util import find_spec
from os import environ
from pathlib import Path

import yaml

PACKAGES = {
    ("executor", "kubernetes"): "snakemake_executor_plugin_kubernetes",
    ("default-storage-provider", "s3"): "snakemake_storage_plugin_s3",
}
"""Plugins that are extras, called as these, by option and value."""


def require_extras(arguments: Sequence[str]) -> None:
    """Exit with the remedy where an option, or a profile, names a plugin that is missing."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--profile", nargs="*", default=environ.get("SNAKEMAKE_PROFILE", "").split())
    parser.add_argument("--executor", "-e")
    parser.add_argument("--default-storage-provider")
    asked, _ = parser.parse_known_args(list(arguments))
    options = {name.replace("_", "-"): value for name, value in vars(asked).items() if value and name != "profile"}
    files = [Path(name) / "config.yaml" for name in asked.profile]
    for profile in (yaml.safe_load(file.read_text(encoding="utf-8")) for file in files if file.is_file()):
        options = (profile or {}) | options
    for (option, value), package in PACKAGES.items():
        if options.get(option) == value and find_spec(package) is None:
            sys.exit(f"{option}: {value} needs {package.replace('_', '-')}: pip install 'ncpipe[{value}]'")
