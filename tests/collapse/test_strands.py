"""Strands of chunks: the same sums for any number of threads, and nothing left behind."""

from __future__ import annotations

import os
from threading import Barrier

import pytest
import torch

import ncpipe
from ncpipe.collapse import class_moments, layer_statistics, strands

GENERATOR = torch.Generator().manual_seed(0)
H, Y = torch.randn(3000, 24, generator=GENERATOR), torch.arange(3000) % 5
WEIGHT = torch.randn(5, 24, generator=GENERATOR)


@pytest.fixture(autouse=True)
def small_strands(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(strands, "STRAND_ELEMENTS", 1 << 12)
    monkeypatch.setattr(strands, "CPU_CHUNK", (100, 1 << 20))
    yield
    torch.set_num_threads(threads)


def all_statistics(threads: int) -> dict[str, torch.Tensor]:
    torch.set_num_threads(threads)
    found = layer_statistics(H, Y, 5, weight=WEIGHT, train_means=WEIGHT, products=True).tensors()
    return found | {"first scatter": class_moments(H, Y, 5).scatter}


def test_the_number_of_threads_does_not_change_a_bit():
    one, two, three = map(all_statistics, (1, 2, 3))
    assert all(torch.equal(value, two[name]) and torch.equal(value, three[name]) for name, value in one.items())


def test_the_number_of_threads_does_not_change_a_metric():
    rows = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        rows.append(ncpipe.measure(H, Y, WEIGHT, per_class=True))
    assert rows[0] == rows[1] == rows[2]


def test_the_number_of_threads_does_not_change_a_metric_of_batches():
    rows = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        metric = ncpipe.CollapseMetrics(5, WEIGHT)
        for first in (True, False):
            for batch in torch.arange(3000).split(700):
                metric.update(H[batch], Y[batch])
            metric.start_second_pass() if first else None
        rows.append(metric.compute())
    assert rows[0] == rows[1] == rows[2]
    assert rows[0]["nc1_pinv"] == pytest.approx(ncpipe.measure(H, Y, WEIGHT)["nc1_pinv"], rel=1e-12)


def test_one_thread_waits_for_no_other_but_where_it_has_items_in_order():
    torch.set_num_threads(2)
    assert strands.by_one_thread(H, torch.get_num_threads) == 1
    assert strands.in_order(H, [0], lambda item: torch.get_num_threads()) == [1]
    meeting = Barrier(2)  # broken unless two threads arrive
    arrived = strands.by_one_thread(H, lambda: strands.in_order(H, [0, 1], lambda item: meeting.wait(30)))
    assert sorted(arrived) == [0, 1]
    assert torch.get_num_threads() == 2


def test_strands_sum_what_one_does(monkeypatch):
    several = all_statistics(2)
    monkeypatch.setattr(strands, "STRANDS", 1)
    one = all_statistics(2)
    assert not torch.equal(several["scatter"], one["scatter"])
    for name, value in one.items():
        torch.testing.assert_close(several[name], value, rtol=1e-14, atol=1e-11)


@pytest.mark.parametrize("rows", [1, 99, 100, 801, 2999])
def test_every_row_is_in_one_chunk_of_one_strand(rows):
    found = strands.in_strands(H[:rows], 1, lambda chunks: [(part, h.clone()) for part, h in chunks])
    indices = torch.cat([torch.arange(3000)[part][: len(h)] for strand in found for part, h in strand])
    assert indices.sort().values.tolist() == list(range(rows))
    assert all(torch.equal(h, H[:rows][part].double()) for strand in found for part, h in strand)


def test_the_callers_threads_and_modes_are_its_own():
    torch.set_num_threads(2)
    with torch.inference_mode():
        kept = ncpipe.measure(H, Y, WEIGHT)
    assert torch.get_num_threads() == 2
    assert kept == ncpipe.measure(H, Y, WEIGHT)
    assert strands._pool(2).submit(torch.get_num_threads).result() == 1


def test_an_error_in_a_strand_is_the_callers():
    torch.set_num_threads(2)
    with pytest.raises(ZeroDivisionError):
        strands.in_strands(H, 1, lambda chunks: 1 / 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_threads_of_its_own():
    torch.set_num_threads(2)
    strands._pool(2)
    child = os.fork()
    if child == 0:
        try:
            strands._pool(2).submit(sum, (1, 2)).result(timeout=30)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
