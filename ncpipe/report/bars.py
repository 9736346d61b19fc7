"""Intervals of claims as small drawings: where the runs lie, and on which side of the threshold."""

from __future__ import annotations

import math

from markupsafe import Markup

from ncpipe.claims.evidence.wording import Row, needs, number, span

WIDTH, HEIGHT, MARGIN = 150, 16, 6
BARS = {"range": ("low", "high", 2), "interval": ("interval_low", "interval_high", 7)}
"""Ends and height of the bars."""


def bar(claim: Row) -> Markup:
    """SVG of a claim on a linear axis of its own; empty for a claim that no run speaks of.

    The side that it needs is shaded, the threshold a line, the range of the runs a thin bar, the interval a thick
    one, the effect a dot.
    """
    given = {name: claim[name] for name in ("threshold", "effect", "low", "high", "interval_low", "interval_high")}
    values = {name: value for name, value in given.items() if value is not None and math.isfinite(value)}
    if "effect" not in values:
        return Markup()
    low, high = min(values.values()), max(values.values())
    unit = (WIDTH - 2 * MARGIN) / ((high - low) or 1.0)
    at = {name: round(MARGIN + (value - low) * unit, 1) for name, value in values.items()}
    left, right = (0.0, at["threshold"]) if claim["direction"] == "below" else (at["threshold"], float(WIDTH))
    about = "effect {}, interval {}, range of runs {}, needs {}".format(
        number(claim["effect"]),
        span(claim["interval_low"], claim["interval_high"]),
        span(claim["low"], claim["high"]),
        needs(claim),
    )
    return Markup('<svg class="bar {}" viewBox="0 0 {} {}" role="img"><title>{}</title>{}{}{}{}</svg>').format(
        claim["verdict"],
        WIDTH,
        HEIGHT,
        about,
        _box("side", left, right, HEIGHT),
        _box("threshold", at["threshold"] - 0.75, at["threshold"] + 0.75, HEIGHT),
        Markup().join(
            _box(name, at[start], at[end], height)
            for name, (start, end, height) in BARS.items()
            if {start, end} <= at.keys()
        ),
        Markup('<circle cx="{}" cy="{}" r="3.5"/>').format(at["effect"], HEIGHT / 2),
    )


def _box(name: str, left: float, right: float, height: int) -> Markup:
    """A rectangle at half the height, as wide as a hair at least."""
    wide = max(right - left, 1.0)
    return Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}"/>').format(
        name, round(left, 1), (HEIGHT - height) / 2, wide, height
    )
