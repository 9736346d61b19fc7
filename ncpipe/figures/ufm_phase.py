"""Figure: phase diagrams of the declared UFMs, optimum and reached solution over a grid of penalties."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading
from ncpipe.figures.drawing.bias_transition import OPTIMUM, TRANSITION, BiasAxis, draw_transition, transition_handles
from ncpipe.figures.drawing.captions import lost
from ncpipe.figures.drawing.runs import Tables, declared_ufms
from ncpipe.records.reading import fits_of
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study
from ncpipe.system.words import plural

KINDS = ("declared",)
Array = NDArray[np.float64]

COLUMN_WIDTH, PANEL_HEIGHT = 2.1, 2.15
SIZES = {"classes": "K", "samples": "n", "dim": "d"}
IN_TITLE = {"activation", "classifier", "loss", "bias", "depth", "solver"}
"""Settings of a model that its label tells."""
SAME = 1e-8
"""Objectives are equal within this much, relative: what counts as a success of a start."""
LEAST_VALUES = 3
ZERO = "#E3E3E3"
THRESHOLD, REACHED, MISSED = "black", "black", style.OKABE_ITO["vermillion"]
SHADES = LinearSegmentedColormap.from_list("fit", mpl.colormaps["YlGnBu"](np.linspace(0.08, 0.62, 256)))
UNKNOWN = LinearSegmentedColormap.from_list("value", mpl.colormaps["Purples"](np.linspace(0.08, 0.62, 256)))
OUTCOMES = {"reached": ("o", REACHED), "unknown": ("o", REACHED), "missed": ("x", MISSED), "below": ("v", MISSED)}
"""Marker and colour of what was reached."""
MARGIN = "margin $t$"
MARK_AREA = 16.0
MARKED_CELLS = 40
"""Along an axis of a map; on finer cells only what was missed is marked."""


@dataclass(frozen=True)
class Phase:
    """One model over the penalties that vary: a panel."""

    title: str
    about: str
    penalties: tuple[str, ...]
    """Names of the one or two axes."""
    fits: pd.DataFrame
    """Rows of ``ufm`` with their place ``x`` and, where two penalties vary, ``y``."""
    ends: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Where the bias's penalty alone varies: rows of ``ufm`` with a free bias and without, all else equal."""

    @property
    def axes(self) -> list[str]:
        """What the axes are called."""
        return [re.sub("(feature|weight)_decay|^bias$", _in_words, name) for name in self.penalties]

    @property
    def known(self) -> bool:
        """There is a closed form."""
        return bool(self.fits["optimum"].notna().all())

    @property
    def of_bias(self) -> bool:
        """The penalty of the bias varies alone."""
        return self.penalties == ("bias",)


def _in_words(setting: re.Match[str]) -> str:
    return f"penalty of the {setting[1] + 's' if setting[1] else 'bias'}"


def applies(study: Study) -> bool:
    """Whether a penalty has three values or more within one model that is solved by L-BFGS."""
    penalties = ("feature_decay", "weight_decay", "bias")
    values: dict[Any, set[Any]] = {}
    for spec in study.problems.values():
        if spec.solver.name == "lbfgs":
            fixed = spec.model_dump_json(exclude={"seed", *penalties})
            model = fixed, spec.model.depth, isinstance(spec.bias, str) and spec.bias
            for name in penalties:
                different = values.setdefault((model, name), set())
                different.add(getattr(spec, name))
                if len(different) >= 3:
                    return True
    return False


