"""Lists of names and numbered nouns."""

from __future__ import annotations

from ncpipe.system.words import joined, listed, plural


def test_names_past_the_most_are_counted():
    assert listed("abc") == "a, b, c"
    assert listed([1, 2, 3, 4], 2) == "1, 2 and 2 more"
    assert listed([]) == ""


def test_the_last_of_several_is_joined_by_and():
    assert [joined("abc"[:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]


def test_nouns_follow_their_number():
    assert (plural(1, "run"), plural(12_000, "run"), plural(1200, "quantity")) == (
        "1 run",
        "12,000 runs",
        "1,200 quantities",
    )
