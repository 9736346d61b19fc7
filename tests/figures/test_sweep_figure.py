"""The figure ``sweep``, and the data, seeds and scale that every caption states, from made-up tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError
from synthetic_tables import METADATA, MadeUp, Penalties

from ncpipe.figures import caption, draw, save_figure, sweep
from ncpipe.figures.drawing.style import OKABE_ITO, shared_words, style
from ncpipe.figures.sweep import Scale
from ncpipe.records.reading import read_tables
from ncpipe.records.schemas import TABLES
from ncpipe.records.writing import write_rows
from ncpipe.study.config import Config, FigureOptions
from ncpipe.tables.labels import labelled

Row = dict[str, Any]


def network(seed: int, loss: str = "ce", width: Any = 64, temperature: float | None = None, **columns: Any) -> Row:
    settings = {"model": {"width": width}, "head": {"temperature": temperature}, "loss": {"name": loss}, "seed": seed}
    row = {
        "source": "net", "kind": "network", "status": "done", "run_id": f"{loss}-{width}-{temperature}-{seed}",
        "label": f"mlp {loss.upper()} bias", "dataset": "digits", "classes": 10, "train_samples": 1350,
        "seed": seed, "settings": json.dumps(settings),
    }  # fmt: skip
    return row | columns


def measurements(run: Row, numbers: dict[tuple[str, str], float]) -> Iterator[Row]:
    for (metric, split), number in numbers.items():
        for time, factor in ((1, 7.0), (30, 1.0)):
            yield {"source": run["source"], "run_id": run["run_id"], "split": split, "layer": "features", "depth": 2,
                   "time": time, "metric": metric, "value": number * factor}  # fmt: skip


def frames(runs: list[Row], numbers: Any = None) -> dict[str, pd.DataFrame]:
    """Tables of runs, with ``numbers`` of a run at its end: (metric, split) -> value."""
    rows = [row for run in runs for row in measurements(run, numbers(run) if numbers else ENDS)]
    found = {"runs": labelled(runs), "collapse": rows}
    return {name: pd.DataFrame(found.get(name, []), columns=schema.names) for name, schema in TABLES.items()}


ENDS = {("accuracy", "test"): 0.9, ("nc1_pinv", "train"): 0.01, ("nc1_pinv", "test"): 0.5}


def by_width(run: Row) -> dict:
    width = json.loads(run["settings"])["model"]["width"]
    return {("accuracy", "test"): 0.9 + run["seed"] / 100, ("nc1_pinv", "train"): 10.0 / width**2}


def drawn(tables: dict, **options: Any) -> Figure:
    with style():
        return sweep.draw(tables, FigureOptions(name="sweep", **options))


def texts(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def curves(figure: Figure, panel: int = 0) -> list[tuple[list[float], list[float]]]:
    lines = [line for line in figure.axes[panel].lines if line.get_linestyle() == "-"]
    return [(list(map(float, line.get_xdata())), list(map(float, line.get_ydata()))) for line in lines]


def widths(losses: Iterable[str] = ("ce", "mse")) -> list[Row]:
    return [network(seed, loss, width) for loss in losses for width in (16, 32, 128) for seed in (0, 1, 2)]


def test_a_line_is_the_median_over_seeds_of_final_values():
    figure = drawn(frames(widths(), by_width), over="model.width")
    accuracy, nc1 = curves(figure, 0), curves(figure, 1)
    assert len(accuracy) == len(nc1) == 2
    assert accuracy[0] == ([16, 32, 128], pytest.approx([0.91] * 3))
    assert nc1[0] == ([16, 32, 128], pytest.approx([10 / 16**2, 10 / 32**2, 10 / 128**2]))
    shown = texts(figure)
    assert "accuracy (test)" in shown
    assert "NC1 (train)" in shown
    assert "width" in shown
    band = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert (band.y0, band.y1) == pytest.approx((0.90, 0.92))


def line_names(figure):
    """Names of the lines, right of the last panel, whose first text is its definition."""
    return [text.get_text() for text in figure.axes[-1].texts[1:]]


def test_lines_are_named_by_the_labels_without_the_setting():
    figure = draw(frames(widths(), by_width), FigureOptions(name="sweep", over="model.width"))
    assert figure.get_suptitle() == "mlp bias"
    assert line_names(figure) == ["CE", "MSE"]
    assert [text.get_color() for text in figure.axes[1].texts[1:]] == [OKABE_ITO["blue"], OKABE_ITO["vermillion"]]
    assert shared_words(["mlp CE bias width=16 wide", "mlp CE bias width=32 wide"]) == "mlp CE bias wide"


def test_metrics_and_split_can_be_chosen():
    figure = drawn(frames(widths()), over="model.width", metrics=("nc1_pinv",), split="test")
    assert len(figure.axes) == 1
    assert curves(figure)[0][1] == [0.5] * 3
    assert "NC1 (test)" in texts(figure)


@pytest.mark.parametrize(
    ("values", "numeric", "logarithmic"),
    [
        ([16, 32, 64], True, True),
        ([10, 20, 30], True, False),
        ([64, 16], True, False),
        ([1e-4, 1e-2], True, True),
        ([0, 1, 100], True, False),
        ([5.0], True, False),
        (["ce", "mse"], False, None),
        ([True, False], False, None),
        ([[1e-3, 1e-3], 1e-3], False, None),
    ],
)
def test_axis_suits_the_values(values, numeric, logarithmic):
    scale = Scale.of(pd.Series([*values, None, *values], dtype=object))
    assert len(scale.values) == len(values)
    assert scale.numeric == numeric
    assert list(scale.values) == (sorted(values) if numeric else values)
    if numeric:
        assert scale.logarithmic == logarithmic
        assert [scale.place(value) for value in values] == values
    else:
        assert [scale.place(value) for value in values] == list(range(len(values)))


def test_zero_has_a_place_beside_decades():
    runs = [network(0, width=value) for value in (0, 1e-4, 1e-2)]
    figure = drawn(frames(runs), over="model.width")
    assert figure.axes[0].get_xscale() == "symlog"
    assert figure.axes[0].get_xlim()[0] == 0


def test_categories_stand_side_by_side():
    figure = drawn(frames(widths()), over="loss.name")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["ce", "mse"]
    figure = drawn(frames([network(0, width=width) for width in ("wide", "narrow")]), over="model.width")
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["wide", "narrow"]


def test_runs_without_the_setting_are_a_level():
    runs = [network(0, temperature=tau) for tau in (None, 1.0, 5.0, 25.0)]
    tables = frames(runs)
    figure = draw(tables, FigureOptions(name="sweep", over="head.temperature"))
    assert curves(figure)[0][0] == [1, 5, 25]
    levels = [line for line in figure.axes[0].lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in levels] == [[0.9, 0.9]]
    assert "Dashed: runs without it." in caption(tables, FigureOptions(name="sweep", over="head.temperature"))


def test_settings_that_a_name_decides_do_not_part_lines():
    parameters = {"ce": {}, "focal": {"gamma": 3.0}, "mse": {"rescale": [1.0, 15.0]}}
    runs = widths(parameters)
    for run in runs:
        settings = json.loads(run["settings"])
        settings["loss"] |= {"gamma": 0.0, "rescale": [1.0, 1.0]} | parameters[settings["loss"]["name"]]
        rate = 0.002 if settings["loss"]["name"] == "mse" else 0.02
        run["settings"] = json.dumps(settings | {"optimizer": {"lr": rate}})
    figure = draw(frames(runs), FigureOptions(name="sweep", over="loss.name"))
    assert figure.get_suptitle() == "mlp bias"
    assert line_names(figure) == ["width=16", "width=32", "width=128"]
    assert figure.axes[0].get_xlabel() == "loss"
    assert [tick.get_text() for tick in figure.axes[0].get_xticklabels()] == ["ce", "focal", "mse"]


@pytest.mark.parametrize("over", ["model.size", "head.temperature"])
def test_an_unknown_setting_is_said_in_one_line(over):
    figure = draw(frames(widths()), FigureOptions(name="sweep", over=over))
    assert not figure.axes
    assert texts(figure).startswith("sweep: no ")
    assert over in texts(figure)


def test_runs_that_are_not_done_are_left_out():
    runs = [network(0, width=16), network(0, width=32, status="diverged"), network(0, width=64)]
    tables = frames(runs)
    assert curves(drawn(tables, over="model.width"))[0][0] == [16, 64]
    assert "1 network diverged" in caption(tables, FigureOptions(name="sweep", over="model.width"))


@pytest.mark.parametrize("number", [np.nan, 0.0, 1e-300, -3.0])
def test_any_value_can_be_drawn(number):
    tables = frames(widths(), lambda _: {("accuracy", "test"): number, ("nc1_pinv", "train"): 1.0})
    draw(tables, FigureOptions(name="sweep", over="model.width", width=3.25))


def test_the_setting_is_asked_for_while_planning():
    with pytest.raises(ValidationError, match="'sweep' needs it"):
        FigureOptions(name="sweep")
    with pytest.raises(ValidationError, match="'over' goes with figure 'sweep'"):
        FigureOptions(name="frames", over="model.width")
    with pytest.raises(ValidationError, match=r"write \{name: sweep, over: model.width\}"):
        Config.model_validate({"study": {"name": "s"}, "figures": ["frames", "sweep"]})


# --- facts in captions ---------------------------------------------------------------------------


def stated(tables: dict, name: Any = "training_curves", scale: str = "") -> str:
    return caption(tables, FigureOptions(name=name), scale)


def test_captions_state_data_seeds_and_scale():
    tables = frames(widths())
    assert stated(tables, scale="small").endswith(" Networks: digits (K = 10, N = 1350), seeds 0 to 2. Scale: small.")
    assert stated(tables).endswith(" Networks: digits (K = 10, N = 1350), seeds 0 to 2.")


def test_captions_tell_data_sets_and_sizes_apart():
    runs = [
        network(0),
        network(3, train_samples=600),
        network(4, dataset="mnist", classes=3, train_samples=None),
        network(9, status="diverged", dataset="lost"),
        {"source": "ufm", "kind": "declared", "status": "done", "run_id": "u", "label": "u", "seed": 7,
         "settings": "{}", "classes": 4, "train_samples": 20},
    ]  # fmt: skip
    nets = " Networks: digits (K = 10, N = 600 to 1350), mnist (K = 3), seeds 0, 3, 4."
    assert stated(frames(runs)).endswith(nets)
    assert stated(frames(runs), "frames").endswith(f"{nets} UFMs: K = 4, N = 20, seed 7.")
    assert stated(frames(runs), "ufm_phase").endswith(" UFMs: K = 4, N = 20, seed 7.")


def test_captions_without_runs_state_no_facts():
    assert "Scale" not in stated(frames([]), scale="small")
    assert "Networks:" not in stated(frames([network(0, status="missing")]))


def test_the_scale_of_saved_figures_is_that_of_the_tables(tmp_path, monkeypatch):
    tables = Penalties().write(tmp_path / "tables")
    assert "Scale" not in (save_figure("ufm_phase", tables, tmp_path / "a")[0]).read_text()
    runs = read_tables(tables)["runs"].to_dict("records")
    rows = [{key: None if isinstance(v, float) and np.isnan(v) else v for key, v in run.items()} for run in runs]
    write_rows(tables / "runs.parquet", TABLES["runs"], rows, METADATA | {"scale": "paper"})
    assert "Scale: paper." in (save_figure("ufm_phase", tables, tmp_path / "b")[0]).read_text()


def test_facts_of_the_made_up_study(tmp_path):
    tables = read_tables(MadeUp().write(tmp_path))
    assert stated(tables).endswith(" Networks: digits (K = 4), seeds 0, 1.")
