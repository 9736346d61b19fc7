"""Figures one by one: what they draw from tables in which the answer is known; scales and looks; the command."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from pydantic import ValidationError
from synthetic_tables import GRID, MISSED, SAMPLES, TWENTY, MadeUp
from typer.testing import CliRunner

from ncpipe.claims.evidence.curves import curve_distances
from ncpipe.cli.main import app
from ncpipe.figures import caption, draw, save_figure
from ncpipe.figures.collapse_depth import whole_rows
from ncpipe.figures.drawing.axes import scale_time, scale_values
from ncpipe.figures.drawing.bias_transition import closed_form, regime_change
from ncpipe.figures.drawing.definitions import at_other_frame, definition
from ncpipe.figures.drawing.series import Band, at_shared_times
from ncpipe.figures.drawing.style import (
    LINE,
    OKABE_ITO,
    PAGE_HEIGHT,
    fix_layout,
    looks,
    name_lines,
    panel_figure,
    shared_words,
    shortened,
    style,
    without_words,
    wrapped,
)
from ncpipe.figures.level_curves import spread_levels, varied
from ncpipe.figures.matched_sweep import sweeps
from ncpipe.figures.predictions import errors
from ncpipe.figures.training_curves import learning_rate_drops
from ncpipe.figures.ufm_phase import phases, threshold
from ncpipe.records.reading import read_tables
from ncpipe.records.schemas import TABLES
from ncpipe.study.config import FIGURES, FigureOptions
from ncpipe.system.errors import UserError
from ncpipe.ufm import Problem, snr_law
from ncpipe.ufm.misfit import frames_apart


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def with_predictions(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The plain matched models of the tables called models with nothing matched."""
    fits = tables["ufm"].copy()
    fits["model"] = fits["model"].astype(object).where(
        (fits["kind"] != "matched") | (fits["model"] != "plain"), "predicted"
    )  # fmt: skip
    return {**tables, "ufm": fits}


@pytest.mark.parametrize("name", ["matched_ufm", "gram_heatmaps", "matched_sweep"])
def test_models_with_nothing_matched_are_drawn(studies, name):
    tables = with_predictions(studies["weight decays"])
    shown = texts(draw(tables, FigureOptions(name=name)))
    if name == "matched_ufm":
        assert "predicted" in shown
        assert "matched extended" in shown
        assert "matched plain" not in shown


def test_stationarity_is_drawn_along_the_run(studies):
    tables = studies["ordinary"]
    rows = tables["collapse"].query("split == 'train' and layer == 'features'")
    rows = rows.astype({"metric": object, "split": object}).assign(split="full_batch")
    means = rows[rows["metric"] == "nc2_means_of"]
    parts = [rows, *(means.assign(metric=name) for name in ("stationarity", "objective_gap"))]
    figure = draw({**tables, "collapse": pd.concat(parts)}, FigureOptions(name="stationarity"))
    assert len(figure.axes) == 2
    assert all(len(axes.lines) >= 3 for axes in figure.axes)
    assert figure.axes[0].xaxis_inverted()
    assert all(name in texts(figure) for name in ("last epoch of SGD", "plain UFM", "BatchNorm below the head"))


def titles(figure: Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_predictions_are_beside_what_is_measured(tmp_path):
    tables = with_predictions(read_tables(MadeUp(prediction=1.25, seeds=3).write(tmp_path)))
    figure = draw(tables, FigureOptions(name="predictions"))
    panels = ["$|W|$\nerror, %", "$|H|$\nerror, %", "class means\ndistance", "classifier\ndistance"]
    assert titles(figure) == panels  # without those of which nothing is known
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["MSE no bias", "CE bias"]
    assert errors(tables)["weight_norm"].tolist() == pytest.approx([-20] * 6)
    means = [float(line.get_xdata()[0]) for line in figure.axes[0].lines if line.get_marker() == "^"]
    assert means == pytest.approx([-20, -20])
    assert "All networks are mlp." in caption(tables, FigureOptions(name="predictions"))


def test_predictions_of_two_levels_have_panels_of_the_layer_below(studies):
    tables = with_predictions(studies["ordinary"])
    fits = tables["ufm"]
    deep = fits["network_id"].eq("mlp CE bias-0") & fits["model"].eq("predicted")
    fits["model"] = fits["model"].mask(deep, "predicted_extended")
    sizes = {"measured_hidden_norm": 3.0, "predicted_hidden_norm": 2.0}
    grams = {"measured_hidden_gram": np.eye(4).ravel(), "predicted_hidden_gram": 2 * np.eye(4).ravel()}
    for name, value in (sizes | grams).items():
        fits[name] = [value if own else None for own in deep]
    figure = draw(tables, FigureOptions(name="predictions"))
    assert {"$|H_1|$\nerror, %", "$H_1$\ndistance"} < set(titles(figure))
    found = errors(tables).query("model == 'predicted_extended'").iloc[0]
    assert (found["hidden_norm"], found["hidden_gram_error"]) == pytest.approx((50, 0))
    axes = figure.axes[titles(figure).index("$|H_1|$\nerror, %")]
    assert axes.get_xscale() == "symlog"  # of one seed, beyond 30 %
    assert {"UFM without a parameter", "extended UFM without a parameter"} <= set(legend(figure))


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for found in figure.legends for text in found.get_texts()]


@pytest.mark.every(4)
@pytest.mark.parametrize("width", [1, 3.3, 6.9])
@pytest.mark.parametrize("case", ["one seed, one epoch", "undefined", "predicts zero", "missing", "twenty labels"])
def test_predictions_of_any_networks(studies, case, width):
    tables = with_predictions(studies[case])
    figure = draw(tables, options := FigureOptions(name="predictions", width=width))
    if case == "missing":
        assert texts(figure).startswith("predictions: no error of a model")
    if case == "predicts zero":
        assert titles(figure) == []
        assert "4 predictions of zero" in caption(tables, options)


