"""Triton's kernels against the plain sums: by its interpreter on the CPU, compiled for GPUs that are absent, and on
one that is there."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from ncpipe.collapse import class_means, class_moments, layer_statistics, moments, statistics

triton = pytest.importorskip("triton", reason="needs Triton, which torch for CUDA brings: pip install triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by the test of the interpreter")
DTYPES = torch.float16, torch.bfloat16, torch.float32, torch.float64


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED, reason="is itself")
@pytest.mark.skipif(triton.__version__ < "3.7", reason="its interpreter does not know NumPy 2.4")
def test_kernels_in_tritons_interpreter() -> None:
    """In a process of its own: Triton reads the variable as it is imported."""
    command = [sys.executable, "-m", "pytest", "-x", "-p", "no:cacheprovider", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def sample(samples, width, classes, dtype=torch.float32, seed=0):
    """Features, labels without some of the classes, classifier and other means."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=draw)
    labels = labels - (labels % 5 == 3).long()
    means = torch.randn(classes, width, generator=draw, dtype=torch.float64)
    features = (means[labels] + 0.7 * torch.randn(samples, width, generator=draw) + 3).to(dtype)
    weight, other = means + 0.3, means + 0.2 * torch.randn(classes, width, generator=draw)
    return features, labels, weight, torch.randn(classes, generator=draw) - 99, other


def both(monkeypatch, compute):
    """What it gives, and what it gives with the kernels."""
    from ncpipe.collapse import fused

    expected = compute()
    with monkeypatch.context() as patch:
        for module in (moments, statistics):
            patch.setattr(module, "kernels_for", lambda features: fused)
        return expected, compute()


def assert_same(found, expected, tolerance=1e-12):
    for field in fields(expected):
        one, other = getattr(found, field.name), getattr(expected, field.name)
        if other is None:
            assert one is None, field.name
        elif other.is_floating_point():
            scale = other.nan_to_num().abs().max() if other.numel() else 1
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance * float(scale), equal_nan=True)
        else:
            assert torch.equal(one, other), field.name


ALL = "weight bias train"
SIZES = [(1, 1, 1), (7, 3, 1), (300, 65, 17), (150, 9, 32), (90, 300, 3), (70, 3, 33)]


@interpreted
@pytest.mark.parametrize(
    ("samples", "width", "classes", "options"),
    [(*size, ALL) for size in SIZES]
    + [(400, 17, 4, options) for options in ("", "weight", "train", "weight products")]
    + [(50, 40, 33, options) for options in ("", "weight")],
)
def test_statistics(monkeypatch, samples, width, classes, options):
    features, labels, weight, bias, other = sample(samples, width, classes)
    known = {"weight": weight if "weight" in options else None, "bias": bias if "bias" in options else None}
    known |= {"train_means": other if "train" in options else None, "products": "products" in options}
    expected, found = both(monkeypatch, lambda: layer_statistics(features, labels, classes, **known))
    assert_same(found, expected)


@interpreted
@pytest.mark.parametrize(
    ("dtype", "classes"), [*((dtype, 6) for dtype in DTYPES), (torch.bfloat16, 34), (torch.float64, 34)]
)
def test_types(monkeypatch, dtype, classes):
    features, labels, weight, bias, other = sample(140, 33, classes, dtype)
    known = {"weight": weight, "bias": bias, "train_means": other}
    expected, found = both(monkeypatch, lambda: layer_statistics(features, labels, classes, **known))
    assert_same(found, expected)


@interpreted
@pytest.mark.parametrize("classes", [6, 34])
@pytest.mark.parametrize(
    "layout", [lambda h: h.T.contiguous().T, lambda h: torch.cat([h, h], 1)[:, 3:30], lambda h: h[::3]]
)
def test_layouts(monkeypatch, classes, layout):
    features, labels, *_ = sample(60, 33, classes)
    features = layout(features)
    labels = labels[: len(features)]
    expected, found = both(monkeypatch, lambda: layer_statistics(features, labels, classes))
    assert_same(found, expected)
    second = statistics.SecondPass(expected.counts, expected.means.T.contiguous().T)
    assert_same(both(monkeypatch, lambda: second(features, labels))[1], expected)


@interpreted
def test_moments_of_means_far_from_the_origin(monkeypatch):
    features, labels, *_ = sample(400, 20, 7, torch.float64)
    features += 1e6
    expected, found = both(monkeypatch, lambda: class_moments(features, labels, 7))
    torch.testing.assert_close(found.means, expected.means, rtol=1e-15, atol=0, equal_nan=True)
    torch.testing.assert_close(found.scatter, expected.scatter, rtol=1e-9, atol=0)
    same = torch.full((500, 3), 0.1)
    _, (_, means) = both(monkeypatch, lambda: class_means(same, torch.arange(500) % 2, 2))
    assert means.eq(same[:1].double()).all()


@interpreted
@pytest.mark.parametrize("classes", [6, 34])
def test_not_a_number_stays_in_its_class(monkeypatch, classes):
    features, labels, weight, *_ = sample(140, 33, classes)
    features[labels.eq(2).nonzero()[-1], 4] = torch.nan
    expected, found = both(monkeypatch, lambda: class_moments(features, labels, classes))
    assert_same(found, expected)
    assert found.scatter.isnan().nonzero().tolist() == [[2]]
    counts, means = class_means(sample(140, 33, classes)[0], labels, classes)
    second = statistics.SecondPass(counts, means, weight=weight)
    expected, found = both(monkeypatch, lambda: second(features, labels))
    assert_same(found, expected)


