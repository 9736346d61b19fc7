"""Both passes over features in Triton kernels on a GPU: each reads them once, widens in registers, and always adds in
one order.

Rows are sorted by class and cut into tiles of one class each: nothing is added by two programs in the order in which
they happen to run, and a tile has one mean. Products with few columns are taken in the same read; those with many are
cuBLAS', of deviations that have been written once.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 128
"""Most samples of a tile."""
FEW = 32
"""Most classes whose products are taken in the same read; with more, float64 products take longer than reading."""
PIECE = 1 << 22
"""Deviations that are written for cuBLAS at a time: 32 MiB, less than the L2 cache of an A100 or H100."""
HALVES = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9)
"""Whether Triton compiles float64 products of features of 16 bits: before 3.9 it aborts the process."""
QUANTITIES = 6
"""Sums of a sample: |d|^2, that in the whitened basis and in training's; nearest mean, decision, agreement."""


class Tiles(NamedTuple):
    """Samples by class, cut into tiles of at most ``ROWS``; more tiles than needed, the last of which are empty, so
    that the host need not wait for their number."""

    order: Tensor
    """Index of every sample, by class, (N,) int64."""
    own: Tensor
    """Class of every sample in that order, (N,) int64."""
    counts: Tensor
    """Samples of every class, (K,) int64."""
    classes: Tensor
    """Class of every tile, (T,) int64."""
    starts: Tensor
    """First place of every tile in the order, (T,) int64."""
    ends: Tensor
    """The place after its last, (T,) int64."""
    bounds: Tensor
    """First tile of every class, and the one after the last, (K + 1,) int64."""

    @classmethod
    def of(cls, labels: Tensor, num_classes: int) -> Tiles:
        short = labels.to(torch.int16 if num_classes < 1 << 15 else torch.int32)  # sorted in fewer steps
        own, order = short.sort(stable=True)
        classes = torch.arange(num_classes + 1, device=labels.device)
        edges = torch.searchsorted(own, classes.to(short.dtype))
        counts = edges.diff()
        bounds = torch.nn.functional.pad(((counts + ROWS - 1) // ROWS).cumsum(0), (1, 0))
        tiles = torch.arange(len(labels) // ROWS + num_classes, device=labels.device)
        classes = (torch.searchsorted(bounds, tiles, right=True) - 1).clamp_(max=num_classes - 1)
        starts = edges[classes] + (tiles - bounds[classes]) * ROWS
        ends = torch.minimum(starts + ROWS, edges[classes + 1])
        return cls(order, own.long(), counts, classes, starts, ends, bounds)

    def added(self, found: Tensor) -> Tensor:
        """Sums by class (K, q) of what is found of every tile, (T, q) float64."""
        return _sums(found, self.bounds[:-1], self.bounds[1:])

    def summed(self, table: Tensor) -> Tensor:
        """Sums by class (K, q) of what is found of every sample in this order, (N, q) float64."""
        return self.added(_sums(table, self.starts, self.ends))


def class_sums(features: Tensor, labels: Tensor, num_classes: int, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Counts (K,) and sums (K, d) of features (N, d) from an origin (d,), in one read."""
    tiles = Tiles.of(labels, num_classes)
    return tiles.counts, tiles.added(_sums(features, tiles.starts, tiles.ends, tiles.order, origin))


def class_scatter(features: Tensor, labels: Tensor, means: Tensor) -> Tensor:
    """sum_i |h_i - mu_c|^2 per class, (K,), in one read."""
    return projected(features, Tiles.of(labels, len(means)), means)[:, 0]


class Projections(NamedTuple):
    """What decides from a deviation, see ``SecondPass``."""

    matrix: Tensor
    """Whitened basis, that of the training means, classifier: their rows, one after the other, (>= r + t + K, d)."""
    rank: int
    """r."""
    span: int
    """t; r where there are no training means."""
    own_places: Tensor
    """(K, t)."""
    directions: Tensor
    """(K, t)."""
    lengths: Tensor
    """(K,)."""
    shift: Tensor | None
    """(K, t), with training means."""
    class_logits: Tensor | None
    """(K, K), with a classifier."""


def in_one_read(features: Tensor, num_classes: int) -> bool:
    """Whether ``projected`` takes projections of these features."""
    return num_classes <= FEW and (HALVES or features.element_size() > 2)


def projected(features: Tensor, tiles: Tiles, means: Tensor, by: Projections | None = None) -> Tensor:
    """Sums by class (K, ``QUANTITIES``), in one read; without projections |d|^2 alone."""
    means, found = means.contiguous(), means.new_zeros(len(tiles.starts), QUANTITIES)
    columns = 16 if by is None or len(means) <= 16 else FEW
    matrix, rank, span, *known = by or (means, 0, 0, *[None] * 5)
    with torch.cuda.device_of(features):
        _tiles_kernel[(len(found),)](
            features,
            *(tiles.order, tiles.classes, tiles.starts, tiles.ends),
            *(means, matrix, *(means if one is None else one for one in known), found),
            *(features.shape[1], *features.stride(), len(means), rank, span),
            PROJECTED=by is not None,
            TRAIN=by is not None and by.shift is not None,
            HEAD=by is not None and by.class_logits is not None,
            ROWS=ROWS,
            BLOCK=512 // columns,  # what fits into the registers of a program
            COLUMNS=columns,
            num_warps=8,
            num_stages=2,
        )
    return tiles.added(found)


def centred(features: Tensor, tiles: Tiles, means: Tensor) -> Iterator[tuple[slice, Tensor, Tensor, Tensor]]:
    """Places in the order of the tiles, classes, deviations (n, d) float64 and their squares (n,), piece by piece, in
    memory that is used again; one read, and a write for every piece."""
    (samples, width), means = features.shape, means.contiguous()
    size = max(1, min(samples, PIECE // width))
    deviations, squares = means.new_empty(size, width), means.new_empty(size)
    for start in range(0, samples, size):
        places = slice(start, min(start + size, samples))
        count = places.stop - start
        with torch.cuda.device_of(features):
            _centre_kernel[(triton.cdiv(count, 4),)](
                features,
                tiles.order[places],
                tiles.own[places],
                means,
                deviations,
                squares,
                count,
                width,
                *features.stride(),
                ROWS=4,
                BLOCK=256,
            )
        yield places, tiles.own[places], deviations[:count], squares[:count]


def _sums(
    rows: Tensor, starts: Tensor, ends: Tensor, order: Tensor | None = None, origin: Tensor | None = None
) -> Tensor:
    """Sums (S, d) of segments of rows (N, d), in an order and from an origin (d,) if these are given."""
    width = rows.shape[1]
    order = torch.arange(len(rows), device=rows.device) if order is None else order
    origin = torch.zeros(width, dtype=torch.float64, device=rows.device) if origin is None else origin
    sums = origin.new_empty(len(starts), width)
    block = min(128, max(8, triton.next_power_of_2(width)))
    with torch.cuda.device_of(rows):
        _sums_kernel[(len(starts), triton.cdiv(width, block))](
            rows, order, starts, ends, origin, sums, width, *rows.stride(), ROWS=1024 // block, BLOCK=block
        )
    return sums


@triton.jit
def _sums_kernel(
    rows, order, starts, ends, origin, sums, width, row_stride, column_stride, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    start, end = tl.load(starts + segment), tl.load(ends + segment)
    zero = tl.load(origin + column, mask=column < width, other=0.0)
    total = tl.zeros((ROWS, BLOCK), tl.float64)
    for first in range(start, end, ROWS):
        place = first + tl.arange(0, ROWS)
        row = tl.load(order + place, mask=place < end, other=0)
        there = (place < end)[:, None] & (column < width)[None, :]
        read = tl.load(rows + row[:, None] * row_stride + column[None, :] * column_stride, mask=there, other=0.0)
        total += tl.where(there, read.to(tl.float64) - zero[None, :], 0.0)
    tl.store(sums + segment * width + column, tl.sum(total, axis=0), mask=column < width)


@triton.jit
def _tiles_kernel(
    features,
    order,
    classes,
    starts,
    ends,
    means,
    matrix,
    own_places,
    directions,
    lengths,
    shift,
    class_logits,
    found,
    width,
    row_stride,
    column_stride,
    num_classes,
    rank,
    span,
    PROJECTED: tl.constexpr,
    TRAIN: tl.constexpr,
    HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    tile = tl.program_id(0).to(tl.int64)
    own, end = tl.load(classes + tile), tl.load(ends + tile)
    place = tl.load(starts + tile) + tl.arange(0, ROWS)
    inside = place < end
    row = tl.load(order + place, mask=inside, other=0)
    each = tl.arange(0, COLUMNS)
    squares = tl.zeros((ROWS,), tl.float64)
    within = tl.zeros((ROWS, COLUMNS), tl.float64)
    spanned = tl.zeros((ROWS, COLUMNS), tl.float64)
    logits = tl.zeros((ROWS, COLUMNS), tl.float64)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK).to(tl.int64)
        there = inside[:, None] & (column < width)[None, :]
        mean = tl.load(means + own * width + column, mask=column < width, other=0.0)
        read = tl.load(features + row[:, None] * row_stride + column[None, :] * column_stride, mask=there, other=0.0)
        deviation = tl.where(there, read.to(tl.float64) - mean[None, :], 0.0)
        squares += tl.sum(deviation * deviation, axis=1)
        if PROJECTED:
            weights = matrix + each[None, :] * width + column[:, None]
            known = (column < width)[:, None]
            block = tl.load(weights, mask=known & (each < rank)[None, :], other=0.0)
            within = tl.dot(deviation, block, within, input_precision="ieee", out_dtype=tl.float64)
            weights += rank * width
            if TRAIN:
                block = tl.load(weights, mask=known & (each < span)[None, :], other=0.0)
                spanned = tl.dot(deviation, block, spanned, input_precision="ieee", out_dtype=tl.float64)
                weights += span * width
            if HEAD:
                block = tl.load(weights, mask=known & (each < num_classes)[None, :], other=0.0)
                logits = tl.dot(deviation, block, logits, input_precision="ieee", out_dtype=tl.float64)
    found += tile * 6
    tl.store(found, tl.sum(squares, axis=0))
    if PROJECTED:
        tl.store(found + 1, tl.sum(tl.sum(within * within, axis=1), axis=0))
        if TRAIN:
            moved = spanned + tl.load(shift + own * span + each, mask=each < span, other=0.0)[None, :]
            apart = tl.sum(moved * moved, axis=1)
            tl.store(found + 2, tl.sum(tl.where(inside, apart, 0.0), axis=0))
        else:
            spanned = within
        spanned += tl.load(own_places + own * span + each, mask=each < span, other=0.0)[None, :]
        towards = directions + each[None, :] * span + each[:, None]
        towards = tl.load(towards, mask=(each < span)[:, None] & (each < num_classes)[None, :], other=0.0)
        offset = tl.load(lengths + each, mask=each < num_classes, other=0.0)
        scores = tl.dot(spanned, towards, input_precision="ieee", out_dtype=tl.float64) + offset[None, :]
        nearest = _largest(scores, (each < num_classes)[None, :])
        tl.store(found + 3, tl.sum((inside & (nearest == own)).to(tl.float64), axis=0))
        if HEAD:
            logits += tl.load(class_logits + own * num_classes + each, mask=each < num_classes, other=0.0)[None, :]
            decided = _largest(logits, (each < num_classes)[None, :])
            tl.store(found + 4, tl.sum((inside & (decided == own)).to(tl.float64), axis=0))
            tl.store(found + 5, tl.sum((inside & (decided == nearest)).to(tl.float64), axis=0))


@triton.jit
def _largest(scores, known):
    return tl.argmax(tl.where(known, scores, float("-inf")), axis=1, tie_break_left=True)


@triton.jit
def _centre_kernel(
    features, order, own, means, deviations, squares, count, width, row_stride, column_stride,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = place < count
    row = tl.load(order + place, mask=inside, other=0)
    mean_row = tl.load(own + place, mask=inside, other=0)
    total = tl.zeros((ROWS, BLOCK), tl.float64)
    for first in range(0, width, BLOCK):
        column = first + tl.arange(0, BLOCK).to(tl.int64)
        there = inside[:, None] & (column < width)[None, :]
        read = tl.load(features + row[:, None] * row_stride + column[None, :] * column_stride, mask=there, other=0.0)
        mean = tl.load(means + mean_row[:, None] * width + column[None, :], mask=there, other=0.0)
        deviation = read.to(tl.float64) - mean
        tl.store(deviations + place[:, None] * width + column[None, :], deviation, mask=there)
        total += deviation * deviation
    tl.store(squares + place, tl.sum(total, axis=1), mask=inside)