def test_many_predictions_are_thinned(tmp_path):
    tables = with_predictions(read_tables(MadeUp(labels=TWENTY, seeds=1).write(tmp_path)))
    options = FigureOptions(name="predictions", width=3.3)
    names = [label.get_text() for label in draw(tables, options).axes[0].get_yticklabels()]
    assert names[0] == "optimizer.lr=0"
    assert names[-1] == "optimizer.lr=19"
    assert len(names) == 14
    assert "Drawn are 14 of 20 labels" in caption(tables, options)
    assert "All networks are resnet18 MSE no bias dataset.name=mnist." in caption(tables, options)


def test_curves_of_networks_are_beside_both_models_with_their_distance(studies):
    options = FigureOptions(name="nc_curves")
    figure = draw(studies["ordinary"], options)
    first = titles(figure)[:3]
    assert first[0].split("\n")[:2] == ["networks", "mlp MSE no bias"]
    distances = curve_distances(studies["ordinary"])
    for title, model in zip(first[1:], ("relu", "linear")):
        values = distances.loc[distances["model"] == model, "distance"]
        words = " ".join(title.split())
        assert f"{values.median():.2f} decades from the networks ({values.min():.2f}–{values.max():.2f})" in words
    assert len(figure.axes) == 12
    assert "2 networks (1 label, 2 seeds)" in caption(studies["ordinary"], options)


def test_curves_of_models_with_other_classes_have_no_distance(studies):
    runs = studies["ordinary"]["runs"]
    tables = {**studies["ordinary"], "runs": runs.assign(classes=runs["classes"] + (runs["kind"] == "network"))}
    options = FigureOptions(name="nc_curves", width=3.3)
    assert "decades" not in " ".join(titles(draw(tables, options)))
    assert "no distance is given" in caption(tables, options)
    assert "median and range" not in caption(tables, options)


def test_curves_mark_where_the_end_phase_begins(studies):
    tables = studies["ordinary"]
    assert "last epoch of SGD" not in legend(draw(tables, FigureOptions(name="nc_curves")))
    with_end = {**tables, "runs": tables["runs"].assign(epochs=3)}
    figure = draw(with_end, FigureOptions(name="nc_curves"))
    assert "last epoch of SGD" in legend(figure)
    assert "end-phase iteration" in " ".join(figure.axes[9].get_xlabel().split())


@pytest.mark.parametrize("width", [1, 3.3])
def test_curves_of_many_labels_are_thinned(tmp_path, width):
    tables = read_tables(MadeUp(labels=TWENTY, seeds=1).write(tmp_path))
    options = FigureOptions(name="nc_curves", width=width)
    assert "Drawn are 6 of 20 labels" in caption(tables, options)
    if width > 1:
        assert legend(draw(tables, options)) == [f"optimizer.lr={i}" for i in (0, 4, 8, 11, 15, 19)]


@pytest.mark.parametrize(
    ("case", "reason"), [("no networks", "no network with squared error"), ("no UFM", "no extended UFM")]
)
def test_curves_without_one_side_are_one_line(studies, case, reason):
    assert texts(draw(studies[case], FigureOptions(name="nc_curves"))).startswith(f"nc_curves: {reason}")


def test_words_that_all_labels_have():
    labels = ["mlp MSE no bias wd=0.1", "mlp CE bias wd=0.1"]
    assert shared_words(labels) == "mlp wd=0.1"
    assert without_words(labels[0], "mlp wd=0.1") == "MSE no bias"
    assert shared_words(labels[:1]) == without_words(labels[0], labels[0]) == labels[0]
    assert shared_words([]) == ""


@pytest.mark.parametrize("case", ["ordinary", "twenty labels", "one seed, one epoch"])
def test_panels_keep_within_the_figure(studies, case):
    figure = draw(studies[case], FigureOptions(name="frames"))
    top = max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert top <= figure.bbox.height


def test_training_curves_end_with_the_epochs_though_zero_error_is_of_the_end_phase(studies, recwarn):
    tables = studies["ordinary"]
    late = tables["runs"].assign(zero_error_epoch=5000.0)
    figure = draw({**tables, "runs": late}, FigureOptions(name="training_curves"))
    fix_layout(figure)
    assert "zero training error" not in texts(figure)
    assert not [warning for warning in recwarn if "constrained_layout" in str(warning.message)]
    assert all(axes.get_position().height > 0.2 for axes in figure.axes)


def test_widths_have_names():
    assert FigureOptions(name="frames", width="icml").width == FigureOptions(name="frames", width=3.25).width == 3.25
    for wrong, why in (("icmll", "did you mean 'icml'"), ("0.5", "greater than"), ("nan", "equal to 40")):
        with pytest.raises(ValidationError, match=why):
            FigureOptions(name="frames", width=wrong)


def test_venues_have_their_font(studies):
    fonts = [FigureOptions(name="frames", width=width).font for width in ("neurips", "column", 5.5)]
    assert fonts == ["serif", "sans", "sans"]
    assert FigureOptions(name="frames", width="icml", font="sans").font == "sans"
    figure = draw(studies["ordinary"], FigureOptions(name="frames", width="icml"))
    assert {text.get_fontname() for text in figure.findobj(Text) if text.get_text()} == {"STIXGeneral"}