def draw(tables: Tables, options: FigureOptions) -> Figure:
    drawn = phases(tables)
    if not drawn:
        return style.empty_figure(options.width, "ufm_phase: no UFM by L-BFGS over three or more values of a penalty")
    columns = style.columns_for(len(drawn), options.width, COLUMN_WIDTH)
    lines = -(-len(drawn) // columns)
    figure = style.new_figure(options.width, lines * PANEL_HEIGHT)
    places = figure.subfigures(lines, columns, squeeze=False).flat  # of one width, with a colour bar or without
    for place, phase in zip(places, drawn):
        if phase.of_bias:
            panel = _draw_bias(place, phase, tables)
        else:
            panel = (_draw_map if len(phase.penalties) == 2 else _draw_curve)(place, phase)
        letters = int(13 * options.width / columns)
        heading(panel, style.wrapped(phase.title, letters), style.shortened(phase.about, letters))
    style.add_legend(figure, _legend(drawn))
    return figure


# --- the models and their penalties ---------------------------------------------------------------


def phases(tables: Tables) -> list[Phase]:
    """The models whose penalties the study varies, in the order of the table; seeds are rows of one model."""
    runs = declared_ufms(tables, "lbfgs").dropna(subset="settings")[["run_id", "label", "settings"]]
    fits = fits_of(tables, kind="declared").merge(runs, on="run_id").dropna(subset=["feature_decay", "weight_decay"])
    texts = [json.dumps(_model(fit), sort_keys=True) for fit in fits.to_dict("records")]
    keys = pd.Series(texts, index=fits.index, dtype=object)
    models = [json.loads(text) for text in dict.fromkeys(texts)]  # few, where the fits may be 100,000
    differing = {name for model in models for name in model if len({str(m.get(name)) for m in models}) > 1}
    groups = {str(key): group for key, group in fits.groupby(keys, sort=False)}
    by_model = [phase for key, group in groups.items() for phase in _split(group, json.loads(key), differing)]
    return [replace(phase, ends=_ends(phase, fits)) if phase.of_bias else phase for phase in by_model]


def _ends(phase: Phase, fits: pd.DataFrame) -> pd.DataFrame:
    """Fits with a free bias and without one that agree with a phase in all but the bias."""
    alike = fits["settings"].map(_all_but_bias).isin(phase.fits["settings"].map(_all_but_bias))
    return fits[alike & fits["bias"].isin(["none", "free"])]


def _all_but_bias(settings: str) -> str:
    return json.dumps({k: v for k, v in json.loads(settings).items() if k not in ("bias", "seed")}, sort_keys=True)


def _model(fit: dict[Hashable, Any]) -> dict[str, Any]:
    """The settings that make a model: all but penalties and seed."""
    settings = json.loads(fit["settings"])
    kept = {k: v for k, v in settings.items() if k not in ("feature_decay", "weight_decay", "bias", "seed")}
    bias = fit["bias"] if fit["bias"] in ("none", "free") else "penalised"
    return kept | {"depth": len(fit["weight_decay"]), "bias": bias}


def _split(fits: pd.DataFrame, model: dict[str, Any], differing: set[str], note: str = "") -> Iterator[Phase]:
    """One panel, or one for each bias penalty where features, weights and bias all vary."""
    places = _places(fits)
    if len(places) > 2:
        for bias, group in fits.groupby(fits["bias"].astype(float)):
            yield from _split(group, model, differing, f" {bias:g}")
    elif max((len(np.unique(values)) for values in places.values()), default=0) >= LEAST_VALUES:
        name = str(fits["label"].iloc[0]).partition(" (L-BFGS)")[0]
        notes = [f" {key}={model[key]}" for key in sorted(differing - IN_TITLE - set(SIZES)) if model.get(key)]
        about = ", ".join(f"{symbol} = {model.get(key)}" for key, symbol in SIZES.items())
        placed = fits.assign(**dict(zip("xy", (10**values for values in places.values()))))
        yield Phase(name + note + "".join(notes), about, tuple(places), placed)


def _places(fits: pd.DataFrame) -> dict[str, Array]:
    """log10 of the penalties that vary, by name; two that vary as one have one place."""
    weights = np.log10(np.stack(fits["weight_decay"].to_list()).astype(float))
    moving = np.ptp(weights, axis=0) > SAME
    which = "" if moving.all() else ", ".join(f"$W_{i + 1}$" for i in np.flatnonzero(moving))
    places = {"feature_decay": np.log10(fits["feature_decay"].to_numpy(float))}
    if moving.any():
        places[f"weight_decay {which}".strip()] = weights[:, moving].mean(axis=1)
    if not fits["bias"].isin(["none", "free"]).any():
        places["bias"] = np.log10(fits["bias"].to_numpy(float))
    varying = {name: values.round(12) for name, values in places.items() if np.ptp(values) > SAME}
    pairs = len(np.unique(np.stack(list(varying.values())), axis=1).T) if varying else 0
    if len(varying) > 1 and all(len(np.unique(values)) == pairs for values in varying.values()):
        equal = np.ptp(list(varying.values()), axis=0).max() < SAME
        name = " =\n".join(varying) if equal else "geometric mean\nof the penalties"
        return {name: np.mean(list(varying.values()), axis=0).round(12)}
    return varying


def threshold(phase: Phase) -> Array | None:
    """(intercept, slopes): log10 zero_threshold as a linear function of the log penalties; None where it is not one.

    Zero becomes optimal where the function is 0. It is linear in every model whose penalties act as a product.
    """
    finite = phase.fits[np.isfinite(phase.fits["zero_threshold"].astype(float))]
    if finite.empty:
        return None
    places = np.log10(finite[list("xy"[: len(phase.penalties)])].to_numpy(float))
    matrix = np.column_stack([np.ones(len(places)), places])
    values = np.log10(finite["zero_threshold"].to_numpy(float))
    plane = np.linalg.lstsq(matrix, values, rcond=None)[0]
    linear = np.allclose(matrix @ plane, values, atol=1e-6) and np.abs(plane[1:]).max() > SAME
    return plane if linear else None


# --- two penalties: a map -------------------------------------------------------------------------


def _draw_map(place: SubFigure, phase: Phase) -> Axes:
    """Cells coloured by the optimum's fit, the threshold of zero, and a mark for what was reached."""
    axes = place.subplots()
    points = _points(phase)
    x, y = np.unique(points["x"]), np.unique(points["y"])
    cells = np.full((len(y), len(x)), np.nan)
    rows, columns = np.searchsorted(y, points["y"]), np.searchsorted(x, points["x"])
    cells[rows, columns] = points["shade"]
    top = np.nanmax(cells) if _shade(phase) == MARGIN else max(1.0, np.nanmax(cells))
    shades = (SHADES if phase.known else UNKNOWN).with_extremes(under=ZERO)
    mesh = axes.pcolormesh(_edges(x), _edges(y), cells, cmap=shades, vmin=1e-9, vmax=top, edgecolors="face", lw=0.1)
    axes.set(xscale="log", yscale="log", xlabel=phase.axes[0], ylabel=phase.axes[1])
    axes.set(xlim=_edges(x)[[0, -1]], ylim=_edges(y)[[0, -1]])
    bar = place.colorbar(mesh, ax=axes, fraction=0.06, pad=0.03, extend="neither")
    bar.ax.set_title(_shade(phase), size=style.SMALL, pad=3)
    bar.outline.set_linewidth(0.4)
    _mark_ranks(axes, phase, points, x, y)
    _draw_threshold(axes, phase)
    _mark_reached(axes, points)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(numticks=5))
        axis.set_minor_formatter(NullFormatter())
    return axes


