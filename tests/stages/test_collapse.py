"""The table ``grams``: its rows from the statistics of a run, in its file, and the figure drawn from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from synthetic_tables import MadeUp

from ncpipe.collapse import Moment, Trace, layer_statistics
from ncpipe.figures import caption, draw
from ncpipe.figures.gram_heatmaps import colour_limit, unit_gram
from ncpipe.records.reading import read_tables
from ncpipe.records.schemas import GRAMS
from ncpipe.records.traces import save_traces
from ncpipe.records.writing import read_table
from ncpipe.stages.collapse import gram_rows, write_collapse
from ncpipe.stages.tables import records
from ncpipe.study.config import FigureOptions
from ncpipe.system.errors import UserError


def trace_of(classes: int, times: tuple[int, ...] = (0, 7)) -> Trace:
    """Two layers at these times, training and test split, of random features."""
    generator = torch.Generator().manual_seed(classes)
    trace, labels = Trace(("layer1", "features")), torch.arange(classes).repeat_interleave(3)
    for time in times:
        weight = torch.randn(classes, 5, generator=generator, dtype=torch.float64)
        trace.heads[time] = (weight, None)
        for split in ("train", "test"):
            trace.scalars[time, split] = {"loss": 1.0}
            for layer in trace.layers:
                features = torch.randn(3 * classes, 5, generator=generator, dtype=torch.float64)
                trace.statistics[Moment(time, layer, split)] = layer_statistics(features, labels, classes)
    return trace


def matrices(rows: pd.DataFrame, classes: int) -> dict[str, np.ndarray]:
    return {
        str(name): own.sort_values(["row", "column"])["value"].to_numpy().reshape(classes, classes)
        for name, own in rows.groupby("gram")
    }


def test_grams_are_of_the_last_features_of_the_training_split_at_the_end():
    trace = trace_of(4)
    rows = pd.DataFrame(gram_rows("net", "a", trace))
    assert rows[["source", "run_id", "layer", "time"]].drop_duplicates().values.tolist() == [
        ["net", "a", "features", 7]
    ]
    found = matrices(rows, 4)
    means = trace.statistics[Moment(7, "features", "train")].means.numpy()
    centred, weight = means - means.mean(axis=0), trace.heads[7][0].numpy()
    for name, vectors in (("means_uncentred", means), ("means", centred), ("weights", weight)):
        np.testing.assert_allclose(found[name], vectors @ vectors.T, rtol=1e-12, atol=1e-12)
    assert np.abs(found["means"].sum(axis=0)).max() < 1e-12 < np.abs(found["means_uncentred"].sum(axis=0)).max()


def test_over_a_hundred_classes_have_no_grams():
    assert len(list(gram_rows("net", "a", trace_of(100, (0,))))) == 3 * 100**2
    assert list(gram_rows("net", "a", trace_of(101, (0,)))) == []


def test_grams_are_written_beside_the_metrics_and_collected(tmp_path):
    save_traces(tmp_path / "statistics.safetensors", {"a": trace_of(3), "b": trace_of(4)})
    write_collapse(tmp_path / "statistics.safetensors", "ufm", tmp_path / "collapse.parquet")
    table = read_table(tmp_path / "grams.parquet")
    assert table.schema.equals(GRAMS)
    collected = pa.concat_tables(records([tmp_path, tmp_path / "none"], "grams")).to_pandas()
    assert collected.groupby("run_id").size().to_dict() == {"a": 3 * 9, "b": 3 * 16}
    assert set(collected["source"]) == {"ufm"}


def test_tables_without_grams_are_of_an_older_version_and_say_so(tmp_path):
    folder = MadeUp().write(tmp_path / "tables")
    (folder / "grams.parquet").unlink()
    with pytest.raises(UserError, match=r"no grams\.parquet in .*: write the tables again") as error:
        read_tables(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no tables in"):
        read_tables(tmp_path / "elsewhere")


# --- the figure ----------------------------------------------------------------------------------

HEATMAPS = FigureOptions(name="gram_heatmaps")


def images_of(tables) -> list[np.ndarray]:
    figure = draw(tables, HEATMAPS)
    return [np.asarray(axes.images[0].get_array()) for axes in figure.axes if axes.images]


def titles(figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.get_title(loc="left")]


def test_exact_frames_stand_left_of_the_networks(tmp_path):
    tables = read_tables(MadeUp().write(tmp_path))
    figure = draw(tables, HEATMAPS)
    assert titles(figure) == ["exact OF", "exact ETF", "mlp MSE no bias", "mlp CE bias"]
    of, etf, measured, other = images_of(tables)[:4]
    np.testing.assert_allclose(of, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(etf, (np.eye(4) - 0.25) * 2 / np.sqrt(3), atol=1e-12)
    expected = np.eye(4) + 0.2  # the lower median of two seeds
    np.testing.assert_allclose(measured, 2 * expected / np.linalg.norm(expected), atol=1e-12)
    np.testing.assert_allclose(other, measured)
    gap = np.linalg.norm(expected / np.linalg.norm(expected) - np.eye(4) / 2)
    assert any(axes.get_xlabel().startswith(f"to OF {gap:.2f}\nto ETF ") for axes in figure.axes)


def test_the_seed_with_the_median_distance_stands_for_its_label(tmp_path):
    tables = read_tables(MadeUp(seeds=3, labels=("a",), matched=False).write(tmp_path))
    rows = tables["grams"].query("run_id == 'a-1' and gram == 'means_uncentred'").sort_values(["row", "column"])
    median = 2 * unit_gram(rows["value"])
    others = tables["grams"].query("run_id == 'a-0' and gram == 'means_uncentred'").sort_values(["row", "column"])
    assert not np.allclose(median, 2 * unit_gram(others["value"]))
    for order in ([0, 1, 2], [2, 0, 1]):
        np.testing.assert_allclose(images_of(tables | {"runs": tables["runs"].iloc[order]})[2], median)


def test_labels_without_room_are_named_in_the_caption(tmp_path):
    names = tuple(f"net{i}" for i in range(16))
    tables = read_tables(MadeUp(labels=names, seeds=1).write(tmp_path))
    assert titles(draw(tables, HEATMAPS)) == ["exact OF", "exact ETF", *names[:14]]
    assert "No room for net14, net15." in caption(tables, HEATMAPS)
    few = read_tables(MadeUp(labels=names[:14], seeds=1).write(tmp_path / "few"))
    assert "No room" not in caption(few, HEATMAPS)


def test_what_is_undefined_is_said_in_its_panel(tmp_path):
    undefined = read_tables(MadeUp(value=float("nan")).write(tmp_path / "nan"))
    texts = [text.get_text() for axes in draw(undefined, HEATMAPS).axes for text in axes.texts]
    assert texts.count("undefined") == 4


def test_colours_saturate_so_that_an_etf_shows():
    assert colour_limit([4, 10]) == 0.5
    assert colour_limit([100]) == 0.05
    assert unit_gram([0.0] * 4) is None
    assert unit_gram([3, 0, 0, 4]).tolist() == [[0.6, 0], [0, 0.8]]