@pytest.mark.parametrize("k", [4, 10])
def test_distances_to_one_frame_have_the_other_as_reference(k):
    of, etf = np.eye(k), np.eye(k) - 1 / k
    apart = np.linalg.norm(of / np.linalg.norm(of) - etf / np.linalg.norm(etf))
    assert at_other_frame("nc2_means_of", k) == pytest.approx(apart)
    assert at_other_frame("nc3_duality", k) == pytest.approx(apart**2)  # of W = OF, and its centred means
    assert at_other_frame("nc1_pinv", k) is None


@pytest.mark.parametrize("name", ["collapse_curves", "collapse_depth", "ufm_trajectories"])
def test_metrics_can_be_chosen(studies, name):
    options = FigureOptions(name=name, metrics=("nc3_duality", "nc3_of"))
    figure = draw(studies["ordinary"], options)
    said = texts(figure) + caption(studies["ordinary"], options)
    assert definition("nc3_of") in texts(figure)
    assert "nc3_duality" in said
    assert "nc1_pinv" not in said


def test_files_are_equal_on_redraw_and_carry_the_caption(studies, tmp_path: Path):
    tables = studies.folder("ordinary")
    first = save_figure("frames", tables, tmp_path / "one" / "frames")
    again = save_figure(FigureOptions(name="frames"), tables, tmp_path / "two" / "frames")
    assert [path.name for path in first] == ["frames.svg", "frames.pdf", "frames.png"]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(first, again, strict=True))
    described = ElementTree.parse(first[0]).findtext(".//{http://purl.org/dc/elements/1.1/}description")
    assert described == caption(read_tables(tables), FigureOptions(name="frames"))
    assert not list(tmp_path.glob("*/.*"))


def test_phases_are_the_models_whose_penalties_vary(studies):
    assert phases(studies["ordinary"]) == phases(studies["penalties, nothing done"]) == []
    grid, bias, unknown = phases(studies["penalties"])
    assert [p.title for p in (grid, bias)] == ["plain linear MSE no bias", "plain linear MSE penalised bias"]
    assert (grid.penalties, bias.penalties) == (("feature_decay", "weight_decay"), ("bias",))
    assert unknown.penalties == ("feature_decay =\nweight_decay",)
    assert [p.known for p in (grid, bias, unknown)] == [True, True, False]
    assert len(grid.fits) == 2 * len(GRID[0]) * len(GRID[1])
    three = studies["penalties"] | {"ufm": studies["penalties"]["ufm"].assign(feature_decay=1e-3)}
    assert [p.penalties for p in phases(three)] == [("weight_decay",), ("bias",), ("weight_decay",)]


def test_threshold_lies_where_zero_becomes_optimal(studies):
    """4 sqrt(n feature_decay weight_decay) = 1, whatever grid it is read from."""
    grid, bias, unknown = phases(studies["penalties"])
    constant, along, up = threshold(grid)
    for feature_decay in (1e-5, 0.03, 7.0):
        expected = 1 / (16 * SAMPLES * feature_decay)
        assert 10 ** -((constant + along * np.log10(feature_decay)) / up) == pytest.approx(expected)
    assert threshold(unknown) is None
    assert threshold(bias) is None  # its penalty has no part in it
    crooked = grid.fits.assign(zero_threshold=grid.fits["zero_threshold"] + grid.fits["x"])
    assert threshold(replace(grid, fits=crooked)) is None
    lines = [line for line in map_axes(studies["penalties"]).lines if len(line.get_xdata()) == 2]
    x, y = np.array(lines[0].get_data())
    assert 16 * SAMPLES * x * y == pytest.approx([1, 1])


def map_axes(tables):
    with style():
        figure = FIGURES["ufm_phase"].draw(tables, FigureOptions(name="ufm_phase"))
    return figure.subfigs[0].axes[0]


def test_phase_map_marks_what_was_missed_and_colours_the_optimum(studies):
    axes = map_axes(studies["penalties"])
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    assert np.ravel(crosses[0].get_data()) == pytest.approx(MISSED)
    assert "2" in [text.get_text() for text in axes.texts]
    reached = axes.collections[-1]
    assert len(reached.get_offsets()) == len(GRID[0]) * len(GRID[1]) - 1
    mesh = axes.collections[0]
    fit = np.clip(1 - 4 * np.sqrt(SAMPLES * np.outer(GRID[1], GRID[0])), 0, None)
    np.testing.assert_allclose(mesh.get_array(), fit, atol=1e-12)
    assert mesh.cmap(mesh.norm(0.0)) == tuple(mesh.cmap.get_under())


def test_a_fine_map_marks_only_what_was_missed(studies, monkeypatch):
    options = FigureOptions(name="ufm_phase")
    dots = "optimum reached; area: share of starts"
    assert dots in texts(draw(studies["penalties"], options))
    monkeypatch.setattr("ncpipe.figures.ufm_phase.MARKED_CELLS", 1)
    fine = draw(studies["penalties"], options)
    dotted = [marks for marks in fine.axes[0].collections if isinstance(marks, PathCollection)]
    assert not any(len(marks.get_offsets()) for marks in dotted)
    assert "optimum missed" in texts(fine)


def test_trajectories_of_many_labels_are_thinned_and_the_caption_says_so(studies):
    options = FigureOptions(name="ufm_trajectories")
    assert "Drawn are" not in caption(studies["ordinary"], options)
    whole = len(draw(studies["ordinary"], options).axes)
    narrow = FigureOptions(name="ufm_trajectories", width=1.5)
    assert "Drawn are 2 of 4 labels" in caption(studies["ordinary"], narrow)
    assert len(draw(studies["ordinary"], narrow).axes) == whole / 2


