"""What the surfaces share: nasty values, and changes of trees, texts and bytes that were right."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

TRICKS = (
    "", " ", ".", "..", "/", "../x", "../../../../etc/passwd", "/etc/passwd", "/dev/null", "/dev/zero",
    "/proc/self/mem", "~",
    "~/x", "~nobody-of-that-name/x", "$HOME", "$(touch x)", "`touch x`", "; rm -rf x", "| sh", "&& touch x",
    "a b", "-rf",
    "--help", "a\nb", "a\rb", "a\tb", "a\x00b", "\x1b[31mred", "a\x85b", "a\u2028b", "{run}", "{{x}}",
    "{0.__class__}", "%s%n",
    "a'b", 'a"b', "a\\b", "*", "[", "[!", "?" * 50, "**/*", "con", "a/b/c", "./a/../b", "a/./b", "x" * 256,
    "x" * 5000,
    "x/" * 3000, "\ud800", "\udfff", "\u202egnp.exe", "עברית", "日本語", "é" * 200, "🙂", "e\u0301", "\ufeff",
    "null", "true", "1e400", "nan", "0x10", "1_000", "__use_yte__", "__proto__", "seed.", ".", "a..b", "a." * 400,
    "model.name.x", "<script>alert(1)</script>", "' OR 1=1 --", "!!python/object/apply:os.system ['touch x']",
)  # fmt: skip
NUMBERS = (
    0, 1, -1, 2, 3, 7, 10, 255, 256, 1000, 10**6, 10**9, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**30, 10**308, 10**400, 0.0, -0.0, 0.5, 1.5, -1e-3, 1e-300, 5e-324, 1e15, 1e16, 1e308, -1e308,
    math.inf, -math.inf, math.nan,
)  # fmt: skip

texts = st.one_of(st.sampled_from(TRICKS), st.text(max_size=20), st.text(st.characters(), max_size=5))
numbers = st.one_of(st.sampled_from(NUMBERS), st.integers(), st.floats(allow_subnormal=False))
scalars = st.one_of(st.none(), st.booleans(), numbers, texts)
keys = st.one_of(texts, st.integers(-5, 5), st.sampled_from(["name", "seed", "base", "sweep", "grid"]))
nasty = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=3), max_leaves=6
)
"""Anything that YAML and JSON can say."""


@st.composite
def mutated(draw: st.DrawFn, trees: Sequence[Mapping[str, Any]], most: int = 3) -> Any:
    """One of the trees, with one to ``most`` changes at places anywhere in it."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
    for _ in range(draw(st.integers(1, most))):
        places = list(_places(tree))
        parent, key = draw(st.sampled_from(places))
        change = draw(
            st.sampled_from(("replace", "replace", "replace", "drop", "add", "wrap", "grow", "swap", "rename"))
        )
        _change(draw, parent, key, change, places)
    return tree


def _places(node: Any) -> Any:
    """Every (container, key) of a tree."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield node, key
        yield from _places(value)


def _change(draw: st.DrawFn, parent: Any, key: Any, change: str, places: list[tuple[Any, Any]]) -> None:
    if (isinstance(parent, list) and key >= len(parent)) or (isinstance(parent, dict) and key not in parent):
        return  # dropped by an earlier change
    if change == "drop":
        del parent[key]
    elif change == "add" and isinstance(parent, dict):
        parent[draw(keys)] = draw(nasty)
    elif change == "wrap":
        parent[key] = [parent[key]] if draw(st.booleans()) else {"base": parent[key]}
    elif change == "grow":
        parent[key] = [copy.deepcopy(parent[key])] * draw(st.sampled_from((0, 2, 30)))
    elif change == "swap":
        other, name = draw(st.sampled_from(places))
        if (isinstance(other, dict) and name in other) or (isinstance(other, list) and name < len(other)):
            parent[key] = copy.deepcopy(other[name])
    elif change == "rename" and isinstance(parent, dict):
        parent[draw(keys)] = parent.pop(key)
    else:
        parent[key] = draw(nasty)


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """The bytes cut, with some of them changed, with rubbish between, or nothing but rubbish."""
    kind = draw(st.sampled_from(("cut", "flip", "flip", "insert", "zeros", "rubbish", "empty", "twice", "header")))
    place = draw(st.integers(0, max(0, len(content) - 1)))
    if kind == "cut":
        return content[:place]
    if kind == "flip":
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 8))):
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
        return bytes(changed)
    if kind == "header":  # lengths and types stand at the beginning
        changed = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            changed[draw(st.integers(0, min(len(changed), 64) - 1))] = draw(st.sampled_from((0, 1, 127, 128, 255)))
        return bytes(changed)
    if kind == "insert":
        return content[:place] + draw(st.binary(min_size=1, max_size=20)) + content[place:]
    if kind == "zeros":
        return content[:place] + bytes(len(content) - place)
    return {"rubbish": draw(st.binary(max_size=200)), "empty": b"", "twice": content + content}[kind]
