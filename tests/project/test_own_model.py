"""The example of docs/own.md for one call of a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/own.md"


def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    section = PAGE.read_text(encoding="utf-8").split("\n## One call for a model\n")[1].split("\n## ")[0]
    [example] = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    space: dict[str, Any] = {}
    exec(compile(example, "docs/own.md", "exec"), space)
    assert capsys.readouterr().out.startswith("['0', '1', '2', '3', 'features']\n")
    assert space["test_row"]["features"]["nc1_pinv_train_means"] > 0