def test_phase_figure_says_what_has_no_closed_form_and_redraws_equal(studies, tmp_path: Path):
    drawn = [
        save_figure("ufm_phase", studies.folder("penalties"), tmp_path / str(i) / "u", ["svg"])[0] for i in range(2)
    ]
    assert drawn[0].read_bytes() == drawn[1].read_bytes()
    assert "no closed form" in texts(draw(studies["penalties"], FigureOptions(name="ufm_phase")))
    assert "no closed form" in caption(studies["penalties"], FigureOptions(name="ufm_phase"))


def test_bias_transition_has_the_closed_form_of_both_ends_and_its_change():
    problem = Problem(4, 5, 6, weight_decay=5e-3, feature_decay=1e-3)
    gap, free, none = frames_apart(4), *(closed_form(replace(problem, bias=bias)) for bias in ("free", "none"))
    assert free[1:] == pytest.approx([gap, 0, gap, 0], abs=1e-7)
    assert none[1:] == pytest.approx([0, gap, 0, gap], abs=1e-7)
    c = 4 * np.sqrt(5 * 5e-6)
    border = regime_change(problem, 1e-3, 10.0)
    assert border == pytest.approx(c / (1 - c))
    assert closed_form(replace(problem, bias=0.99 * border))[2] == pytest.approx(0, abs=1e-7)
    assert closed_form(replace(problem, bias=1.05 * border))[2] > 0.01
    assert regime_change(problem, 0.1, 10.0) is None


def test_bias_panel_takes_the_free_bias_and_none_to_its_ends(studies):
    tables = studies["penalties"]
    runs, fits = tables["runs"], tables["ufm"]
    first = runs[runs["label"].str.contains("penalised")].iloc[[0, 0]]
    ends = first.assign(run_id=["f", "n"], bias=["free", "none"])
    ends["settings"] = [s.replace('"bias": 0.01', f'"bias": "{b}"') for s, b in zip(ends["settings"], ends["bias"])]
    copied = fits[fits["run_id"] == first["run_id"].iloc[0]].iloc[[0, 0]]
    more = {
        "runs": pd.concat([runs, ends]),
        "ufm": pd.concat([fits, copied.assign(run_id=["f", "n"], bias=ends["bias"].array)]),
    }
    bias = next(phase for phase in phases(tables | more) if phase.of_bias)
    assert sorted(bias.ends["run_id"]) == ["f", "n"]
    assert set(bias.fits["run_id"]).isdisjoint(bias.ends["run_id"])
    assert next(phase for phase in phases(tables) if phase.of_bias).ends.empty
    text = texts(draw(tables | more, FigureOptions(name="ufm_phase")))
    assert "exact ETF" in text
    assert "∞" in text


def test_sweeps_of_weight_decay_merge_seeds_and_keep_networks_apart(studies):
    found = sweeps(studies["weight decays"])
    assert [sweep.label for sweep in found] == ["mlp MSE no bias", "mlp CE bias"]
    means = found[0].rows.query("quantity == 'means_gram'")
    assert sorted(means["decay"].unique()) == [1e-3, 3e-3, 1e-2]
    assert set(means["source"]) == {"plain", "extended", "guess"}
    off = np.linalg.norm((np.eye(4) + 0.1) / np.linalg.norm(np.eye(4) + 0.1) - np.eye(4) / 2)
    assert means["value"].unique() == pytest.approx([off])
    assert sorted(found[0].misfits["seed"]) == [0, 0, 1, 1]
    assert {"scatter", "weights_gram"} < set(found[0].rows["quantity"])
    assert len(sweeps(studies["twenty labels"])) == 20  # other learning rates are no sweep of weight decay


def test_levels_are_spread_from_the_first_layer_to_the_last():
    rows = pd.DataFrame({"depth": np.repeat(np.arange(1, 18), 2)})
    assert spread_levels(rows)["depth"].unique().tolist() == [1, 5, 9, 13, 17]
    assert len(spread_levels(rows[rows["depth"] < 4])) == 6


def test_diverged_runs_are_counted_in_the_caption(studies):
    assert "Not shown: 4 networks diverged." in caption(studies["diverged"], FigureOptions(name="collapse_curves"))


def test_labels_keep_their_look_and_solvers_share_it(studies):
    own = looks(studies["ordinary"]["runs"])
    assert own["plain linear MSE bias (GD)"] == own["plain linear MSE bias (L-BFGS)"]
    assert own["mlp MSE no bias"] == looks(studies["no UFM"]["runs"])["mlp MSE no bias"]
    assert len(set(looks(studies["twenty labels"]["runs"]).values())) == 20


def test_band_is_median_and_range_without_nan():
    rows = pd.DataFrame({"time": [0, 0, 0, 5, 5], "value": [1.0, 2.0, 9.0, np.nan, 3.0]})
    band = Band.of(rows)
    assert band.x.tolist() == [0, 5]
    assert band.middle.tolist() == [2, 3]
    assert (band.low.tolist(), band.high.tolist()) == ([1, 3], [9, 3])


def curve(values: dict[str, dict[int, float]], label: str = "a") -> pd.DataFrame:
    """Rows of a curve, from values by run and time."""
    rows = [(label, run, time, value) for run, own in values.items() for time, value in own.items()]
    return pd.DataFrame(rows, columns=["label", "run_id", "time", "value"])


def test_medians_stand_at_the_times_that_all_runs_have():
    zero_error = curve({"x": {0: 1, 3: 30, 9: 2}, "y": {0: 2, 5: 50, 9: 4}, "z": {0: 3, 9: np.nan}})
    band = Band.of(at_shared_times(zero_error))
    assert (band.x.tolist(), band.middle.tolist()) == ([0, 9], [2, 3])
    alone = curve({"x": {0: 1, 3: 30, 9: 2}})
    assert at_shared_times(alone).equals(alone)
    both = pd.concat([zero_error, curve({"v": {0: 7, 4: 8}}, label="b")])
    assert [len(rows) for _, rows in at_shared_times(both).groupby("label")] == [6, 2]
    assert at_shared_times(alone[:0]).empty


