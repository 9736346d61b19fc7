"""The examples of docs/own.md on losses of UFMs print what the page says."""

from __future__ import annotations

import doctest
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/own.md"


def test_the_examples_of_losses_print_what_the_page_says() -> None:
    text = PAGE.read_text(encoding="utf-8").partition("\n## A loss of a UFM\n")[2].partition("\n## ")[0]
    test = doctest.DocTestParser().get_doctest(text.replace("```", ""), {"__name__": "page"}, "docs/own.md", None, 0)
    assert len(test.examples) >= 12
    told: list[str] = []
    flags = doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
    assert doctest.DocTestRunner(optionflags=flags).run(test, out=told.append).failed == 0, "".join(told)
