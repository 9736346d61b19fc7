"""Collapse metrics of arrays: brute force, exact frames, invariances, layouts, reasons and bad input."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from brute_force import (
    Sample,
    around,
    cosine,
    definitions,
    means_of,
    norm,
    of_gram,
    off_diagonal,
    off_means,
    orthonormal,
    sample,
    simplex_etf,
)
from extent import cases
from hypothesis import given, settings
from hypothesis import strategies as st

import ncpipe
from ncpipe.collapse import (
    LayerStatistics,
    Moment,
    SecondPass,
    Trace,
    balancedness,
    class_moments,
    collapse_metrics,
    effective_rank,
    hyperspherical_energy,
    layer_statistics,
    moments,
    nc3_rows,
    ood_orthogonality,
    stable_rank,
    subspace_alignment,
)
from ncpipe.records.traces import load_traces, save_traces

NC1 = ("nc1_pinv", "nc1_trace_ratio", "within_share", "cdnv")
VARIABILITY = (*NC1, *(f"{name}_train_means" for name in NC1))
GEOMETRY = (
    *("nc2_means_equinorm", "nc2_means_angle_std", "nc2_means_equiangle", "nc2_means_etf", "means_effective_rank"),
    *("means_stable_rank", "gnc2_log", "gnc2_log_var", "gnc2_riesz_1", "gnc2_riesz_2", "condition"),
)
SCALED = {"unc3": 2, "nc4_bias": 1}
"""Metrics that change with the scale of features and its power in them; without a bias all others do not."""
properties = settings(max_examples=cases(20), deadline=None, derandomize=True)


def assert_agree(measured, expected, rel=1e-10, abs=1e-13):
    """Equal names and values; what vanishes at collapse by its square has no absolute tolerance."""
    assert set(measured) == set(expected)
    for name, value in expected.items():
        least = 0.0 if name in VARIABILITY else abs
        assert measured[name] == pytest.approx(value, rel=rel, abs=least, nan_ok=True), name


def tensors(data: Sample) -> list[torch.Tensor]:
    return [torch.as_tensor(array) for array in data.arguments]


def confused(gap: float, spread: float) -> Sample:
    """Five classes, two of them a distance of about ``gap`` apart."""
    rng = np.random.default_rng(7)
    means = rng.standard_normal((5, 10))
    means[3] = means[1] + gap * rng.standard_normal(10)
    return around(means, [20, 30, 10, 8, 9], spread, rng)


# Agreement with the definitions

CASES = {
    "balanced": sample([7] * 4, 6, 1.0),
    "imbalanced": sample([3, 9, 50], 20, 0.3),
    "two classes": sample([4, 6], 3),
    "one dimension": sample([5, 5], 1),
    "more classes than dimensions": sample([5, 3, 9, 30, 2, 2, 4], 3, 1.0),
    "as many classes as dimensions": sample([6, 3, 4, 5], 4),
    "one class more than dimensions": sample([6, 3, 4, 5], 3),
    "more dimensions than samples": sample([3, 2, 4], 600, 1.0),
    "more samples than are read at once": sample([1500, 900, 700], 5),
    "collapsed to 1e-6": sample([30, 5, 11], 12, 1e-3),
    "collapsed to 1e-14": sample([30, 5, 11], 12, 2e-7),
    "offset": sample([300, 50, 110], 12, 0.1, offset=1e4),
    "collapsed to 1e-14 with an offset": sample([300, 50, 110], 12, 2e-7, offset=1e3),
    "two classes nearly confused": confused(1e-3, 1e-2),
    "two classes nearly confused and collapsed": confused(1e-4, 1e-6),
}


@pytest.mark.parametrize("data", CASES.values(), ids=CASES)
def test_metrics_agree_with_the_definitions(data):
    row = ncpipe.measure(*data.arguments)
    assert_agree(row, definitions(data))
    assert row.undefined == {}


def test_collapsed_cases_are_as_collapsed_as_they_say():
    for name, bound in (("collapsed to 1e-14", 3e-14), ("collapsed to 1e-14 with an offset", 3e-14)):
        assert 1e-15 < definitions(CASES[name])["nc1_pinv"] < bound


def test_nc1_is_the_trace_with_the_pseudo_inverse():
    data = sample([9, 5, 14], 6)
    means = np.stack([data.features[data.labels == c].mean(axis=0) for c in range(3)])
    rest = data.features - means[data.labels]
    within, between = rest.T @ rest / 28, np.cov(means.T, bias=True)
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3
    assert ncpipe.measure(data.features, data.labels)["nc1_pinv"] == pytest.approx(expected, rel=1e-10)


def test_nc1_has_its_published_check_value():
    columns = [[(3 * i + 5 * j + i * j) % 7 - 3.0 for i in range(4)] for j in range(6)]
    row = ncpipe.measure(torch.tensor(columns).double(), torch.arange(3).repeat_interleave(2))
    assert row["nc1_pinv"] == pytest.approx(2.5398335315, rel=1e-10)


def test_a_million_samples_agree_with_the_definitions():
    data = sample([300_000, 500_000, 200_000], 4)
    assert_agree(ncpipe.measure(*data.arguments), definitions(data))


def test_close_classes_in_float32_do_not_fool_the_pseudo_inverse():
    data = confused(1e-3, 1e-3)
    features = data.features.astype(np.float32)
    exact = definitions(Sample(features.astype(float), data.labels, data.weight, data.bias))
    assert exact["nc1_pinv"] > 0.1
    assert ncpipe.measure(features, data.labels)["nc1_pinv"] == pytest.approx(exact["nc1_pinv"], rel=1e-10)


@pytest.mark.parametrize("data", [CASES["imbalanced"], CASES["more classes than dimensions"], confused(1e-3, 1e-2)])
def test_metrics_of_a_test_split_agree_with_the_definitions(data):
    train_means = data.weight + 0.5  # any means
    row = ncpipe.measure(*data.arguments, train_means=train_means)
    assert_agree(row, definitions(data, train_means))


def test_train_means_change_decisions_only():
    data, other = sample([7, 4, 9], 6, 2.0), sample([7, 4, 9], 6, seed=1)
    own = ncpipe.measure(*data.arguments)
    row = ncpipe.measure(*data.arguments, train_means=other.weight)
    for name in ("ncc_accuracy", "nc4_mismatch"):
        assert own.pop(name) != row[name]
    assert own == {name: row[name] for name in own}


def test_nearest_means_are_those_of_training():
    labels, features = torch.tensor([0, 0, 1, 1]), torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    assert ncpipe.measure(features, labels)["ncc_accuracy"] == 1
    assert ncpipe.measure(features, labels, train_means=torch.tensor([[3.0], [0.0]]))["ncc_accuracy"] == 0


def test_samples_at_the_train_means_have_no_variability_about_them():
    means = orthonormal(3, 5)
    labels = np.repeat(np.arange(3), 4)
    at = ncpipe.measure(means[labels], labels, train_means=means)
    away = ncpipe.measure(means[labels] + 0.1, labels, train_means=means)
    assert max(at[f"{name}_train_means"] for name in NC1) < 1e-28
    assert max(away[name] for name in NC1) < 1e-28
    assert away["nc1_trace_ratio_train_means"] == pytest.approx(5 * 0.01 / (2 / 3), rel=1e-12)


def test_the_bias_takes_part_in_decisions():
    data = sample([5, 5], 3)
    for chosen in (0, 1):
        row = ncpipe.measure(data.features, data.labels, data.weight, 1e6 * np.eye(2)[chosen], per_class=True)
        assert row["accuracy"] == 0.5
        assert row.per_class["accuracy"].tolist() == np.eye(2)[chosen].tolist()


# Exact frames

COUNTS = [40, 7, 13, 200]
FRAME_LABELS = np.repeat(np.arange(4), COUNTS)


def test_an_exact_simplex_etf_has_its_values():
    vectors, K = simplex_etf(4, 9), 4
    row = ncpipe.measure(1.3 * vectors[FRAME_LABELS], FRAME_LABELS, 2 * vectors, np.zeros(K))
    squares = {*NC1, "gnc2_log_var", "unc3", "nc3_duality", "nc3_rows"}
    for name in squares:
        assert 0 <= row[name] < 1e-24, name
    zeros = {
        f"nc2_{of}_{name}" for of in ("means", "weights") for name in ("equinorm", "angle_std", "equiangle", "etf")
    }
    zeros |= {"nc2_means_uncentred_etf", "means_uncentred_condition", "nc3_etf", "nc4_mismatch", "nc4_bias"}
    for name in zeros:
        assert row[name] == pytest.approx(0, abs=1e-12), name
    gap = math.sqrt(2 - 2 * math.sqrt(3 / 4))
    values = dict.fromkeys(("nc2_means_of", "nc2_weights_of", "nc3_of"), gap)
    values |= dict.fromkeys(("subspace_alignment", "condition", "accuracy", "ncc_accuracy"), 1)
    values |= {f"{of}_{kind}_rank": K - 1 for of in ("means", "weights") for kind in ("effective", "stable")}
    values |= {"rank": K - 1, "gnc2_log": -math.log(2 * K / (K - 1)) / 2}
    values |= {f"gnc2_riesz_{s}": (2 * K / (K - 1)) ** (-s / 2) for s in (1, 2)}
    assert_agree({name: row[name] for name in values}, values, rel=1e-12)
    assert squares | zeros | set(values) == set(row)


def test_an_exact_orthogonal_frame_has_its_values():
    frame, K = orthonormal(4, 9), 4
    row = ncpipe.measure(3 * frame[FRAME_LABELS], FRAME_LABELS, 2 * frame)
    for name in (*NC1, "gnc2_log_var", "unc3", "nc3_rows"):
        assert 0 <= row[name] < 1e-24, name
    zeros = ["nc2_means_equinorm", "nc2_means_angle_std", "nc2_means_equiangle", "nc2_means_etf", "nc2_means_of"]
    zeros += ["nc2_weights_equinorm", "nc2_weights_angle_std", "nc2_weights_of", "nc3_of", "nc3_etf", "nc4_mismatch"]
    for name in zeros:
        assert row[name] == pytest.approx(0, abs=1e-12), name
    gap = 0.51763809020504152
    expected = {"nc2_means_uncentred_etf": gap, "nc2_weights_etf": gap, "nc2_weights_equiangle": 1 / 3}
    expected |= {"nc3_duality": 2 - 2 * math.sqrt(3 / 4), "subspace_alignment": 1, "rank": K - 1}
    expected |= {"weights_effective_rank": K, "weights_stable_rank": K, "means_stable_rank": K - 1, "nc4_bias": 3}
    assert_agree({name: row[name] for name in expected}, expected, rel=1e-12)


@pytest.mark.parametrize(("change", "name"), [(0, "nc2_means_etf"), (1, "nc2_weights_etf"), (1, "nc3_duality")])
def test_a_frame_that_is_off_is_seen(change, name):
    vectors = [simplex_etf(4, 9), simplex_etf(4, 9)]
    vectors[change][2] *= 1.01
    assert ncpipe.measure(vectors[0][FRAME_LABELS], FRAME_LABELS, vectors[1])[name] > 1e-6


# Invariances


@st.composite
def samples(draw, least_dim=2):
    counts = draw(st.lists(st.integers(2, 12), min_size=2, max_size=6))
    return sample(counts, draw(st.integers(least_dim, 8)), 0.4, seed=draw(st.integers(0, 10_000)))


@properties
@given(samples(), st.integers(0, 1000))
def test_a_rotation_changes_nothing(data, seed):
    turn = orthonormal(data.features.shape[1], data.features.shape[1], seed)
    turned = ncpipe.measure(data.features @ turn, data.labels, data.weight @ turn, data.bias)
    assert_agree(turned, ncpipe.measure(*data.arguments), rel=1e-8, abs=1e-10)


@properties
@given(samples(), st.floats(1e-6, 1e6))
def test_a_scale_changes_only_what_says_so(data, scale):
    row = ncpipe.measure(*data.arguments[:3])
    scaled = ncpipe.measure(scale * data.features, data.labels, data.weight)
    expected = {name: value * scale ** SCALED.get(name, 0) for name, value in row.items()}
    assert_agree(scaled, expected, rel=1e-9, abs=1e-10)
    weighted = ncpipe.measure(data.features, data.labels, scale * data.weight)
    assert weighted["nc3_duality"] == pytest.approx(row["nc3_duality"], rel=1e-10)


@properties
@given(samples(), st.randoms(use_true_random=False))
def test_the_order_of_samples_changes_nothing(data, random):
    order = random.sample(range(len(data.labels)), len(data.labels))
    shuffled = ncpipe.measure(data.features[order], data.labels[order], data.weight, data.bias)
    assert_agree(shuffled, ncpipe.measure(*data.arguments), rel=1e-9, abs=1e-11)


@properties
@given(samples(), st.randoms(use_true_random=False))
def test_the_names_of_classes_change_nothing(data, random):
    names = np.array(random.sample(range(data.num_classes), data.num_classes))
    back = names.argsort()
    renamed = ncpipe.measure(data.features, names[data.labels], data.weight[back], data.bias[back])
    assert_agree(renamed, ncpipe.measure(*data.arguments), rel=1e-9, abs=1e-11)


@properties
@given(samples(), st.integers(0, 1000))
def test_nc1_is_the_same_after_an_invertible_linear_map_where_the_means_span_all_dimensions(data, seed):
    dim = min(data.features.shape[1], data.num_classes - 1)
    features = data.features[:, :dim]
    change = orthonormal(dim, dim, seed) * np.linspace(0.5, 3, dim)
    mapped = ncpipe.measure(features @ change + 2, data.labels)["nc1_pinv"]
    assert mapped == pytest.approx(ncpipe.measure(features, data.labels)["nc1_pinv"], rel=1e-7)


def test_nc1_is_the_same_after_any_invertible_map_of_scatter_within_the_span_of_the_means():
    data = sample([5, 7, 9], 2)
    wide = np.random.default_rng(3).standard_normal((2, 6))
    expected = ncpipe.measure(data.features, data.labels)["nc1_pinv"]
    assert ncpipe.measure(data.features @ wide, data.labels)["nc1_pinv"] == pytest.approx(expected, rel=1e-10)


# Sums that merge


def split_at(data: Sample, cut: int):
    h, y, *_ = tensors(data)
    return (h[:cut], y[:cut]), (h[cut:], y[cut:])


@properties
@given(samples(least_dim=1), st.data())
def test_moments_of_two_parts_add_up(data, draw):
    cut = draw.draw(st.integers(0, len(data.labels)))
    h, y, *_ = tensors(data)
    whole = class_moments(h, y, data.num_classes)
    first, second = (class_moments(*part, data.num_classes) for part in split_at(data, cut))
    for merged in (first + second, second + first):
        assert torch.equal(merged.counts, whole.counts)
        torch.testing.assert_close(merged.means, whole.means, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=0)


def test_collapsed_moments_with_an_offset_keep_their_digits_when_merged():
    data = CASES["collapsed to 1e-14 with an offset"]
    first, second = (class_moments(*part, 3) for part in split_at(data, 100))
    means = means_of(data.features, data.labels, 3)
    rest = np.square(data.features - means[data.labels]).sum(axis=1)
    expected = np.array([rest[data.labels == c].sum() for c in range(3)], dtype=float)
    rounding = 1e3 * np.finfo(float).eps / 2e-7  # of a mean against the spread
    np.testing.assert_allclose((first + second).scatter, expected, rtol=rounding)


def test_moments_of_a_class_that_no_part_has_stay_undefined():
    data = sample([3, 4], 2)
    first, second = (class_moments(*part, 3) for part in split_at(data, 2))
    merged = first + second
    assert merged.counts.tolist() == [3, 4, 0]
    assert merged.means.isnan().any(dim=1).tolist() == [False, False, True]
    assert merged.scatter[2] == 0


@properties
@given(samples(least_dim=1), st.data())
def test_statistics_of_two_parts_add_up(data, draw):
    cut = draw.draw(st.integers(0, len(data.labels)))
    h, y, weight, bias = tensors(data)
    options = {"weight": weight, "bias": bias, "train_means": weight + 0.1, "products": True}
    whole = layer_statistics(h, y, data.num_classes, **options)
    second = SecondPass(whole.counts, whole.means, **options)
    first, rest = (second(*part) for part in split_at(data, cut))
    assert_statistics_equal(first + rest, whole)
    assert (first + rest).squared_norm == pytest.approx((data.features**2).sum(), rel=1e-12)


def assert_statistics_equal(found: LayerStatistics, expected: LayerStatistics):
    assert found.tensors().keys() == expected.tensors().keys()
    for name, value in expected.tensors().items():
        mine = found.tensors()[name]
        assert mine.dtype == value.dtype, name
        if value.dtype == torch.int64:
            assert torch.equal(mine, value), name
        else:
            torch.testing.assert_close(mine, value, rtol=1e-12, atol=1e-13, msg=name)


def test_statistics_about_different_means_do_not_add():
    first, second = (layer_statistics(*part, 2) for part in split_at(sample([6, 6], 3), 5))
    with pytest.raises(ValueError, match="about different class means do not add"):
        first + second


def test_statistics_that_hold_different_things_do_not_add():
    h, y, weight, _ = tensors(sample([6, 6], 3))
    with pytest.raises(ValueError, match="agreements"):
        layer_statistics(h, y, 2) + layer_statistics(h, y, 2, weight=weight)


def test_products_are_the_within_class_covariance():
    h, y, *_ = tensors(sample([6, 4, 9], 5))
    statistics = layer_statistics(h, y, 3, products=True)
    rest = h - statistics.means[y]
    torch.testing.assert_close(statistics.within_products, rest.T @ rest, rtol=1e-12, atol=1e-13)


def test_statistics_of_moments_alone_give_what_needs_no_second_pass():
    h, y, weight, bias = tensors(sample([6, 4, 9], 5))
    seen = class_moments(h, y, 3)
    row = collapse_metrics(LayerStatistics(seen.counts, seen.means, seen.scatter), weight, bias)
    late = {"nc1_pinv", "ncc_accuracy", "nc4_mismatch", "accuracy"}
    assert row.undefined == dict.fromkeys(late, "needs a second pass over the features")
    full = ncpipe.measure(h, y, weight, bias)
    assert_agree({n: row[n] for n in row.keys() - late}, {n: full[n] for n in full.keys() - late}, rel=1e-12)


def test_the_squared_norm_leaves_out_a_class_without_samples():
    h, y, *_ = tensors(sample([6, 4], 5))
    assert layer_statistics(h, y, 3).squared_norm == pytest.approx(float(h.square().sum()))


def test_any_byte_order_is_read():
    data = sample([9, 5, 4], 6)
    swapped = data.features.astype(">f8")
    assert dict(ncpipe.measure(swapped, data.labels)) == dict(ncpipe.measure(data.features, data.labels))


def test_moments_of_other_shapes_do_not_add():
    h, y, *_ = tensors(sample([6, 4], 5))
    with pytest.raises(ValueError, match="moments of other classes or features do not add"):
        class_moments(h, y, 2) + class_moments(h, y, 3)


def test_statistics_without_the_weight_say_so():
    h, y, weight, _ = tensors(sample([6, 4], 5))
    row = collapse_metrics(layer_statistics(h, y, 2), weight)
    assert row.undefined["nc4_mismatch"] == "the statistics were taken without the weight"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_gpu_agrees_with_the_cpu(dtype):
    h, y, weight, bias = tensors(sample([900, 700, 400, 1500], 37))
    h, train_means = h.to(dtype), weight.flip(0)
    expected = ncpipe.measure(h, y, weight, bias, train_means=train_means, ridge=0.1)
    moved = [tensor.cuda() for tensor in (h, y, weight, bias)]
    row = ncpipe.measure(*moved, train_means=train_means.cuda(), ridge=0.1)
    assert row == pytest.approx(expected, rel=1e-6)
    metric = ncpipe.CollapseMetrics(4, *moved[2:]).cuda()
    metric.update(*moved[:2])
    metric.start_second_pass()
    metric.update(*moved[:2])
    assert metric.compute()["nc1_pinv"] == pytest.approx(expected["nc1_pinv"], rel=1e-6)


@pytest.mark.parametrize(("error", "warned"), [(RuntimeError("no C compiler"), 1), (ImportError("no triton"), 0)])
def test_where_triton_fails_plain_torch_does_it(monkeypatch, error, warned):
    def broken(name):
        raise error

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(moments, "import_module", broken)
    with warnings.catch_warnings(record=True) as told:
        assert moments._kernels.__wrapped__(torch.device("cuda", 0)) is None
    assert len(told) == warned
    assert all("Triton fails: no C compiler" in str(warning.message) for warning in told)


# Types and layouts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_measured_as_the_same_values_widened(dtype):
    data = sample([200, 150, 30], 16, 0.2)
    low = [tensor.to(dtype) for tensor in tensors(data)[:1] + tensors(data)[2:]]
    labels = torch.as_tensor(data.labels)
    row = ncpipe.measure(low[0], labels, *low[1:])
    assert row == ncpipe.measure(low[0].double(), labels, *(tensor.double() for tensor in low[1:]))
    wide = Sample(low[0].double().numpy(), data.labels, *(tensor.double().numpy() for tensor in low[1:]))
    assert_agree(row, definitions(wide))


def test_numpy_and_torch_give_the_same():
    data = sample([9, 5, 4], 6)
    row = ncpipe.measure(*data.arguments, train_means=data.weight)
    assert row == ncpipe.measure(*tensors(data), train_means=torch.as_tensor(data.weight))
    assert row == ncpipe.measure(torch.as_tensor(data.features), *data.arguments[1:], train_means=data.weight)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint16])
def test_labels_may_be_any_integers(dtype):
    data = sample([9, 5, 4], 6)
    row = ncpipe.measure(data.features, data.labels.astype(dtype))
    assert row == ncpipe.measure(data.features, data.labels)


def test_tensors_that_want_a_gradient_are_measured():
    h, y, weight, bias = tensors(sample([9, 5, 4], 6))
    grown = [tensor.clone().requires_grad_() for tensor in (h, weight, bias)]
    assert ncpipe.measure(grown[0], y, *grown[1:], per_class=True) == ncpipe.measure(h, y, weight, bias)


def layouts(array):
    """The same values with negative, doubled and transposed strides."""
    doubled = np.repeat(np.repeat(array, 2, axis=0), 2, axis=-1) if array.ndim == 2 else np.repeat(array, 2)
    yield array[::-1].copy()[::-1]
    yield doubled[::2, ::2] if array.ndim == 2 else doubled[::2]
    yield np.asfortranarray(array)


@pytest.mark.parametrize("layout", range(3), ids=["reversed", "strided", "transposed"])
def test_any_layout_is_measured(layout):
    data = sample([9, 5, 4], 6)
    laid_out = [list(layouts(array))[layout] for array in data.arguments]
    expected = ncpipe.measure(*data.arguments)
    assert_agree(ncpipe.measure(*laid_out), expected, rel=1e-13, abs=1e-14)
    if layout:
        assert_agree(ncpipe.measure(*map(torch.as_tensor, laid_out)), expected, rel=1e-13, abs=1e-14)


def test_the_arguments_are_left_as_they_are():
    h, y, weight, bias = tensors(sample([9, 5, 4], 6))
    before = [tensor.clone() for tensor in (h, y, weight, bias)]
    ncpipe.measure(h, y, weight, bias, train_means=weight, per_class=True, ridge=0.1, ood_features=h)
    assert all(torch.equal(*pair) for pair in zip((h, y, weight, bias), before))


def test_read_only_arrays_are_measured_without_a_warning():
    data = sample([9, 5, 4], 6)
    data.features.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ncpipe.measure(data.features, data.labels)


# Breakdown by class and pair


@pytest.fixture(scope="module")
def broken_down():
    data = sample([9, 5, 24, 3], 6, 1.0)
    return data, ncpipe.measure(*data.arguments, per_class=True)


def test_a_breakdown_is_made_only_on_request(broken_down):
    data, row = broken_down
    plain = ncpipe.measure(*data.arguments)
    assert plain == row
    assert plain.per_class == plain.per_pair == {}


@pytest.mark.parametrize("name", ["nc1_pinv", "ncc_accuracy", "nc4_mismatch", "accuracy"])
def test_weighted_means_over_classes_are_the_metric(broken_down, name):
    _, row = broken_down
    assert row.per_class["samples"].tolist() == [9, 5, 24, 3]
    share = row.per_class["samples"] / 41
    assert share @ row.per_class[name] == pytest.approx(row[name], rel=1e-12)
    assert len(set(row.per_class[name])) > 1


def test_other_metrics_follow_from_the_breakdown_too(broken_down):
    _, row = broken_down
    classes, share = row.per_class, row.per_class["samples"] / 41
    within, between = share @ classes["variance"], (classes["mean_norm"] ** 2).mean()
    assert within / between == pytest.approx(row["nc1_trace_ratio"], rel=1e-12)
    for of, norms in (("means", classes["mean_norm"]), ("weights", classes["weight_norm"])):
        assert norms.std() / norms.mean() == pytest.approx(row[f"nc2_{of}_equinorm"], rel=1e-12)
        cosines = off_diagonal(row.per_pair[f"{of}_cosine"])
        assert cosines.std() == pytest.approx(row[f"nc2_{of}_angle_std"], rel=1e-12)
    assert classes["unc3"].var() == pytest.approx(row["unc3"], rel=1e-12)
    assert off_diagonal(row.per_pair["cdnv"]).mean() == pytest.approx(row["cdnv"], rel=1e-12)


def test_pairs_agree_with_the_definitions(broken_down):
    data, row = broken_down
    means = means_of(data.features, data.labels, 4)
    centred = means - means.mean(axis=0)
    for a, b in ((0, 1), (2, 3), (3, 0)):
        assert row.per_pair["means_distance"][a, b] == pytest.approx(float(norm(means[a] - means[b])), rel=1e-12)
        assert row.per_pair["means_cosine"][a, b] == pytest.approx(float(cosine(centred[a], centred[b])), rel=1e-12)
        spread = row.per_class["variance"][[a, b]].sum() / 2
        assert row.per_pair["cdnv"][a, b] == pytest.approx(spread / float(norm(means[a] - means[b])) ** 2, rel=1e-12)


def test_pairs_are_symmetric_and_have_their_diagonals(broken_down):
    _, row = broken_down
    assert set(row.per_pair) == {"cdnv", "means_cosine", "means_distance", "weights_cosine"}
    for name, matrix in row.per_pair.items():
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-13, err_msg=name)
    assert np.isnan(row.per_pair["cdnv"].diagonal()).all()
    np.testing.assert_allclose(row.per_pair["means_cosine"].diagonal(), 1, rtol=1e-14)
    np.testing.assert_allclose(row.per_pair["weights_cosine"].diagonal(), 1, rtol=1e-14)
    assert (row.per_pair["means_distance"].diagonal() == 0).all()


def test_a_breakdown_without_a_weight_has_no_weights():
    data = sample([9, 5], 6)
    row = ncpipe.measure(data.features, data.labels, per_class=True)
    assert set(row.per_class) == {"samples", "variance", "mean_norm", "nc1_pinv", "ncc_accuracy"}
    assert set(row.per_pair) == {"cdnv", "means_cosine", "means_distance"}


@pytest.mark.parametrize("classes", [3, 4], ids=["equal means", "a class without samples"])
def test_nc1_by_class_is_undefined_where_nc1_is(classes):
    labels = torch.arange(3).repeat_interleave(4)
    features = torch.randn(4, 5).repeat(3, 1) + (torch.eye(3, 5)[labels] if classes == 4 else 0)
    row = ncpipe.measure(features, labels, num_classes=classes, per_class=True)
    assert math.isnan(row["nc1_pinv"])
    assert np.isnan(row.per_class["nc1_pinv"]).all()


# Undefined metrics

LABELS = torch.arange(3).repeat_interleave(4)
GENERIC = torch.randn(12, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHT = torch.randn(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
DUALITY = ("nc3_duality", "nc3_etf", "unc3")
MEANS_OF = ("nc2_means_of", "nc2_means_uncentred_etf", "means_uncentred_condition")
WEIGHTS = (
    *("nc2_weights_equinorm", "nc2_weights_angle_std", "nc2_weights_equiangle", "nc2_weights_etf", "nc2_weights_of"),
    *("weights_effective_rank", "weights_stable_rank"),
)
READING = (*DUALITY, "nc3_of", "nc3_rows", "subspace_alignment")


def with_zero_row(weight):
    return torch.cat([weight[:2], torch.zeros_like(weight[:1])])


UNDEFINED = {
    "zero solution": (
        {"features": 0 * GENERIC, "weight": 0 * WEIGHT},
        "all class means are zero",
        {*NC1, *GEOMETRY, *MEANS_OF, *READING},
    ),
    "equal means": ({"features": torch.ones(12, 5)}, "all class means agree", {*NC1, *GEOMETRY, *DUALITY}),
    "class without samples": (
        {"num_classes": 4, "weight": torch.randn(4, 5)},
        "no sample of class 3",
        {*NC1, *GEOMETRY, *MEANS_OF, *READING, "nc4_bias"},
    ),
    "class with one sample": (
        {"features": GENERIC[:9], "labels": LABELS[:9]},
        "one sample only of class 2: it has no variability",
        {*NC1},
    ),
    "one class": (
        {"labels": 0 * LABELS, "weight": WEIGHT[:1]},
        "there is one class only",
        {*NC1, *GEOMETRY, *MEANS_OF, *READING, *WEIGHTS},
    ),
    "zero weight": ({"weight": 0 * WEIGHT}, "the weight is zero", {*WEIGHTS, *READING}),
    "zero row of the weight": (
        {"weight": with_zero_row(WEIGHT)},
        "a row of the weight is zero",
        {"nc2_weights_angle_std", "nc2_weights_equiangle"},
    ),
    "mean at the centre": (
        {"features": torch.tensor([[1.0] + 4 * [0], [-1.0] + 4 * [0], 5 * [0.0]])[LABELS]},
        "a class mean is the mean of the class means",
        {"nc2_means_angle_std", "nc2_means_equiangle", *(n for n in GEOMETRY if n.startswith("gnc2"))},
    ),
    "equal train means": (
        {"train_means": torch.ones(3, 5)},
        "train means: all class means agree",
        {f"{name}_train_means" for name in NC1},
    ),
}


@pytest.mark.parametrize(("change", "reason", "names"), UNDEFINED.values(), ids=UNDEFINED)
def test_what_is_undefined_is_nan_with_a_reason(change, reason, names):
    row = ncpipe.measure(**{"features": GENERIC, "labels": LABELS, "weight": WEIGHT} | change)
    assert {name for name, why in row.undefined.items() if why == reason} == names
    assert {name for name, value in row.items() if math.isnan(value)} == set(row.undefined)
    others = set(row.undefined) - names
    assert others <= ({*WEIGHTS} if "weight" in change and not change["weight"].any() else set())


def test_a_zero_weight_at_the_zero_solution_is_named_too():
    row = ncpipe.measure(0 * GENERIC, LABELS, 0 * WEIGHT)
    assert {row.undefined[name] for name in WEIGHTS} == {"the weight is zero"}
    assert row["rank"] == 0
    assert row["nc4_bias"] == 0


def test_equal_means_still_have_an_uncentred_gram():
    row = ncpipe.measure(torch.ones(12, 5), LABELS)
    assert row["rank"] == 0
    ones = np.ones((3, 3)) / 3
    assert row["nc2_means_of"] == pytest.approx(np.linalg.norm(ones - of_gram(3)), rel=1e-12)


def test_one_sample_of_a_class_leaves_the_frames_defined():
    data = sample([3, 1, 4], 5)
    row, expected = ncpipe.measure(*data.arguments), definitions(data)
    assert_agree({n: row[n] for n in row if n not in NC1}, {n: expected[n] for n in expected if n not in NC1})


@pytest.mark.parametrize("classes", [[3], [0, 3, 4, 5, 6, 7]])
def test_a_reason_lists_the_first_classes(classes):
    labels = torch.tensor([c for c in range(8) if c not in classes]).repeat(6)
    why = ncpipe.measure(torch.randn(len(labels), 3), labels, num_classes=8).undefined["nc1_pinv"]
    assert why == ("no sample of class 3" if len(classes) == 1 else "no sample of class 0, 3, 4, 5, 6 and 1 more")


def test_a_missing_class_leaves_decisions_defined():
    weight = torch.randn(4, 5)
    row = ncpipe.measure(GENERIC, LABELS, weight, num_classes=4)
    three = ncpipe.measure(GENERIC, LABELS, weight[:3])
    assert row["ncc_accuracy"] == three["ncc_accuracy"]
    assert row["accuracy"] == pytest.approx(float(((GENERIC.float() @ weight.T).argmax(1) == LABELS).float().mean()))


def drawn_input(draw) -> dict:
    """Small integers and few samples: classes go missing, coincide with the centre, or vanish."""
    dim, classes, count = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 10))
    numbers = st.integers(-1, 1)
    rows = [[draw(numbers) for _ in range(dim)] for _ in range(count + 2 * classes)]
    noise = draw(st.sampled_from([0.0, 0.125]))
    features = torch.tensor(rows[:count]).double()
    features += noise * torch.randn(count, dim, generator=torch.Generator().manual_seed(0))
    found = {"features": features, "num_classes": classes}
    found["labels"] = torch.tensor([draw(st.integers(0, classes - 1)) for _ in range(count)])
    found["weight"], means = torch.tensor(rows[count:]).double().chunk(2)
    return found | ({"train_means": means} if draw(st.booleans()) else {})


@settings(max_examples=cases(80), deadline=None, derandomize=True)
@given(st.data())
def test_every_nan_has_a_reason_and_every_reason_a_nan(data):
    row = ncpipe.measure(**drawn_input(data.draw))
    assert {name for name, value in row.items() if math.isnan(value)} == set(row.undefined)
    assert all(row.undefined.values())


@pytest.mark.parametrize(
    "change", [{"ood_features": torch.zeros(2, 5)}, {"ood_features": torch.ones(2, 5), "num_classes": 4}]
)
def test_an_undefined_nc5_has_a_reason(change):
    row = ncpipe.measure(GENERIC, LABELS, **change)
    assert math.isnan(row["nc5_ood"])
    assert row.undefined["nc5_ood"]


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_that_leave_the_range_have_a_reason(scale):
    row = ncpipe.measure(scale * GENERIC, LABELS)
    assert math.isnan(row["nc1_trace_ratio"])
    assert all(row.undefined.values())


@pytest.mark.parametrize("name", ["cdnv", "gnc2_log_var"])
def test_two_classes_at_one_point_are_named(name):
    features = torch.eye(3, 5)[torch.tensor([0, 0, 2])[LABELS]]
    why = ncpipe.measure(features, LABELS).undefined[name]
    assert why not in ("needs a second pass over the features", "a class mean is the mean of the class means")


# Rank and condition


@pytest.mark.parametrize(("classes", "dim", "rank"), [(4, 6, 3), (4, 2, 2), (2, 5, 1), (7, 7, 6)])
def test_the_rank_is_that_of_centred_means(classes, dim, rank):
    data = sample([3] * classes, dim)
    row = ncpipe.measure(data.features, data.labels)
    assert row["rank"] == rank
    means = np.stack([data.features[data.labels == c].mean(axis=0) for c in range(classes)])
    sizes = np.linalg.svd(means - means.mean(axis=0), compute_uv=False)[:rank]
    np.testing.assert_allclose(row.singular_values, sizes, rtol=1e-12)
    assert row["condition"] == pytest.approx(sizes[-1] / sizes[0], rel=1e-12)


@pytest.mark.parametrize(("gap", "rank"), [(1e-11, 3), (1e-17, 2)])
def test_the_rank_is_cut_at_rounding(gap, rank):
    means = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 0, 1.0, gap]])
    labels = np.repeat(np.arange(4), 2)
    row = ncpipe.measure(means[labels], labels)
    assert row["rank"] == rank
    assert row["condition"] > (1e-12 if rank == 3 else 0.1)


def test_rounding_of_a_large_offset_is_no_direction():
    features = sample([2], 6).features[[0, 0, 0, 0, 0, 0]] + 1e6
    direction = np.zeros(6)
    direction[2] = 1
    labels = np.repeat(np.arange(3), 2)
    assert ncpipe.measure(features + labels[:, None] * direction, labels)["rank"] == 1


def test_equal_samples_of_large_classes_have_equal_means():
    labels = np.repeat(np.arange(3), [1000, 3000, 7])
    row = ncpipe.measure(np.full((len(labels), 5), 7.3), labels)
    assert row["rank"] == 0
    assert row.undefined["nc1_pinv"] == "all class means agree"


# Bad input

BAD = {
    "not finite": ({"features": torch.full((6, 2), math.nan)}, "features has 12 non-finite"),
    "one infinity": (
        {"features": torch.ones(6, 2).index_put((torch.tensor(4), torch.tensor(1)), torch.tensor(math.inf))},
        r"features has 1 non-finite values, the first at index \[4, 1\]",
    ),
    "weight not finite": ({"weight": torch.full((3, 2), math.inf)}, r"weight has 6 non-finite .* index \[0, 0\]"),
    "bias not finite": ({"weight": torch.ones(3, 2), "bias": torch.tensor([0, math.nan, 1])}, r"bias has 1 .* \[1\]"),
    "train means not finite": ({"train_means": torch.full((3, 2), math.nan)}, "train_means has 6 non-finite"),
    "maps": ({"features": torch.zeros(6, 2, 3)}, r"features must have shape \(N, d\), .* got \(6, 2, 3\)"),
    "vector": ({"features": torch.zeros(6)}, r"features must have shape .* got \(6,\)"),
    "integer features": ({"features": torch.zeros(6, 2).long()}, "features must be floating point, got torch.int64"),
    "list": ({"features": [[1.0]]}, "features must be a NumPy array or a Torch tensor, got list"),
    "no samples": ({"features": torch.zeros(0, 2), "labels": torch.zeros(0).long()}, "features must have shape"),
    "no columns": ({"features": torch.zeros(6, 0)}, "features must have shape"),
    "too few labels": (
        {"labels": torch.zeros(5).long()},
        r"labels must have shape \(6,\), one per row .* got \(5,\)",
    ),
    "one-hot labels": ({"labels": torch.zeros(6, 3).long()}, r"labels must have shape \(6,\)"),
    "negative label": ({"labels": torch.arange(6) - 1}, r"labels must lie in \[0, K\), got values from -1 to 4"),
    "label too large": ({"num_classes": 2}, r"labels must lie in \[0, 2\), got values from 0 to 2"),
    "float labels": ({"labels": torch.zeros(6)}, "labels must be integers, got torch.float32"),
    "bool labels": ({"labels": torch.zeros(6).bool()}, "labels must be integers, got torch.bool"),
    "complex labels": ({"labels": torch.zeros(6).cfloat()}, "labels must be integers, got torch.complex64"),
    "list of labels": ({"labels": [0, 1, 2, 0, 1, 2]}, "labels must be a NumPy array or a Torch tensor, got list"),
    "fractional classes": ({"num_classes": 3.0}, "num_classes must be a whole number, got 3.0"),
    "stray label": ({"labels": torch.tensor([0, 1, 2, 0, 1, 20_000])}, "labels go up to 20000 for 6 samples"),
    "masked array": ({"features": np.ma.masked_array(np.ones((6, 2)))}, "got MaskedArray"),
    "sparse": ({"features": torch.eye(6).to_sparse()}, r"features must be a dense tensor, .* call to_dense\(\)"),
    "bias decay without bias": (
        {"weight": torch.zeros(3, 2), "ridge": 0.1, "bias_decay": 0.1},
        "bias_decay is given without bias",
    ),
    "wordy ridge": ({"weight": torch.zeros(3, 2), "ridge": "0.1"}, "ridge must be a number of at least 0, got 0.1"),
    "no classes": ({"num_classes": 0}, "num_classes must be at least 1, got 0"),
    "weight's shape": ({"weight": torch.zeros(2, 2)}, r"weight must have shape \(3, 2\), got \(2, 2\)"),
    "integer weight": ({"weight": torch.zeros(3, 2).long()}, "weight must be floating point, got torch.int64"),
    "bias alone": ({"bias": torch.zeros(3)}, "bias is given without weight"),
    "bias' shape": (
        {"weight": torch.zeros(3, 2), "bias": torch.zeros(2)},
        r"bias must have shape \(3,\), got \(2,\)",
    ),
    "train means' shape": ({"train_means": torch.zeros(3, 5)}, r"train_means must have shape \(3, 2\), got \(3, 5\)"),
    "ridge alone": ({"ridge": 0.1}, "ridge is given without weight"),
    "negative ridge": (
        {"ridge": -0.1, "weight": torch.zeros(3, 2)},
        "ridge must be a number of at least 0, got -0.1",
    ),
    "ridge not a number": (
        {"ridge": math.nan, "weight": torch.zeros(3, 2)},
        "ridge must be a number of at least 0, got nan",
    ),
    "negative decay": (
        {"ridge": 0.1, "bias_decay": -1.0, "weight": torch.zeros(3, 2), "bias": torch.zeros(3)},
        "bias_decay must be at least 0, got -1.0",
    ),
    "out-of-distribution width": ({"ood_features": torch.zeros(4, 3)}, "ood_features must have 2 columns .* got 3"),
    "out-of-distribution NaN": ({"ood_features": torch.full((4, 2), math.nan)}, "ood_features has 8 non-finite"),
    "out-of-distribution type": ({"ood_features": torch.zeros(4, 2).long()}, "ood_features must be floating point"),
    "labels' device": ({"labels": torch.zeros(6, device="meta").long()}, "labels is on meta, features on cpu"),
    "weight's device": ({"weight": torch.zeros(3, 2, device="meta")}, "weight is on meta, features on cpu"),
    "bias' device": (
        {"weight": torch.zeros(3, 2), "bias": torch.zeros(3, device="meta")},
        "bias is on meta, features on cpu",
    ),
    "train means' device": ({"train_means": torch.zeros(3, 2, device="meta")}, "train_means is on meta"),
    "out-of-distribution device": ({"ood_features": torch.zeros(3, 2, device="meta")}, "ood_features is on me"),
    "objects": ({"features": np.ones((6, 2), dtype=object)}, "features must be floating point"),
    "words": ({"labels": np.array(["a"] * 6)}, "labels must be integers"),
    "infinite ridge": ({"ridge": math.inf, "weight": torch.zeros(3, 2)}, "ridge must be a number"),
    "bias decay alone": ({"bias_decay": 0.1, "weight": torch.zeros(3, 2)}, "bias_decay is given without ridge"),
}


@pytest.mark.parametrize(("change", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_named(change, message):
    arguments = {"features": torch.randn(6, 2), "labels": torch.arange(3).repeat(2)} | change
    with pytest.raises(ValueError, match=message):
        ncpipe.measure(**arguments)


def test_features_on_another_device_than_labels_are_named():
    with pytest.raises(ValueError, match="labels is on cpu, features on meta"):
        ncpipe.measure(torch.zeros(6, 2, device="meta"), torch.arange(3).repeat(2))


# Frames


@pytest.mark.parametrize("power", [0, 0.5, 1, 2, 3])
def test_the_energy_of_a_simplex_is_the_known_least(power):
    least = -math.log(2 * 5 / 4) / 2 if power == 0 else (2 * 5 / 4) ** (-power / 2)
    etf = torch.as_tensor(simplex_etf(5, 8))
    assert hyperspherical_energy(3 * etf, power) == pytest.approx(least, rel=1e-12)
    moved = etf + 0.1 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    assert hyperspherical_energy(moved, power) > least + 1e-4


def test_the_energy_agrees_with_its_definition_whatever_the_norms():
    vectors = np.random.default_rng(0).standard_normal((6, 3)) * np.arange(1, 7)[:, None]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    apart = np.array([np.linalg.norm(a - b) for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j])
    for power, kernel in ((0, np.log(1 / apart)), (1, 1 / apart), (2.5, apart**-2.5)):
        assert hyperspherical_energy(torch.as_tensor(vectors), power) == pytest.approx(kernel.mean(), rel=1e-12)


def test_the_energy_of_equal_directions_is_infinite():
    assert hyperspherical_energy(torch.tensor([[1.0, 0], [2, 0], [0, 1]])) == math.inf


def test_ranks_of_known_spectra():
    diagonal = torch.diag(torch.tensor([3.0, 1, 0])).double()
    assert effective_rank(diagonal) == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-12
    )
    assert stable_rank(diagonal) == pytest.approx(10 / 9, rel=1e-12)
    for matrix, rank in ((orthonormal(4, 7), 4), (simplex_etf(4, 7), 3)):
        assert effective_rank(torch.as_tensor(matrix)) == pytest.approx(rank, rel=1e-12)
        assert stable_rank(torch.as_tensor(matrix)) == pytest.approx(rank, rel=1e-12)
    assert math.isnan(effective_rank(torch.zeros(2, 3)))
    assert math.isnan(stable_rank(torch.zeros(2, 3)))


def frame(rows, dim, seed=0):
    return torch.as_tensor(orthonormal(rows, dim, seed))


def test_subspaces_that_agree_are_aligned_whatever_their_bases():
    basis = frame(3, 8)
    mixed = torch.randn(3, 3, dtype=torch.float64) @ basis
    assert subspace_alignment(mixed, torch.randn(3, 3, dtype=torch.float64) @ basis) == pytest.approx(1, rel=1e-10)
    etf = torch.as_tensor(simplex_etf(4, 9))
    assert subspace_alignment(2 * etf, etf) == pytest.approx(1, rel=1e-12)


def test_subspaces_at_an_angle_have_its_cosine():
    basis, angles = frame(4, 8), torch.tensor([0.3, 1.1]).double()
    turned = angles.cos()[:, None] * basis[:2] + angles.sin()[:, None] * basis[2:]
    assert subspace_alignment(basis[:2], turned) == pytest.approx(float(angles.cos().mean()), rel=1e-12)
    assert subspace_alignment(basis[:2], basis[2:]) == pytest.approx(0, abs=1e-12)


def test_an_alignment_of_given_rank_takes_the_top_directions():
    basis = frame(4, 8)
    weight = torch.tensor([3.0, 2, 1]).double()[:, None] * basis[:3]
    means = torch.tensor([3.0, 2, 1]).double()[:, None] * basis[[0, 3, 1]]
    assert subspace_alignment(weight, means, rank=1) == pytest.approx(1, rel=1e-12)
    assert subspace_alignment(weight, means, rank=2) == pytest.approx(1 / 2, rel=1e-12)
    assert subspace_alignment(weight, means, rank=3) == pytest.approx(2 / 3, rel=1e-12)
    assert subspace_alignment(weight, means) == pytest.approx(2 / 3, rel=1e-12)
    assert math.isnan(subspace_alignment(0 * weight, means))


@pytest.mark.parametrize(
    ("weight", "rank", "message"),
    [
        (torch.ones(3, 5), None, r"must share d, got \(3, 5\) and \(3, 4\)"),
        (torch.ones(4), None, r"must share d, got \(4,\)"),
        (torch.ones(2, 4), 0, r"rank must lie in \[1, 2\], got 0"),
        (torch.ones(2, 4), 3, r"rank must lie in \[1, 2\], got 3"),
    ],
)
def test_a_wrong_alignment_is_named(weight, rank, message):
    with pytest.raises(ValueError, match=message):
        subspace_alignment(weight, torch.ones(3, 4), rank)


@pytest.mark.parametrize("width", [1, 6])
def test_rows_along_class_means_or_zero_have_no_distance(width):
    means = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    factors = torch.tensor([2.0, -1, 0, 3, -1e-3, 1]).double()[:width]
    rows = factors[:, None] * means[[0, 1, 2, 2, 0, 1]][:width]
    assert 0 <= nc3_rows(rows, means) < 1e-28
    bent = rows.clone()
    bent[0] += 0.5 * frame(8, 8)[0]
    assert nc3_rows(bent, means) > 1e-3


def test_the_distance_of_rows_is_as_it_is_written():
    rng = np.random.default_rng(0)
    weight, means = rng.standard_normal((7, 5)), rng.standard_normal((3, 5))
    found = nc3_rows(torch.as_tensor(weight), torch.as_tensor(means))
    assert found == pytest.approx(off_means(weight, means), rel=1e-12)
    # scales of the means and turns of the space change nothing, zero rows and zero means neither
    turn = orthonormal(5, 5)
    lengths = np.array([[3], [-0.2], [1e4]])
    moved = torch.as_tensor(np.vstack([weight, 0 * weight]) @ turn), torch.as_tensor((lengths * means) @ turn)
    assert nc3_rows(*moved) == pytest.approx(found, rel=1e-12)
    padded = torch.cat([torch.as_tensor(means), torch.zeros(2, 5)])
    assert nc3_rows(torch.as_tensor(weight), padded) == pytest.approx(found, rel=1e-12)


def test_rows_orthogonal_to_all_means_are_at_distance_one():
    basis = frame(4, 8)
    assert nc3_rows(basis[:2], basis[2:]) == pytest.approx(1, rel=1e-12)
    assert nc3_rows(torch.cat([2 * basis[:1], basis[1:2]]), basis[:1]) == pytest.approx(1 / 5, rel=1e-12)
    assert math.isnan(nc3_rows(torch.zeros(2, 3), torch.ones(2, 3)))
    assert math.isnan(nc3_rows(torch.ones(2, 3), torch.zeros(2, 3)))
    with pytest.raises(ValueError, match=r"must share d, got \(2, 3\) and \(2, 4\)"):
        nc3_rows(torch.ones(2, 3), torch.ones(2, 4))


def test_a_weight_of_any_height_reads_a_layer():
    stats = layer_statistics(GENERIC, LABELS, 3)
    weight = torch.randn(7, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    row, plain = collapse_metrics(stats, next_weight=weight), collapse_metrics(stats)
    read = {"nc3_rows": nc3_rows(weight, stats.means), "subspace_alignment": subspace_alignment(weight, stats.means)}
    assert {name: row[name] for name in set(row) - set(plain)} == read
    both = collapse_metrics(stats, WEIGHT)
    assert collapse_metrics(stats, next_weight=WEIGHT)["nc3_rows"] == both["nc3_rows"]


@pytest.mark.parametrize(
    ("features", "weight", "reason"),
    [
        (GENERIC, 0 * torch.ones(2, 5), "the weight is zero"),
        (GENERIC, math.inf * torch.ones(2, 5), "the weight is not finite"),
        (0 * GENERIC, torch.ones(2, 5), "all class means are zero"),
    ],
)
def test_a_reading_that_is_undefined_has_its_reason(features, weight, reason):
    row = collapse_metrics(layer_statistics(features, LABELS, 3), next_weight=weight)
    for name in ("nc3_rows", "subspace_alignment"):
        assert math.isnan(row[name])
        assert row.undefined[name] == reason


def test_a_wrong_weight_of_the_next_layer_is_named():
    stats = layer_statistics(GENERIC, LABELS, 3)
    with pytest.raises(ValueError, match=r"must share d, got \(2, 6\) and \(3, 5\)"):
        collapse_metrics(stats, next_weight=torch.ones(2, 6))
    with pytest.raises(ValueError, match="read by one of them"):
        collapse_metrics(stats, WEIGHT, next_weight=WEIGHT)


def test_balanced_factors_are_balanced():
    sizes = torch.tensor([3.0, 2, 0.5]).double().sqrt()
    left, middle, right = frame(3, 5).T, frame(3, 6), frame(3, 7, 1)
    upper, lower = (left * sizes) @ middle, (middle.T * sizes) @ right
    assert balancedness(upper, lower) == pytest.approx(0, abs=1e-15)
    assert balancedness(2 * upper, lower) == pytest.approx(3 * math.sqrt(9 + 4 + 0.25) / 5.5, rel=1e-12)
    assert balancedness(torch.eye(2), torch.eye(2)) == 0
    assert math.isnan(balancedness(torch.ones(2, 3), torch.zeros(3, 4)))


@pytest.mark.parametrize("shapes", [((2, 3), (4, 5)), ((3,), (3, 5)), ((2, 3), (3,))])
def test_layers_that_do_not_follow_each_other_are_named(shapes):
    with pytest.raises(ValueError, match=r"next_weight \(p, m\) must read weight \(m, d\)"):
        balancedness(torch.ones(shapes[0]), torch.ones(shapes[1]))


def test_outside_features_orthogonal_to_all_classes_have_no_nc5():
    basis = frame(5, 8)
    assert ood_orthogonality(basis[:4], basis[4]) == pytest.approx(0, abs=1e-15)
    assert ood_orthogonality(3 * basis[:4], -2 * basis[0]) == pytest.approx(1 / 4, rel=1e-12)


def test_nc5_is_the_mean_cosine_of_uncentred_means():
    data, outside = sample([9, 5, 4], 6), np.random.default_rng(5).standard_normal((2500, 6)) + 1
    means = means_of(data.features, data.labels, 3)
    expected = np.mean([abs(cosine(mean, outside.mean(axis=0))) for mean in means])
    row = ncpipe.measure(data.features, data.labels, ood_features=outside)
    assert row["nc5_ood"] == pytest.approx(float(expected), rel=1e-12)


# Traces


def test_traces_survive_the_disk(tmp_path):
    features, labels, weight, bias = tensors(sample([4] * 3, 5, 1.0))
    stats = layer_statistics(features, labels, 3, weight=weight, bias=bias)
    trace = Trace(("layer1.0", "features"))
    trace.statistics[Moment(0, "features", "test")] = stats
    trace.statistics[Moment(0, "layer1.0")] = layer_statistics(features, labels, 3)
    trace.heads = {0: (weight, bias), 1: (weight, None)}
    trace.weights = {(0, "layer1.0"): torch.randn(7, 5), (1, "layer1.0"): torch.randn(7, 5).double()}
    trace.scalars[0, "train"] = {"loss": 0.25, "snr_max": math.nan}
    trace.reasons[0, "train"] = {"snr_max": "why"}
    save_traces(tmp_path / "t.safetensors", {"a": trace, "b": Trace(("features",))})
    loaded = load_traces(tmp_path / "t.safetensors")
    assert list(loaded) == ["a", "b"]
    assert loaded["a"].scalars[0, "train"] == pytest.approx(trace.scalars[0, "train"], nan_ok=True)
    assert loaded["a"].reasons == trace.reasons
    assert loaded["a"].weights.keys() == trace.weights.keys()
    for key, weight in trace.weights.items():
        assert loaded["a"].weights[key].dtype == weight.dtype
        assert torch.equal(loaded["a"].weights[key], weight)
    assert loaded["a"].times == [0, 1]
    assert loaded["a"].depth("features") == 2
    assert loaded["a"].heads[1][1] is None
    for name, value in stats.tensors().items():
        assert torch.equal(loaded["a"].statistics[Moment(0, "features", "test")].tensors()[name], value)
    assert loaded["a"].statistics[Moment(0, "layer1.0")].agreements is None