def test_a_run_that_ended_before_others_stays_where_it_ended():
    """As end phases do, each where its gradient is within tolerance."""
    rows = curve({"x": {0: 1, 4: 2, 6: 3}, "y": {0: 5, 4: 6, 8: 7, 9: 8}, "z": {0: 9, 4: 9, 8: 9, 16: 9}})
    band = Band.of(at_shared_times(rows))
    assert band.x.tolist() == [0, 4, 8, 16]
    assert (band.middle.tolist(), band.low.tolist()) == ([5, 6, 7, 8], [1, 2, 3, 3])


@pytest.mark.parametrize("name", ["collapse_curves", "level_curves", "collapse_map"])
def test_epochs_of_one_seed_are_in_no_median(studies, name):
    options = FigureOptions(name=name, metrics=("nc1_pinv",))
    several, alone = (draw(studies[case], options) for case in ("own epochs", "one seed, own epoch"))
    for figure, times in ((several, [0, 1, 3, 10]), (alone, [0, 1, 2, 3, 10])):
        if name == "collapse_map":
            assert {mesh.get_array().shape for mesh in meshes(figure)} == {(2, len(times))}
            continue
        lines = [line.get_xdata() for axes in figure.axes for line in axes.lines]
        drawn = [list(x) for x in lines if len(x) > 1 and max(x) == 10 and min(x) == 0]
        assert drawn
        assert all(x == times for x in drawn)


def test_depth_curves_of_zero_error_are_of_every_seed_at_its_own_epoch(studies):
    panel = draw(studies["own epochs"], FigureOptions(name="collapse_depth")).axes[0]
    dashed = next(line for line in panel.lines if line.get_marker() == "s")
    seeds = [(1 + seed) * np.exp(-np.outer([1, 2], [time])) for seed, time in enumerate((2, 4, 6))]
    np.testing.assert_allclose(dashed.get_ydata(), np.median(seeds, axis=0).ravel())


@pytest.mark.parametrize(
    ("values", "scale", "bottom"),
    [
        ([0.2, 0.9], "linear", 0),
        ([0.0, 0.9], "linear", 0),
        ([], "linear", 0),
        ([np.nan, np.inf], "linear", 0),
        ([1e-30, 1.0], "log", None),
        ([0.0, 1e-6, 1.0], "symlog", 0),
        ([1e-300, 1.0], "symlog", 0),
    ],
)
def test_scale_suits_the_values(values, scale, bottom):
    axes = Figure().subplots()
    scale_values(axes, "y", [values])
    assert axes.get_yscale() == scale
    assert bottom is None or axes.get_ylim()[0] == bottom
    if scale == "symlog":
        assert axes.get_yticks()[0] == 0


@pytest.mark.parametrize("last", [0, 1, 7, 150, 1e5, 1e12])
def test_time_axis_holds_zero_and_the_end(last):
    axes = Figure().subplots()
    scale_time(axes, last)
    low, high = axes.get_xlim()
    assert low == 0
    assert high >= last
    assert axes.get_xticks()[0] == 0


def test_learning_rate_drops(studies):
    assert learning_rate_drops(studies["ordinary"]["history"]) == [10]


def test_long_labels_are_shortened_and_wrapped():
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert wrapped("resnet18 MSE no bias", 18) == "resnet18 MSE\nno bias"


# --- the central path and deep UFMs by L-BFGS ----------------------------------------------------


def path_tables(starts: dict[str, tuple[float, ...]]) -> dict[str, pd.DataFrame]:
    """Simulations of the central path by run id, from these singular values; measured are the law's by 1 percent."""
    times = [0, *np.geomspace(100, 1e6, 39).round()]
    runs, history = [], []
    for seed, (run, start) in enumerate(starts.items()):
        classes = len(start) + 1
        same = {"source": "ufm", "kind": "declared", "status": "done", "optimizer": "central_path"}
        same |= {"seed": seed, "dim": 12}
        label = f"plain linear MSE bias (central path) classes={classes}"
        runs.append(same | {"run_id": run, "label": label, "classes": classes, "train_samples": 20 * classes})
        law = snr_law(list(start), times, classes=classes, samples=20 * classes).numpy()
        history += [
            {
                "source": "ufm",
                "run_id": run,
                "time": int(time),
                "quantity": f"{name}_{i}",
                "value": value * law[k, i - 1],
            }
            for name, value in (("snr", 1.01), ("snr_law", 1.0))
            for k, time in enumerate(times)
            for i in range(1, classes)
        ]
    return {"runs": pd.DataFrame(runs, columns=TABLES["runs"].names), "history": pd.DataFrame(history)}


def test_central_path_draws_the_law_and_the_growth_of_the_first_seed():
    tables = path_tables({"a": (2.0, 1.0, 0.5), "b": (3.0, 2.0, 1.0), "c": tuple(np.linspace(2, 0.2, 9))})
    figure = draw(tables, FigureOptions(name="central_path"))
    assert len(figure.axes) == 4
    assert {"K = 4, N = 80, d = 12", "K = 10, N = 200, d = 12", "$w_{3}$", "$w_{9}$"} <= set(text_list(figure))
    upper, lower = figure.axes[0], figure.axes[2]
    lines = [line for line in upper.lines if line.get_linestyle() == "-"]
    assert len(lines) == 3
    assert lines[0].get_ydata()[0] == pytest.approx(float(snr_law(2.0, [100], classes=4, samples=80)))
    points = [line for line in upper.lines if line.get_marker() == "o"]
    assert points[0].get_ydata()[0] == pytest.approx(1.01 * lines[0].get_ydata()[0])
    growth = next(line for line in upper.lines if line.get_linestyle() == "--")
    assert growth.get_ydata()[-1] == pytest.approx((4 * 4 * 1e6 / 80) ** 0.25)
    assert len(lower.lines) == 2
    assert all(line.get_ydata()[-1] < 1e-3 < line.get_ydata()[0] for line in lower.lines)


