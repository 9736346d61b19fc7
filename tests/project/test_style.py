"""The style of the code, where no checker has a rule for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [path for path in sorted((ROOT / "ncpipe").rglob("*.py")) if "workflow" not in path.parts]
LONGEST = 50
"""Lines of a function with its docstring."""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_fit_on_a_screen_and_docstrings_have_a_noun(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]
    lengths = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert re.findall(r'^\s*r?"""(?:Of|And|The same of) .*', text, flags=re.MULTILINE) == []
