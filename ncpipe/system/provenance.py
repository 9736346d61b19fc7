"""Where a result comes from: code, packages and hardware that made it."""

from __future__ import annotations

import hashlib
import json
import platform
import shlex
import subprocess
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Origin = dict[str, Any]
"""Names and values as ``origin`` gives them, flat, so that two can be put side by side."""

PACKAGES = (
    "torch",
    "torchvision",
    "torchmetrics",
    "numpy",
    "scipy",
    "scikit-learn",
    "pandas",
    "pyarrow",
    "safetensors",
    "pillow",
    "timm",
    "snakemake",
)
"""Packages that have a part in the numbers or in what is run."""
CODE = ("ncpipe", "commit", "changes")
HARDWARE = ("os", "cpu", "threads", "gpu")
"""Entries of an origin by what they tell of; all others are packages."""


def git_commit() -> str:
    """Commit of the working tree ncpipe is imported from, with ``+dirty`` for changed files; else ``unknown``."""
    commit, changes = git_state()
    return f"{commit}+dirty" if changes else commit


@cache
def git_state() -> tuple[str, str | None]:
    """Commit of the working tree, and 16 hex digits of the SHA-256 of what ``git diff`` says of changed files.

    ``("unknown", None)`` where ncpipe is installed, also into a folder that another project tracks.
    """
    here = Path(__file__).resolve()
    try:
        _git(here, "ls-files", "--error-unmatch", here.name)
        commit = _git(here, "rev-parse", "HEAD").decode().strip()
        changes = _git(here, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv", "--no-color")
    except (OSError, subprocess.SubprocessError):
        return "unknown", None
    return commit, hashlib.sha256(changes).hexdigest()[:16] if changes else None


def _git(here: Path, *arguments: str) -> bytes:
    command = ["git", "-C", str(here.parent), *arguments]
    return subprocess.run(command, capture_output=True, check=True, timeout=60).stdout


@cache
def _versions() -> Origin:
    found: Origin = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def processor() -> str:
    """Model of the CPU as Linux names it, or as Python does elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def origin(device: Any = None) -> Origin:
    """Code, packages and hardware of this process: equal for equal surroundings, without clock, host or user.

    Args:
        device: the ``torch.device`` that computed; None: the CPU did.

    Returns:
        'ncpipe' (version), 'commit' and, with changed files, 'changes' (their digest); 'python' and ``PACKAGES``
        that are there; 'os', 'cpu', 'threads' and 'gpu'. Settings and seeds stand in the spec beside it.
    """
    import torch

    import ncpipe

    commit, changes = git_state()
    code = {"ncpipe": ncpipe.__version__, "commit": commit} | ({"changes": changes} if changes else {})
    machine = {"os": platform.platform(), "cpu": processor(), "threads": torch.get_num_threads()}
    if device is not None and device.type == "cuda":
        machine["gpu"] = torch.cuda.get_device_name(device.index or 0)
    return code | _versions() | machine


def key(found: Origin) -> str:
    """8 hex digits by which tables name an origin."""
    return hashlib.sha256(in_json(found).encode()).hexdigest()[:8]


def in_json(found: Origin) -> str:
    """JSON, as file metadata hold it under ``provenance``."""
    return json.dumps(found, sort_keys=True)


def from_metadata(metadata: dict[bytes, bytes] | None) -> Origin | None:
    """The origin in the metadata of a Parquet file; None of a file that was written before they were kept."""
    text = (metadata or {}).get(b"provenance")
    return None if text is None else json.loads(text)


def summary(origins: Iterable[Origin]) -> dict[str, str]:
    """Every entry of several origins as one text: its values in order of appearance, with commas."""
    found: dict[str, dict[str, None]] = {}
    for each in origins:
        for name, value in each.items():
            found.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def study_command(results: Path) -> str:
    """The command that runs the whole study again from the config in its results folder."""
    return f"snakemake --cores all --configfile {shlex.quote(str(results / 'study.json'))}"


def run_command(results: Path, run_id: str) -> str:
    """The command that makes one run again, and compares."""
    return f"ncpipe reproduce {shlex.quote(str(results / run_id))}"