def _points(phase: Phase) -> pd.DataFrame:
    """One row per place: the optimum, the best run over the seeds, and the share of starts that succeeded."""
    fits = phase.fits.sort_values("value", kind="stable")
    fits["share"] = fits.groupby(["x", "y"])["success_fraction"].transform("mean")
    best = fits.drop_duplicates(["x", "y"])
    shade = best["scale"].astype(float) if phase.known else best["value"] / best["value"].max()
    return best.assign(shade=shade)


def _shade(phase: Phase) -> str:
    if not phase.known:
        return r"$f/\max f$"
    return "fit $x$" if (phase.fits["loss"] == "mse").all() else MARGIN


def _edges(centres: Array) -> Array:
    """Borders of cells about the centres, on a logarithmic axis."""
    logs = np.log10(centres)
    inner = (logs[1:] + logs[:-1]) / 2
    return 10 ** np.concatenate([[2 * logs[0] - inner[0]], inner, [2 * logs[-1] - inner[-1]]])


def _draw_threshold(axes: Axes, phase: Phase) -> None:
    plane = threshold(phase)
    if plane is None:
        return
    (low, high), (bottom, top) = np.log10(axes.get_xlim()), np.log10(axes.get_ylim())
    constant, along, up = plane
    if abs(up) > abs(along) * SAME:
        ends = np.array([[u, -(constant + along * u) / up] for u in (low, high)])
    else:
        ends = np.array([[-constant / along, v] for v in (bottom, top)])
    axes.plot(*(10**ends.T), color=THRESHOLD, linewidth=1.3, zorder=3)