def test_central_paths_of_equal_sizes_are_named_by_their_labels():
    tables = path_tables({"a": (2.0, 1.0), "b": (3.0, 1.0)})
    tables["runs"]["label"] = ["path end_time=1e5", "path end_time=1e6"]
    figure = draw(tables, FigureOptions(name="central_path"))
    assert {"path end_time=1e5", "path end_time=1e6"} <= set(text_list(figure))


def text_list(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


LEVELS = {2: ("H1", "W1H1", "features"), 3: ("H1", "W1H1", "H2", "W2H2", "features")}


def deep_tables(*problems: tuple[int, int, float, float]) -> dict[str, pd.DataFrame]:
    """Deep ReLU UFMs by L-BFGS: (L, d, penalties over the threshold, success fraction), two seeds each."""
    runs, fits, collapse = [], [], []
    for number, (depth, dim, excess, success) in enumerate(problems):
        for seed in range(2):
            run = {"run_id": f"{number}-{seed}", "kind": "declared", "status": "done", "seed": seed, "classes": 2}
            run |= {"activation": "relu", "loss": "mse", "bias": "none"}
            name = "extended" if depth == 2 else f"deep {depth}"
            label = f"{name} relu MSE no bias (L-BFGS) dim={dim}"
            runs.append(run | {"optimizer": "lbfgs", "depth": depth, "label": label})
            optimum = min(0.5, 0.5 * excess)
            fit = {"dim": dim, "starts": 8, "success_fraction": success, "dead_directions": 0, "network_id": None}
            fit |= {
                "optimum": optimum,
                "value": optimum,
                "optimum_is_zero": excess >= 1,
                "zero_threshold": 1 / excess,
            }
            fits.append(run | fit | {"missed": success == 0})
            for place, layer in enumerate(LEVELS[depth], start=1):
                at = {"split": "train", "layer": layer, "depth": place, "time": 57, "metric": "nc1_pinv"}
                collapse.append({"run_id": run["run_id"], **at, "value": 10.0**-place})
    frames = {"runs": runs, "ufm": fits, "collapse": collapse}
    return {name: pd.DataFrame(rows, columns=TABLES[name].names) for name, rows in frames.items()}


def lines_of(axes: Axes) -> list[tuple[list[float], list[float]]]:
    drawn = [line for line in axes.lines if line.get_linestyle() == "-"]
    return [(line.get_xdata().tolist(), line.get_ydata().tolist()) for line in drawn]


def test_success_is_drawn_over_widths_and_about_the_threshold():
    widths = [(depth, dim, 0.01, dim / 64 / depth) for depth in (2, 3) for dim in (4, 16, 64)]
    tables = deep_tables(*widths, *((2, 16, excess, 0.5) for excess in (0.5, 0.9, 1.1)))
    figure = draw(tables, FigureOptions(name="ufm_success"))
    over_width, over_penalty, gain = figure.axes
    assert lines_of(over_width) == [([4, 16, 64], [1 / 32, 1 / 8, 1 / 2]), ([4, 16, 64], [1 / 48, 1 / 12, 1 / 3])]
    (x, success), ((same, gained),) = lines_of(over_penalty)[0], lines_of(gain)
    assert x == [0.01, 0.5, 0.9]  # zero is optimal beyond
    assert success == [1 / 8, 0.5, 0.5]
    assert same == [0.01, 0.5, 0.9, 1.1]
    assert gained == pytest.approx([0.99, 0.5, 0.1, 0])
    assert {"L = 2", "L = 3"} <= set(text_list(figure))
    assert "dead_directions" not in texts(figure)
    assert "8 random starts each" in caption(tables, FigureOptions(name="ufm_success"))


def test_dead_directions_have_a_panel_where_there_are_any():
    tables = deep_tables((2, 4, 0.01, 0.1), (2, 8, 0.01, 0.9))
    tables["ufm"].loc[0, "dead_directions"] = 1
    figure = draw(tables, FigureOptions(name="ufm_success"))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["success", "dead directions"]


def test_depth_of_lbfgs_has_a_panel_a_model_of_what_reached_the_optimum():
    tables = deep_tables((2, 4, 0.01, 0.5), (2, 8, 0.01, 0.5), (3, 4, 0.01, 0.5), (3, 8, 2.0, 0.5), (3, 8, 0.01, 0.0))
    missed = tables["collapse"]["run_id"].isin(["3-0", "3-1", "4-0", "4-1"])  # zero is optimal; missed
    tables["collapse"].loc[missed, "value"] = 5.0
    figure = draw(tables, FigureOptions(name="collapse_depth"))
    assert [axes.get_title(loc="left").replace("\n", " ") for axes in figure.axes] == [
        "UFM extended relu MSE no bias",
        "UFM deep 3 relu MSE no bias",
    ]
    ((x, y),) = lines_of(figure.axes[1])
    assert x == [1, 2, 3, 4, 5]
    assert y == pytest.approx([0.1**i for i in x])
    assert "initialisation" not in texts(figure)
    assert "6 ReLU UFMs that L-BFGS took to the optimum" in caption(tables, FigureOptions(name="collapse_depth"))


def test_depth_of_lbfgs_is_left_to_gradient_descent_of_the_same_model(studies):
    figure = draw(studies["no networks"], FigureOptions(name="collapse_depth"))
    assert len(figure.axes) == 1
    assert "initialisation" in texts(figure)


@pytest.mark.parametrize(
    ("panels", "most", "columns"), [(6, 5, 3), (16, 5, 4), (7, 5, 4), (3, 5, 3), (1, 5, 1), (9, 1, 1)]
)
def test_panels_of_a_metric_fill_whole_rows(panels, most, columns):
    assert whole_rows(panels, most) == columns


def test_kinds_of_networks_come_before_their_sweeps():
    names = ["mlp wd=1", "mlp wd=2", "convnet wd=1", "convnet wd=2"]
    nets = pd.DataFrame({"label": names, "dataset": "digits", "loss": "ce", "bias": "yes"})
    nets["model"] = [name.split()[0] for name in names]
    assert varied(nets, names) == ["mlp wd=1", "convnet wd=1", "mlp wd=2", "convnet wd=2"]


def test_sweeps_of_other_decays_share_an_axis_that_holds_all(studies, monkeypatch):
    first, *_ = sweeps(studies["weight decays"])
    narrow = replace(first, rows=first.rows[first.rows["decay"] == first.rows["decay"].max()])
    monkeypatch.setattr("ncpipe.figures.matched_sweep.sweeps", lambda _: [first, narrow])
    figure = draw(studies["weight decays"], FigureOptions(name="matched_sweep"))
    low, high = figure.axes[0].get_xlim()
    assert low < first.rows["decay"].min() < first.rows["decay"].max() < high


def named(*ends: tuple[float, str], panels: int = 1) -> tuple[bool, list]:
    """Whether lines that end at these heights are named, and the names."""
    figure = Figure(figsize=(2, 1))
    grid = [figure.add_axes((0, 0, 1, 1), xlim=(0, 1), ylim=(0, 1)) for _ in range(panels)]
    spread = [(axes, [(1.0, y / (panels - i), name, "red") for y, name in ends]) for i, axes in enumerate(grid)]
    return name_lines(spread, 1.0), [text for axes in grid for text in axes.texts]


def test_names_at_the_ends_of_lines_keep_apart_and_in_order():
    done, texts = named((0.5, "b"), (0.45, "a"), (0.95, "c"))
    heights = {text.get_text(): text.xyann[1] for text in texts}
    assert done
    assert heights["b"] - heights["a"] == pytest.approx(LINE)
    assert heights["a"] + heights["b"] == pytest.approx(0.95)
    assert heights["c"] == 0.95
    assert {text.get_color() for text in texts} == {"red"}
    assert {text.get_text(): text.xy[1] for text in texts} == {"b": 0.5, "a": 0.45, "c": 0.95}


def test_names_stay_beside_the_panel():
    heights = [text.xyann[1] for text in named(*((0.0, name) for name in "abcd"))[1]]
    assert heights == pytest.approx([LINE * place for place in range(4)])
    heights = [text.xyann[1] for text in named(*((1.0, name) for name in "abcd"))[1]]
    assert heights == pytest.approx([1 - LINE * place for place in (3, 2, 1, 0)])


def test_names_stand_where_lines_end_farthest_apart():
    _, texts = named((0.5, "a"), (0.45, "b"), panels=2)
    assert [text.xy[1] for text in texts] == [0.5, 0.45]


@pytest.mark.parametrize(("rows", "height"), [(2, 3.4), (6, PAGE_HEIGHT - 0.3), (10, 0.75 * 17)])
def test_rows_are_a_little_lower_where_a_page_then_holds_them(rows, height):
    assert panel_figure(6.75, 3 * rows, 3, 1.7)[0].get_size_inches()[1] == pytest.approx(height)


def test_more_lines_than_colours_are_left_to_a_legend():
    assert named(*((i / 9, str(i)) for i in range(9))) == (False, [])


# --- colours --------------------------------------------------------------------------------------

SEEN = {
    "all": np.eye(3),
    "green-blind": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "red-blind": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "blue-blind": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
"""What is left of linear RGB (Machado, Oliveira and Fernandes 2009, severity 1)."""
XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(colour: str, seen: str) -> np.ndarray:
    """CIELAB at D65 of what is seen of a colour."""
    srgb = np.array(to_rgb(colour))
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    xyz = np.array(XYZ) @ np.clip(np.array(SEEN[seen]) @ linear, 0, 1) / [0.95047, 1, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(("seen", "least"), [("all", 24), ("green-blind", 24), ("red-blind", 24), ("blue-blind", 18)])
def test_colours_are_told_apart_by_everybody(seen, least):
    pairs = combinations([lab(colour, seen) for colour in OKABE_ITO.values()], 2)
    assert min(np.linalg.norm(a - b) for a, b in pairs) >= least


# --- the map over depth and time ------------------------------------------------------------------

MAP = FigureOptions(name="collapse_map")


def meshes(figure: Figure) -> list:
    return [axes.collections[0] for axes in figure.axes if axes.get_title(loc="left")]


def test_map_has_medians_over_seeds_in_one_logarithmic_scale(studies):
    figure = draw(studies["ordinary"], MAP)
    one, two = meshes(figure)
    expected = 1.5 * np.exp(-np.outer([1, 2], [0, 1, 3, 10]))  # seeds have factors 1 and 2
    np.testing.assert_allclose(one.get_array(), expected)
    assert one.norm is two.norm
    assert (one.norm.vmin, one.norm.vmax) == (pytest.approx(1.5 * np.exp(-20)), pytest.approx(1.5))
    assert one.norm(1.5 * np.exp(-10)) == pytest.approx(0.5)
    panel = figure.axes[0]
    assert [line.get_xdata()[0] for line in panel.lines] == [3]  # no training error
    assert panel.get_ylabel() == "layer (2 = features)"
    assert panel.get_xlim() == (0, 10)
    assert "zero training error" in text_list(figure)
    edges = one.get_coordinates()[0, :, 0]
    assert edges[0] == 0
    assert edges[-1] == 10
    assert all(low < middle < high for low, middle, high in zip([0, 1, 3], edges[1:], [1, 3, 10]))


def test_map_of_a_share_is_linear_and_other_metrics_have_their_own_scale(studies):
    tables = studies["ordinary"]
    rows = tables["collapse"]
    share = rows["metric"].eq("accuracy")
    tables = tables | {"collapse": rows.assign(value=rows["value"].mask(share, 0.5 + 0.1 * rows["depth"]))}
    figure = draw(tables, FigureOptions(name="collapse_map", metrics=("accuracy", "nc1_pinv")))
    first, _, third, _ = meshes(figure)
    assert (first.norm.vmin, first.norm.vmax) == (pytest.approx(0.6), pytest.approx(0.7))
    assert first.norm(0.65) == pytest.approx(0.5)
    assert third.norm.vmax == pytest.approx(1.5)


def test_map_shows_zeros_below_the_scale(studies):
    tables = studies["ordinary"]
    rows = tables["collapse"]
    zero = rows["time"].eq(10) & rows["layer"].eq("features")
    figure = draw(tables | {"collapse": rows.assign(value=rows["value"].mask(zero, 0.0))}, MAP)
    mesh = meshes(figure)[0]
    assert mesh.norm.vmin == pytest.approx(1.5 * np.exp(-10))
    assert tuple(mesh.cmap(mesh.norm(mesh.get_array().min()))) == (0, 0, 0, 1)
    assert not np.ma.getmaskarray(mesh.get_array()).any()


def test_map_of_one_epoch_says_why_there_is_none(studies):
    figure = draw(studies["one seed, one epoch"], MAP)
    assert texts(figure) == "collapse_map: no network with nc1_pinv at two epochs or more"


# --- the command ---------------------------------------------------------------------------------


def command(*arguments: object) -> tuple[str, str]:
    """What ``ncpipe figure`` prints, and the mistake that it tells."""
    done = CliRunner().invoke(app, ["figure", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, UserError | SystemExit), done.exception
    mistake = str(done.exception or "")
    assert "\n" not in mistake
    return done.stdout, mistake


def test_command_draws_any_figure_from_tables(studies, tmp_path: Path, monkeypatch):
    tables = studies.folder("ordinary")
    monkeypatch.chdir(tmp_path)
    assert command("frames", "--tables", tables)[0].split() == [
        "wrote", "frames.svg", "wrote", "frames.pdf", "wrote", "frames.png"
    ]  # fmt: skip
    options = ("--metrics", "nc3_duality, nc3_of", "--split", "test", "--width", "3.25")
    command("collapse_curves", "--tables", tables, "--output", "a/b.svg", *options)
    drawn = FigureOptions(name="collapse_curves", metrics=("nc3_duality", "nc3_of"), split="test", width=3.25)
    (same,) = save_figure(drawn, tables, tmp_path / "same", ("svg",))
    assert (tmp_path / "a/b.svg").read_bytes() == same.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.svg"]


def test_command_lists_all_figures_with_a_line_each():
    lines = command("--list")[0].splitlines()
    assert [line.split()[0] for line in lines] == list(FIGURES)
    assert all(len(line.split()) > 4 for line in lines)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["framse"], "figure.name: unknown value 'framse'; did you mean 'frames'?"),
        (["collapse_curves", "--metrics", "nc1_pinv,nc1_trace"], "unknown value 'nc1_trace'; did you mean 'nc1_"),
        (["frames", "--split", "valid"], "figure.split: unknown value 'valid'"),
        (["frames", "--over", "model.width"], "'over' goes with figure 'sweep'"),
        (["sweep"], "'sweep' needs it"),
        (["frames", "--width", "0"], "figure.width"),
        (["frames", "--output", "x.jpg"], "--output x.jpg: expected a name that ends in .svg, .pdf or .png"),
        (["frames", "--study", "study.json"], "ncpipe figure frames --tables results/tables"),
    ],
)
def test_command_tells_mistakes_in_one_line(studies, arguments, message):
    assert message in command(*arguments, "--tables", studies.folder("ordinary"))[1]


def test_command_needs_tables_and_leaves_options_to_the_study(tmp_path: Path):
    assert "no tables in" in command("frames", "--tables", tmp_path)[1]
    assert "name a figure and where its tables are" in command("frames")[1]
    assert "name a figure" in command("--tables", tmp_path)[1]
    assert "--width goes with --tables" in command("frames", "--study", "config.yaml", "--width", 3)[1]


def test_command_draws_a_figure_of_a_study_into_its_results(tmp_path: Path):
    config = {"study": {"name": "x", "results": str(tmp_path / "r")}, "figures": [{"name": "frames", "file": "mine"}]}
    config |= {"ufm": {"matched": [], "base": {"classes": 3, "samples": 2, "dim": 3, "solver": {"name": "lbfgs"}}}}
    (tmp_path / "study.json").write_text(json.dumps(config))
    MadeUp().write(tmp_path / "r/tables")
    assert command("mine", "--study", tmp_path / "study.json")[1] == ""
    assert sorted(path.name for path in (tmp_path / "r/figures").iterdir()) == ["mine.pdf", "mine.png", "mine.svg"]
    assert "no figure 'frames'" in command("frames", "--study", tmp_path / "study.json")[1]
