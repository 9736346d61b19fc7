"""The style of the code, where no checker has a rule for it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [path for path in sorted((ROOT / "ncpipe").rglob("*.py")) if "workflow" not in path.parts]
LONGEST = 50
"""Lines of a function with its docstring."""


def test_functions_fit_on_a_screen_and_docstrings_have_a_noun() -> None:
    long, nameless = {}, []
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef) or "triton.jit" in map(ast.unparse, node.decorator_list):
                continue  # a kernel cannot be divided
            if (node.end_lineno or 0) - node.lineno >= LONGEST:
                long[f"{path.relative_to(ROOT)}: {node.name}"] = (node.end_lineno or 0) - node.lineno + 1
        nameless += re.findall(r'^\s*r?"""(?:Of|And|The same of) .*', text, flags=re.MULTILINE)
    assert (long, nameless) == ({}, [])
