"""Every figure from ordinary and from degenerate tables; equal bytes on redraw; scales and looks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from synthetic_tables import GRID, MISSED, SAMPLES, MadeUp, Penalties

from ncpipe.figures import DRAWINGS, caption, draw, save_figure
from ncpipe.figures.axes import scale_time, scale_values
from ncpipe.figures.definitions import frame_gap
from ncpipe.figures.series import Band
from ncpipe.figures.style import looks, shortened, style, wrapped
from ncpipe.figures.training_curves import learning_rate_drops
from ncpipe.figures.ufm_phase import phases, threshold
from ncpipe.study.spec import FigureName, FigureOptions
from ncpipe.tables.collect import read_tables

NAMES = get_args(FigureName)
TWENTY = tuple(f"resnet18 MSE no bias dataset.name=mnist optimizer.lr={i}" for i in range(20))
CASES = {
    "ordinary": MadeUp(),
    "nothing": MadeUp(labels=(), ufm=False),
    "no UFM": MadeUp(ufm=False, matched=False),
    "no networks": MadeUp(labels=()),
    "one seed, one epoch": MadeUp(seeds=1, epochs=(0,)),
    "two classes": MadeUp(classes=2),
    "hundred classes": MadeUp(classes=100, labels=("a",), ufm=False),
    "undefined": MadeUp(value=float("nan")),
    "exact": MadeUp(value=0.0),
    "tiny": MadeUp(value=1e-300),
    "diverged": MadeUp(status="diverged"),
    "missing": MadeUp(status="missing", matched=False),
    "predicts zero": MadeUp(prediction=0.0),
    "penalties": Penalties(),
    "penalties, nothing done": Penalties(status="diverged"),
    "twenty labels": MadeUp(labels=TWENTY, seeds=1, ufm=False),
}


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, pd.DataFrame]]:
    return {name: read_tables(case.write(tmp_path_factory.mktemp("tables"))) for name, case in CASES.items()}


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_every_figure_name_is_drawn():
    assert set(DRAWINGS) == set(NAMES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_draws_from_any_tables(studies, name, case):
    options = FigureOptions(name=name)
    with style():  # without the layout, which takes most of the time
        figure = DRAWINGS[name].draw(studies[case], options)
    assert figure.get_size_inches()[0] == pytest.approx(options.width)
    assert caption(studies[case], options)


@pytest.mark.parametrize("case", ["ordinary", "twenty labels", "one seed, one epoch"])
def test_panels_keep_within_the_figure(studies, case):
    figure = draw(studies[case], FigureOptions(name="frames"))
    top = max(axes.get_tightbbox().y1 for axes in figure.axes)
    assert top <= figure.bbox.height


@pytest.mark.parametrize("name", NAMES)
def test_one_column_test_split(studies, name):
    draw(studies["ordinary"], FigureOptions(name=name, width=3.25, split="test"))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_show_is_one_line(studies, name):
    figure = draw(studies["nothing"], FigureOptions(name=name))
    assert not figure.axes
    assert texts(figure).startswith(f"{name}: no ")


@pytest.mark.parametrize("name", ["collapse_curves", "collapse_depth", "ufm_trajectories"])
def test_metrics_can_be_chosen(studies, name):
    figure = draw(studies["ordinary"], FigureOptions(name=name, metrics=("nc3_duality", "nc3_of")))
    assert "nc3_duality" in texts(figure)
    assert "nc1_pinv" not in texts(figure)


def test_files_are_equal_on_redraw_and_carry_the_caption(tmp_path: Path):
    tables = MadeUp().write(tmp_path / "tables")
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
        figure = DRAWINGS["ufm_phase"].draw(tables, FigureOptions(name="ufm_phase"))
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


def test_phase_figure_says_what_has_no_closed_form_and_redraws_equal(tmp_path: Path):
    tables = Penalties().write(tmp_path / "tables")
    paths = [save_figure("ufm_phase", tables, tmp_path / str(i) / "u") for i in range(2)]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*paths, strict=True))
    figure = draw(read_tables(tables), FigureOptions(name="ufm_phase"))
    assert "no closed form" in texts(figure)
    assert "no closed form" in caption(read_tables(tables), FigureOptions(name="ufm_phase"))


def test_matched_figure_svg_is_equal_on_redraw(tmp_path: Path):
    tables = MadeUp().write(tmp_path / "tables")
    paths = [save_figure("matched_ufm", tables, tmp_path / str(i) / "m")[0] for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()


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


def test_frame_gap_is_the_distance_of_the_two_frames():
    assert frame_gap(4) == pytest.approx(0.51763809)


def test_learning_rate_drops(studies):
    assert learning_rate_drops(studies["ordinary"]["history"]) == [10]


def test_long_labels_are_shortened_and_wrapped():
    assert shortened("abcdefghij", 5) == "ab…ij"
    assert wrapped("resnet18 MSE no bias", 18) == "resnet18 MSE\nno bias"
