"""Figure: error of the models' predictions of networks against the networks' distance from stationarity."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ncpipe.claims.evidence.misfits import guessed_classifier
from ncpipe.claims.evidence.selectors import BARE, NORMED, ONE_BELOW, batch_norms
from ncpipe.figures.drawing import style
from ncpipe.figures.drawing.axes import heading, scale_values
from ncpipe.figures.drawing.captions import counted, lost, not_drawn
from ncpipe.figures.drawing.runs import Tables, few, networks
from ncpipe.figures.drawing.series import measured
from ncpipe.figures.drawing.style import Look
from ncpipe.study.config import FigureOptions
from ncpipe.study.study import Study

KINDS = ("network",)
SPLIT = "full_batch"
"""BatchNorm has the statistics of all training images: the function that theory speaks of."""
PREMISE, GAP = "stationarity", "objective_gap"
FRAMES = ("nc2_means_of", "nc2_means_uncentred_etf", "nc2_weights_of", "nc2_weights_etf")
OTHER_NORMS = "other networks"
COLUMNS = {
    NORMED: "BatchNorm below the head",
    ONE_BELOW: "BatchNorm one layer below",
    BARE: "no BatchNorm",
    OTHER_NORMS: OTHER_NORMS,
}
ROWS = {"frames": "error of the predicted frames", GAP: "objective above that predicted"}
HEADS = {
    ("mse", "no"): ("MSE, no bias", style.OKABE_ITO["blue"]),
    ("mse", "yes"): ("MSE, bias", style.OKABE_ITO["green"]),
    ("ce", "no"): ("CE, no bias", style.OKABE_ITO["purple"]),
    ("ce", "yes"): ("CE, bias", style.OKABE_ITO["vermillion"]),
}
OTHER = ("other losses", style.GREY)
PLAIN = Look(style.GREY, (0, (2, 1)), "o")
HEIGHT, NARROW = 1.75, 4.5


def applies(study: Study) -> bool:
    return bool(study.networks) and "full_batch" in study.config.measure.splits


def draw(tables: Tables, options: FigureOptions) -> Figure:
    rows = paths(tables, few(networks(tables)))
    rows = rows[(rows["time"] > 0) & rows[PREMISE].notna()]
    if rows.empty:
        return style.empty_figure(options.width, f"stationarity: no network is measured in the split {SPLIT}")
    columns = [norm for norm in COLUMNS if norm in set(rows["norm"])]
    lines = [name for name in ROWS if rows[name].notna().any()]
    places = [
        (name, norm) for name in lines for norm in columns if rows.loc[rows["norm"] == norm, name].notna().any()
    ]
    across = 1 if options.width < NARROW else len(lines) if len(columns) == 1 else len(columns)
    down = len(places) if across == 1 else 1 if len(columns) == 1 else len(lines)
    figure = style.new_figure(options.width, HEIGHT * down + 0.5)
    grid = figure.subplots(down, across, squeeze=False)
    for number, (name, norm) in enumerate(places):
        alone = across == 1 or len(columns) == 1
        axes = grid.flat[number] if alone else grid[lines.index(name), columns.index(norm)]
        _draw_paths(axes, rows[rows["norm"] == norm], name)
        scale_values(axes, "x", [rows[PREMISE].to_numpy()])
        scale_values(axes, "y", [rows[name].to_numpy()])
        axes.invert_xaxis()
        if alone or (lines[-1], norm) not in places or name == lines[-1]:
            axes.set_xlabel(r"distance from stationarity, $|\nabla f|\,/\,|\Lambda\theta|$")
        if alone or norm == columns[0]:
            heading(axes, "", ROWS[name])
        if alone or name == lines[0]:
            axes.annotate(COLUMNS[norm], (0, 1), (0, 20), "axes fraction", textcoords="offset points", weight="bold")
    for axes in grid.flatten():
        if not axes.has_data():
            axes.remove()
    style.add_legend(figure, _legend(rows))
    return figure


def paths(tables: Tables, nets: pd.DataFrame) -> pd.DataFrame:
    """A row for every network and time: ``run_id``, ``time``, ``norm`` (where its last BatchNorm stands), ``head``
    (loss and bias), ``stationarity``, ``objective_gap``; ``frames``, root mean square of the distances of means and
    classifier from the frames that the extended and the non-negative UFM have, ``plain``, from those of the plain
    UFM where it has others; and ``epochs``, the last of SGD."""
    rows = measured(tables, nets, (PREMISE, GAP, *FRAMES), split=SPLIT)
    wide = rows.pivot_table(index=["run_id", "time"], columns="metric", values="value").reset_index()
    wide = wide.reindex(columns=["run_id", "time", PREMISE, GAP, *FRAMES])
    runs = nets.set_index("run_id").reindex(wide["run_id"]).reset_index()
    heads = pd.Series([*zip(runs["loss"], runs["bias"])], dtype=object)
    norms = batch_norms(tables).reindex(wide["run_id"]).reset_index(drop=True)
    etf = guessed_classifier(runs).to_numpy() == "etf"
    weights = np.where(etf, wide["nc2_weights_etf"], wide["nc2_weights_of"])
    return wide.assign(
        epochs=runs["epochs"],
        head=heads,
        norm=norms.fillna(OTHER_NORMS),
        frames=_rms(wide["nc2_means_of"], weights),
        plain=np.where(etf, _rms(wide["nc2_means_uncentred_etf"], weights), np.nan),
    )


def _rms(a: pd.Series, b: np.ndarray) -> np.ndarray:
    return np.sqrt((a.to_numpy(float) ** 2 + b.astype(float) ** 2) / 2)


def _draw_paths(axes: Axes, rows: pd.DataFrame, name: str) -> None:
    """A path for every network, from the first measured epoch to the end of the end phase, where there is one."""
    for _, path in rows.dropna(subset=name).groupby("run_id", sort=False):
        colour, path = HEADS.get(path["head"].iloc[0], OTHER)[1], path.sort_values("time")
        if name == "frames" and path["plain"].notna().any():
            axes.plot(path[PREMISE], path["plain"], color=colour, linestyle=PLAIN.line, linewidth=0.6, alpha=0.5)
        axes.plot(path[PREMISE], path[name], color=colour, linewidth=0.7, alpha=0.7)
        trained, end = path[path["time"] <= path["epochs"]].tail(1), path.tail(1)
        axes.plot(trained[PREMISE], trained[name], "o", color=colour, mfc="white", ms=3.5, mew=0.8, zorder=4)
        axes.plot(end[PREMISE], end[name], "s", color=colour, ms=3.5, zorder=5)


def _legend(rows: pd.DataFrame) -> Iterator[Artist]:
    heads = set(rows["head"])
    drawn = [look for head, look in HEADS.items() if head in heads] + [OTHER] * bool(heads - HEADS.keys())
    yield from (style.line_handle(name, Look(colour, "-", "o")) for name, colour in drawn)
    if rows["plain"].notna().any():
        yield style.line_handle("plain UFM", PLAIN)
    yield style.mark_handle("last epoch of SGD", "o", filled=False)
    yield style.mark_handle("end", "s")


def caption(tables: Tables, options: FigureOptions) -> str:
    nets = networks(tables)
    return (
        f"How wrong the models are of {counted(nets, 'network')}, against how far these are from a stationary point"
        " of the penalised loss over all training images (norm of its gradient over that of the weight decay's)."
        " Training goes to the right, a path each. Top: root mean square of the distances of the class means from an"
        " orthogonal frame, which the ReLU extended and the non-negative UFM predict, and of the classifier from its"
        " own, an orthogonal frame with squared error and no bias, else a simplex ETF; dashed, where it differs, from"
        " the frames of the plain UFM. Bottom: objective above the optimum that follows from the weight decay alone,"
        f" where the derivation holds.{not_drawn(nets)}{lost(tables, 'network')}"
    )
