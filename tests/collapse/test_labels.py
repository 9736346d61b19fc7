"""Labels that are not 0 .. K-1, and arrays of the wrong kind: what is measured, and the remedy that is named."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from brute_force import sample
from safetensors.numpy import save_file
from typer.testing import CliRunner

import ncpipe
from ncpipe.cli.main import app
from ncpipe.collapse import collapse_metrics, layer_statistics

DATA = sample([9, 4, 11], 12)
H, Y, WEIGHT, BIAS = DATA.arguments
IDS = np.array([3, 7, 9])[Y]
UNIQUE = r"{}\.unique\(labels, return_inverse=True\)\[1\]"
LIBRARIES = {"np": np.asarray, "torch": torch.as_tensor}
libraries = pytest.mark.parametrize("library", LIBRARIES)


def given(library, *arrays):
    return [LIBRARIES[library](array) for array in arrays]


def assert_same(row, expected):
    assert dict(row) == pytest.approx(dict(expected), rel=1e-10, abs=1e-13, nan_ok=True)
    assert row.undefined == expected.undefined


@libraries
@pytest.mark.parametrize("told", [{}, {"num_classes": 10}])
def test_ids_leave_all_of_the_means_undefined_and_the_remedy_is_named(library, told):
    why = ncpipe.measure(*given(library, H, IDS), **told).undefined["cdnv"]
    assert why.startswith("no sample of class 0, 1, 2, 4, 5 and 2 more")
    if not told:
        assert (
            f"number the classes, {library}.unique(labels, return_inverse=True)[1], or pass present_only=True" in why
        )


@libraries
def test_the_remedies_measure_ids(library):
    features, ids = given(library, H, IDS)
    unique = {"np": np.unique, "torch": torch.unique}[library]
    expected = ncpipe.measure(H, Y)
    assert_same(ncpipe.measure(features, unique(ids, return_inverse=True)[1]), expected)
    assert_same(ncpipe.measure(features, ids, present_only=True), expected)


RANGES = {
    "ids": (IDS, r"labels must lie in \[0, 3\), got values from 3 to 9: number the classes, " + UNIQUE),
    "from one": (Y + 1, r"\[0, 3\), got values from 1 to 3: if they count from 1, pass labels - 1"),
    "one of them far off": (np.where(Y == 2, 40, Y), UNIQUE),
    "ignored": (np.where(Y == 2, -100, Y), "drop the samples that are ignored, labels >= 0 keeps the others"),
    "minus and plus one": (np.where(Y == 0, -1, 1), UNIQUE),
}


@libraries
@pytest.mark.parametrize("told_by", ["num_classes", "weight", "train_means"])
@pytest.mark.parametrize(("labels", "message"), RANGES.values(), ids=RANGES)
def test_labels_out_of_range_have_a_remedy(labels, message, told_by, library):
    features, y, weight = given(library, H, labels, WEIGHT)
    told = {told_by: 3 if told_by == "num_classes" else weight}
    with pytest.raises(ValueError, match=message.replace("{}", library)):
        ncpipe.measure(features, y, **told)


def test_the_order_of_the_rows_is_named():
    with pytest.raises(ValueError, match="in the order of the rows of weight"):
        ncpipe.measure(H, IDS, WEIGHT)


@pytest.mark.parametrize("told_by", ["weight", "train_means"])
def test_an_array_by_class_tells_how_many_there_are(told_by):
    rows = Y < 2
    given = (H[rows], Y[rows])
    row = ncpipe.measure(*given, **{told_by: WEIGHT})
    assert row.undefined["cdnv"] == "no sample of class 2"
    assert_same(row, ncpipe.measure(*given, **{told_by: WEIGHT}, num_classes=3))


def test_more_classes_than_rows_are_named():
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 12\), got \(2, 12\): labels has 3 classes"):
        ncpipe.measure(H, Y, WEIGHT[:2])
    with pytest.raises(ValueError, match="3 classes, num_classes is too small"):
        ncpipe.measure(H, Y, num_classes=2)


def test_a_transposed_weight_is_named():
    with pytest.raises(ValueError, match=r"weight must have shape \(3, 12\), got \(12, 3\): pass weight.T"):
        ncpipe.measure(H, Y, WEIGHT.T)


@libraries
def test_large_ids_are_counted_or_numbered(library):
    with pytest.raises(ValueError, match="if that is right, pass num_classes, else .*" + UNIQUE.format(library)):
        ncpipe.measure(*given(library, H, 5000 * Y + 7))
    with pytest.raises(ValueError, match="at most 300,000 classes.*" + UNIQUE.format(library)):
        ncpipe.measure(*given(library, H.repeat(5000, axis=0), 200_000 * Y.repeat(5000)))


# The classes that are present


@pytest.mark.parametrize("train_means", [False, True])
def test_classes_present_are_those_of_the_data_without_the_others(train_means):
    wide, more = np.random.default_rng(0).normal(size=(10, 12)), np.arange(10.0)
    wide[[3, 7, 9]], more[[3, 7, 9]] = WEIGHT, BIAS
    outside = np.random.default_rng(1).normal(size=(5, 12))
    options = {"per_class": True, "ridge": 0.1, "ood_features": outside}
    row = ncpipe.measure(H, IDS, wide, more, present_only=True, **options)
    expected = ncpipe.measure(H, Y, WEIGHT, BIAS, **options)
    decided = (H @ wide.T + more).argmax(1)  # among all ten
    assert row["accuracy"] == pytest.approx((decided == IDS).mean())
    among_all = {"accuracy", "nc4_mismatch"}
    for values in (row, expected):
        for name in among_all:
            del values[name]
    assert_same(row, expected)
    assert row.undefined == expected.undefined == {}
    assert row.per_class["samples"].tolist() == [0, 0, 0, 9, 0, 0, 0, 4, 0, 11]
    for name in ("variance", "nc1_pinv", "unc3"):
        np.testing.assert_allclose(row.per_class[name][[3, 7, 9]], expected.per_class[name])
        assert np.isnan(row.per_class[name][0])
    np.testing.assert_allclose(row.per_pair["cdnv"][np.ix_([3, 7, 9], [3, 7, 9])], expected.per_pair["cdnv"])


def test_about_train_means_the_classes_between_are_all_of_them():
    means = np.random.default_rng(0).normal(size=(10, 12))
    row = ncpipe.measure(H, IDS, train_means=means, present_only=True)
    within = ((H - means[IDS]) ** 2).sum() / len(H)
    between = ((means - means.mean(0)) ** 2).sum() / 10
    assert row["nc1_trace_ratio_train_means"] == pytest.approx(within / between)
    spread = np.linalg.pinv((means - means.mean(0)).T @ (means - means.mean(0)) / 10, rcond=1e-10)
    scatter = (H - means[IDS]).T @ (H - means[IDS]) / len(H)
    assert row["nc1_pinv_train_means"] == pytest.approx(np.trace(scatter @ spread) / 10)
    variances = {c: ((H[c == IDS] - means[c]) ** 2).sum(1).mean() for c in (3, 7, 9)}
    pairs = [(3, 7), (3, 9), (7, 9)]
    cdnv = np.mean([(variances[a] + variances[b]) / 2 / ((means[a] - means[b]) ** 2).sum() for a, b in pairs])
    assert row["cdnv_train_means"] == pytest.approx(cdnv)


def test_with_all_classes_there_is_nothing_to_leave_out():
    options = {"ridge": 0.1, "per_class": True}
    assert ncpipe.measure(*DATA.arguments, present_only=True, **options) == ncpipe.measure(*DATA.arguments, **options)


def test_of_one_class_present_there_is_one_class():
    row = ncpipe.measure(H, 0 * Y + 5, present_only=True)
    assert row.undefined["cdnv"] == "there is one class only"


def test_statistics_are_of_the_classes_of_the_arrays():
    stats = layer_statistics(torch.as_tensor(H), torch.as_tensor(IDS), 10, weight=torch.zeros(10, 12).double())
    wide = torch.randn(10, 12)
    row = collapse_metrics(stats, wide, present_only=True)
    assert row["cdnv"] == pytest.approx(ncpipe.measure(H, Y)["cdnv"])
    assert row["unc3"] == pytest.approx(ncpipe.measure(H, Y, wide.double().numpy()[[3, 7, 9]])["unc3"])
    assert math.isnan(collapse_metrics(stats, wide)["cdnv"])
    for name, value in {"weight": WEIGHT, "train_means": WEIGHT}.items():
        with pytest.raises(ValueError, match=rf"{name} must have shape \(10, 12\), got \(3, 12\)"):
            collapse_metrics(stats, **{name: value})
    with pytest.raises(ValueError, match=r"weight must be floating point, got torch.int64: weight.double"):
        collapse_metrics(stats, wide.long())


# Kinds

KINDS = {
    "one-hot": ({"labels": np.eye(3)[Y]}, r"of one-hot labels take labels.argmax\(1\)"),
    "one-hot of integers": ({"labels": np.eye(3, dtype=int)[Y]}, r"of one-hot labels take labels.argmax\(1\)"),
    "one-hot of booleans": ({"labels": np.eye(3, dtype=bool)[Y]}, r"of one-hot labels take labels.argmax\(1\)"),
    "several labels": ({"labels": np.ones((24, 3), int)}, "of samples with several labels take those with one"),
    "a column": ({"labels": Y[:, None]}, r"labels.flatten\(\)"),
    "floats": ({"labels": Y.astype(float)}, "labels must be integers, got {float64}: {integers}"),
    "targets of a regression": ({"labels": Y + 0.5}, "these are no numbers of classes"),
    "without a label": ({"labels": np.where(Y == 2, math.nan, Y)}, "drop the samples without a label"),
    "booleans": ({"labels": Y > 0}, "labels must be integers, got {bool}: {integers}"),
    "integer features": (
        {"features": (9 * H).astype(int)},
        "must be floating point, got {int64}: features{floating}",
    ),
    "bytes": ({"features": (9 * H).astype(np.uint8)}, "must be floating point, got {uint8}: features{floating}"),
    "integer weight": ({"weight": np.ones((3, 12), int)}, "must be floating point, got {int64}: weight{floating}"),
    "complex features": ({"features": H + 1j}, "pass features.real"),
    "maps": ({"features": H.reshape(24, 3, 2, 2)}, "flatten maps, {flat}, or pool them"),
    "one feature": ({"features": H[:, 0].copy()}, r"one feature is features\[:, None\]"),
    "a column of biases": ({"weight": WEIGHT, "bias": BIAS[:, None]}, r"bias.flatten\(\)"),
}
WORDS = {
    "np": {
        "{integers}": r"labels.astype\(int\)",
        "{floating}": r".astype\(np.float64\)",
        "{flat}": r"features.reshape\(len\(features\), -1\)",
    },
    "torch": {
        "{integers}": r"labels.long\(\)",
        "{floating}": r".double\(\)",
        "{flat}": r"features.flatten\(1\)",
    },
}


@libraries
@pytest.mark.parametrize(("change", "message"), KINDS.values(), ids=KINDS)
def test_the_remedy_is_in_the_words_of_the_array(change, message, library):
    for name, words in WORDS[library].items():
        message = message.replace(name, words)
    for kind in ("float64", "bool", "int64", "uint8"):
        message = message.replace(f"{{{kind}}}", kind if library == "np" else f"torch.{kind}")
    arrays = {name: LIBRARIES[library](value) for name, value in ({"features": H, "labels": Y} | change).items()}
    with pytest.raises(ValueError, match=message):
        ncpipe.measure(**arrays)
    if library == "torch" and not {"weight", "bias"} & change.keys():
        with pytest.raises(ValueError, match=message):
            ncpipe.CollapseMetrics(3).update(arrays["features"], arrays["labels"])


NAMES = np.array(["cat", "dog", "emu"])


@pytest.mark.parametrize(
    "labels",
    [NAMES[Y], NAMES.astype("S")[Y], NAMES.astype(object)[Y], NAMES[Y].tolist(), Y.astype("datetime64[s]")],
    ids=["words", "bytes", "objects", "list", "dates"],
)
@pytest.mark.parametrize("features", LIBRARIES.values(), ids=LIBRARIES)
def test_words_are_numbered(labels, features):
    with pytest.raises(ValueError, match=UNIQUE.format("np")):
        ncpipe.measure(features(H), labels)
    with pytest.raises(ValueError, match=UNIQUE.format("np") + ", of all samples before they are batched"):
        ncpipe.CollapseMetrics(3).update(features(H), labels)
    assert ncpipe.measure(H, np.unique(labels, return_inverse=True)[1]) == ncpipe.measure(H, Y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": Y.tolist()}, r"got list: np.asarray\(labels\)"),
        ({"features": H.tolist()}, r"got list: np.asarray\(features\)"),
        ({"labels": [[0], [1, 2]]}, "got list: pass numbers of one shape"),
        ({"weight": torch.nn.Linear(12, 3)}, "got Linear: pass its weight"),
        ({"features": H.astype(np.longdouble)}, r"features.astype\(np.float64\)"),
        ({"features": H.astype(str)}, r"features.astype\(np.float64\)"),
        ({"labels": np.ma.masked_array(Y)}, "drop the samples that are masked"),
    ],
)
def test_what_is_no_array_is_made_one(change, message):
    with pytest.raises(ValueError, match=message):
        ncpipe.measure(**({"features": H, "labels": Y} | change))


def test_tables_are_made_arrays():
    pd = pytest.importorskip("pandas")
    with pytest.raises(ValueError, match=r"got Series: labels.to_numpy\(\)"):
        ncpipe.measure(H, pd.Series(Y))
    with pytest.raises(ValueError, match="got Series: .*" + UNIQUE.format("np")):
        ncpipe.measure(H, pd.Series(NAMES[Y], dtype="category"))
    with pytest.raises(ValueError, match=r"got DataFrame: features.to_numpy\(\)"):
        ncpipe.measure(pd.DataFrame(H), Y)


@pytest.mark.parametrize("on_meta", [{"features"}, {"labels"}, {"features", "labels"}, {"weight"}], ids=sorted)
def test_meta_tensors_have_no_values(on_meta):
    arrays = {"features": H, "labels": Y, "weight": WEIGHT}
    moved = {n: torch.as_tensor(v).to("meta" if n in on_meta else "cpu") for n, v in arrays.items()}
    with pytest.raises(ValueError, match="a meta tensor has no values, compute it on a device"):
        ncpipe.measure(**moved)


# The command line


@pytest.fixture
def measured(tmp_path):
    def run(arrays, *options, suffix="npz"):
        path = tmp_path / f"a.{suffix}"
        np.savez(path, **arrays) if suffix == "npz" else save_file(arrays, path)
        return CliRunner().invoke(app, ["measure", str(path), *options])

    return run


@pytest.mark.parametrize(("suffix", "library"), [("npz", "np"), ("safetensors", "torch")])
def test_a_file_has_the_remedies_of_its_kind(measured, suffix, library):
    done = measured({"features": H, "labels": IDS, "weight": WEIGHT}, suffix=suffix)
    assert f"{library}.unique(labels, return_inverse=True)[1]" in str(done.exception)
    done = measured({"features": H, "labels": IDS}, suffix=suffix)
    assert (
        f"number the classes, {library}.unique(labels, return_inverse=True)[1], or pass --present-only" in done.stdout
    )
    assert "--num-classes" in str(measured({"features": H, "labels": 5000 * Y}, suffix=suffix).exception)
    done = measured({"features": H, "labels": IDS}, "--present-only", "--json", suffix=suffix)
    assert json.loads(done.stdout) == pytest.approx(dict(ncpipe.measure(H, Y)))


def test_a_file_of_objects_is_told_what_to_save(measured):
    done = measured({"features": H, "labels": NAMES.astype(object)[Y]})
    assert "labels holds Python objects, number the classes, np.unique" in str(done.exception)
    done = measured({"features": H.astype(object), "labels": Y})
    assert "save features.astype(np.float64)" in str(done.exception)


def test_classes_without_a_sample_are_told_once(measured):
    done = measured({"features": H, "labels": Y, "weight": np.vstack([WEIGHT, WEIGHT[:1]])})
    assert "no sample of class 3; --present-only measures the other classes" in done.stderr
    assert "nan  (no sample of class 3)" in done.stdout