def _mark_ranks(axes: Axes, phase: Phase, points: pd.DataFrame, x: Array, y: Array) -> None:
    """Dotted borders between cells where the optimum changes its rank without becoming zero, and the ranks."""
    ranks = points["rank"].astype(float)
    if not phase.known or ranks[ranks > 0].nunique() < 2:
        return
    table = points.pivot(index="y", columns="x", values="rank").to_numpy(float)
    right, up = _edges(x), _edges(y)
    look: dict[str, Any] = {"color": "black", "linewidth": 1.0, "linestyle": ":", "zorder": 3}
    i, j = np.nonzero(_differ(table[:, :-1], table[:, 1:]))
    axes.vlines(right[j + 1], up[i], up[i + 1], **look)
    i, j = np.nonzero(_differ(table[:-1], table[1:]))
    axes.hlines(up[i + 1], right[j], right[j + 1], **look)
    box = {"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.2}
    for rank in sorted(set(ranks[ranks > 0])):
        middle = points.loc[ranks == rank, ["x", "y"]].apply(np.log10).mean()
        axes.text(
            10 ** middle["x"], 10 ** middle["y"], f"rank {rank:.0f}", ha="center", va="center", size=style.SMALL,
            bbox=box, zorder=6,
        )  # fmt: skip


def _differ(a: Array, b: Array) -> NDArray[np.bool_]:
    return (a * b > 0) & (a != b)


def _mark_reached(axes: Axes, points: pd.DataFrame) -> None:
    kinds = _map_outcomes(points)
    reached = points[kinds == "reached"]
    area = MARK_AREA * reached["share"].clip(lower=0.06).to_numpy(float)
    axes.scatter(reached["x"], reached["y"], area, REACHED, linewidths=0, zorder=4)
    for kind in ("unknown", "below", "missed"):
        marked, (marker, colour) = points[kinds == kind], OUTCOMES[kind]
        face = colour if kind == "missed" else "none"
        axes.plot(marked["x"], marked["y"], marker, color=colour, ms=3.6, mfc=face, mew=0.9, zorder=5)
    for x, y, dead in points.loc[kinds == "missed", ["x", "y", "dead_directions"]].itertuples(index=False):
        axes.annotate(
            f"{dead:.0f}", (x, y), (2.5, -5.5), textcoords="offset points", size=5.5, color=MISSED, zorder=5
        )


def _outcomes(fits: pd.DataFrame) -> pd.Series:
    """'reached', 'missed', 'below' (a value that is only the best known) or 'unknown' (no closed form)."""
    optimum, value = fits["optimum"].astype(float), fits["value"].astype(float)
    below = value < optimum - SAME * optimum.abs()
    kinds = np.select([optimum.isna(), below, fits["missed"].eq(True)], ["unknown", "below", "missed"], "reached")
    return pd.Series(kinds, index=fits.index)


def _map_outcomes(points: pd.DataFrame) -> pd.Series:
    """Outcomes that a map marks: where marks would cover it only what went wrong."""
    kinds = _outcomes(points)
    fine = max(points["x"].nunique(), points["y"].nunique()) > MARKED_CELLS
    return kinds.replace(["reached", "unknown"], "unmarked") if fine else kinds


# --- one penalty: curves --------------------------------------------------------------------------


def _draw_curve(place: SubFigure, phase: Phase) -> Axes:
    """Objective against the penalty, and under it the rank: a line for the optimum, marks for what was reached."""
    upper, lower = place.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    fits = phase.fits.sort_values("x", kind="stable")
    optima, kinds = fits.drop_duplicates("x"), _outcomes(fits)
    live = _live_directions(fits)
    for axes, line, marks in ((upper, optima["optimum"], fits["value"]), (lower, optima["rank"], live)):
        joined = "steps-mid" if axes is lower else "default"
        axes.plot(optima["x"], line.astype(float), color=OPTIMUM, linewidth=1.6, drawstyle=joined)
        _mark_curve(axes, fits["x"], marks.astype(float), kinds)
    plane = threshold(phase)
    if plane is not None:
        for axes in (upper, lower):
            axes.axvline(10 ** (-plane[0] / plane[1]), color=THRESHOLD, linewidth=1.3, zorder=1)
    if not phase.known:
        upper.text(0.03, 0.95, "no closed form", transform=upper.transAxes, va="top", color=style.GREY)
    upper.set(xscale="log", ylabel="objective")
    lower.set(xlabel=phase.axes[0], ylabel="rank", ylim=(-0.4, float(fits["classes"].max()) + 0.4))
    upper.yaxis.set_major_locator(MaxNLocator(4))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return upper


def _draw_bias(place: SubFigure, phase: Phase, tables: Tables) -> Axes:
    """Distances to both frames against the penalty of the bias, and under them the objective."""
    upper, lower = place.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    fits = pd.concat([phase.fits, phase.ends], ignore_index=True)
    axis = BiasAxis.of(fits["bias"])
    fits = fits.assign(x=axis.places(fits["bias"]))
    draw_transition(upper, lower, axis, fits, tables)
    _mark_curve(lower, fits["x"], fits["value"].astype(float), _outcomes(fits))
    return upper


def _live_directions(fits: pd.DataFrame) -> pd.Series:
    """Rank of the reached fit; unknown with a penalised bias, where dead directions are of the centred fit alone."""
    centred = (fits["loss"] != "mse") | (fits["bias"] != "none") | (fits["classifier"] == "etf")
    penalised = ~fits["bias"].isin(["none", "free"])
    return (fits["classes"] - centred - fits["dead_directions"]).astype(float).mask(penalised)


def _mark_curve(axes: Axes, x: pd.Series, y: pd.Series, kinds: pd.Series) -> None:
    for kind, (marker, colour) in OUTCOMES.items():
        marked = (kinds == kind) & y.notna()
        if not marked.any():  # an empty line that is not clipped has no finite extent, and breaks the layout
            continue
        face = "none" if kind in ("unknown", "below") else colour
        axes.plot(x[marked], y[marked], marker, color=colour, mfc=face, ms=3.2, mew=0.9, clip_on=False, zorder=4)


# --- legend and caption ---------------------------------------------------------------------------


def _legend(drawn: list[Phase]) -> Iterator[Artist]:
    maps = [phase for phase in drawn if len(phase.penalties) == 2]
    curves = [phase for phase in drawn if len(phase.penalties) == 1]
    kinds = {kind for phase in maps for kind in _map_outcomes(phase.fits)}
    kinds |= {kind for phase in curves for kind in _outcomes(phase.fits)}
    if any(threshold(phase) is not None for phase in drawn):
        yield Line2D([], [], color=THRESHOLD, linewidth=1.3, label="threshold of the zero solution")
    if any(phase.fits["optimum_is_zero"].eq(True).any() for phase in maps):
        yield Patch(facecolor=ZERO, label="zero is optimal")
    if any(phase.known for phase in curves):
        yield Line2D([], [], color=OPTIMUM, linewidth=1.6, label="optimum")
    if any(phase.of_bias for phase in drawn):
        yield from transition_handles()
    names = {
        "reached": "optimum reached" + ("; area: share of starts" if maps else ""),
        "unknown": "reached",
        "missed": "optimum missed, with dead directions",
        "below": "below the best known value",
    }
    for kind, name in names.items():
        if kind in kinds:
            yield style.mark_handle(name, *OUTCOMES[kind], filled=kind in ("reached", "missed"))


def caption(tables: Tables, options: FigureOptions) -> str:
    drawn = phases(tables)
    runs = sum(len(phase.fits) for phase in drawn)
    return (
        f"{plural(runs, 'UFM')} of {plural(len(drawn), 'model')} by L-BFGS over penalties."
        + (MAPS if any(len(phase.penalties) == 2 for phase in drawn) else "")
        + (CURVES if any(len(phase.penalties) == 1 and not phase.of_bias for phase in drawn) else "")
        + (TRANSITION if any(phase.of_bias for phase in drawn) else "")
        + (NO_CLOSED_FORM if any(not phase.known for phase in drawn) else "")
        + lost(tables, "declared")
    )


MAPS = (
    " Maps: colours are the fit of a class at the optimum (its margin for losses of margins), the line is the"
    " threshold beyond which the zero solution is optimal, both from the closed form; where the optimum changes its"
    " rank there is a dotted line. A dot says that the best start reached the optimum to 1e-8, relative, its area how"
    " many starts did; a cross that none did, with the directions that are dead in the best. Maps of more than"
    f" {MARKED_CELLS} values of a penalty have no dots."
)
CURVES = (
    " Curves: objective, and rank of the fit, of the optimum (line) and as reached (marks; the rank not with a"
    " penalised bias)."
)
NO_CLOSED_FORM = " Where there is no closed form, what was reached stands alone."