@interpreted
def test_several_pieces_of_deviations(monkeypatch):
    from ncpipe.collapse import fused

    monkeypatch.setattr(fused, "PIECE", 33 * 70)
    features, labels, weight, bias, other = sample(140, 33, 34)
    known = {"weight": weight, "bias": bias, "train_means": other, "products": True}
    expected, found = both(monkeypatch, lambda: layer_statistics(features, labels, 34, **known))
    assert_same(found, expected)


@interpreted
def test_features_of_16_bits_before_triton_3_9(monkeypatch):
    from ncpipe.collapse import fused

    monkeypatch.setattr(fused, "HALVES", False)
    monkeypatch.setattr(fused, "projected", None)
    features, labels, *_ = sample(50, 9, 4, torch.bfloat16)
    _, means = class_means(features, labels, 4)
    second = statistics.SecondPass(torch.bincount(labels, minlength=4), means)
    expected, found = both(monkeypatch, lambda: second(features, labels))
    assert_same(found, expected)


@interpreted
def test_no_samples(monkeypatch):
    expected, found = both(monkeypatch, lambda: class_moments(torch.zeros(0, 4), torch.zeros(0).long(), 3))
    assert_same(found, expected)


COMPILED = """
import re
import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ncpipe.collapse import fused, layer_statistics, moments, statistics

TYPES = {torch.bfloat16: "bf16", torch.float32: "fp32", torch.float64: "fp64", torch.int64: "i64"}

class Compiled:
    def __init__(self, kernel):
        self.kernel, self.names = kernel, [parameter.name for parameter in kernel.params]

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *values, num_warps=4, num_stages=3, **constants):
        given = {n: v for n, v in zip(self.names, values) if isinstance(v, torch.Tensor) or v != 1}
        constants |= {n: v for n, v in zip(self.names, values) if n not in given}
        place = self.names.index
        kinds = {n: "*" + TYPES[v.dtype] if isinstance(v, torch.Tensor) else "i32" for n, v in given.items()}
        aligned = {(place(n),): [["tt.divisibility", 16]] for n, v in given.items() if isinstance(v, torch.Tensor)}
        source = ASTSource(
            self.kernel,
            {n: kinds.get(n, "constexpr") for n in self.names},
            {(place(n),): v for n, v in constants.items()},
            aligned,
        )
        for capability in (86, 90):
            options = {"num_warps": num_warps, "num_stages": num_stages}
            made = triton.compile(source, GPUTarget("cuda", capability, 32), options)
            assert not re.search("[^a-z](atom|red)[.]", made.asm["ptx"]), "adds in no fixed order"
            on_tensor_cores = "mma.sync" in made.asm["ptx"] and ".f64.f64.f64.f64" in made.asm["ptx"]
            print(self.kernel.__name__, capability, on_tensor_cores, made.metadata.shared)

for name in ("_sums_kernel", "_tiles_kernel", "_centre_kernel"):
    setattr(fused, name, Compiled(getattr(fused, name)))
moments.kernels_for = statistics.kernels_for = lambda features: fused
torch.Tensor.new_empty = torch.Tensor.new_zeros  # what no kernel writes
half, single, double = torch.bfloat16, torch.float32, torch.float64
cases = [(single, 2, True), (single, 8, False), (half, 8, True)]
cases += [(single, 32, True), (double, 32, True), (half, 33, False)]
for dtype, classes, train in cases:
    features, labels, weight = torch.randn(99, 24).to(dtype), torch.arange(99) % classes, torch.randn(classes, 24)
    layer_statistics(features, labels, classes, weight=weight, train_means=weight + 1 if train else None)
"""


@pytest.mark.thorough
@pytest.mark.skipif(INTERPRETED, reason="compiles")
def test_kernels_compile_for_gpus(tmp_path: Path) -> None:
    """To the binaries of an A10 and an H100, by the assembler that Triton brings."""
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", COMPILED], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    made = [line.split() for line in done.stdout.splitlines()]
    assert {name for name, *_ in made} == {"_sums_kernel", "_tiles_kernel", "_centre_kernel"}
    assert max(int(shared) for *_, shared in made) <= 99 << 10, "shared memory of a block on an A10"
    assert ["_tiles_kernel", "90", "True"] in [line[:3] for line in made], "no product on tensor cores"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("samples", "width", "classes"), [(20_000, 512, 10), (5000, 300, 32), (9000, 700, 120)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu_the_kernels_agree_with_the_cpu_and_with_themselves(samples, width, classes, dtype):
    features, labels, weight, bias, other = sample(samples, width, classes, dtype)
    known = {"weight": weight, "bias": bias, "train_means": other}
    expected = layer_statistics(features, labels, classes, **known)
    moved = {name: tensor.cuda() for name, tensor in known.items()}
    assert moments.kernels_for(features.cuda()) is not None
    found, again = (layer_statistics(features.cuda(), labels.cuda(), classes, **moved) for _ in range(2))
    assert_same(found.cpu(), expected, 1e-10)  # another SVD
    for one, other in zip(found.tensors().values(), again.tensors().values()):
        assert torch.equal(one.nan_to_num(), other.nan_to_num())
