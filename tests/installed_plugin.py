"""A package with plugins as if it were installed, for tests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ncpipe.settings.registry import Registry


@contextmanager
def installed(folder: Path, registry: Registry, entry: str, code: str) -> Iterator[None]:
    """A package ``owls`` of this code, with an entry point such as ``owl = owls:Owl`` for the registry."""
    information = folder / "owls-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: owls\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{registry.package}]\n{entry}\n")
    (folder / "owls.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        before = vars(registry).pop("_places", None)
        yield
    vars(registry).pop("_places", None)
    if before is not None:
        vars(registry)["_places"] = before
    sys.modules.pop("owls", None)
