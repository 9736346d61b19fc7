"""Modules of a user's own, as another installed package has them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from ncpipe.settings.registry import Registry


def install(
    registry: Registry[Any],
    name: str,
    source: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    attribute: str = "",
) -> None:
    """Install a package with one plugin of the registry in a folder, for the length of the test."""
    assert name not in registry  # and what there is without it is known again afterwards
    module = f"users_{name}"
    installed = folder / f"{module}-1.0.dist-info"
    installed.mkdir(parents=True)
    (folder / f"{module}.py").write_text(source, encoding="utf-8")
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[{registry.package}]\n{name} = {module}{attribute}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(vars(registry), "_places")
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.delitem(sys.modules, module, raising=False)
