"""Chunks of rows in float64, and threads on the outside: strands of chunks in a pool, whose sums add in one order.

An operation of several threads ends at a barrier, and a pass over features has hundreds of them. Where other
processes are busy each waits for a thread that is not running. A strand has operations of one thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier, local
from typing import TYPE_CHECKING, TypeVar

from ncpipe.system.lazy import lazily

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazily("torch")

CPU_CHUNK = 1024, 1 << 20
"""Rows and elements that are widened to float64 at a time, at most: 8 MiB stay in the caches of a CPU."""
DEVICE_CHUNK = 1 << 20, 1 << 24
"""Bytes of a piece on accelerators, which want large kernels: 128 MiB."""
STRANDS, STRAND_ELEMENTS, SUM_ELEMENTS = 8, 1 << 20, 1 << 23
"""Most strands, elements that one is worth, and elements of all their sums. The number of threads decides none of
these, so that it does not decide the result's last digits."""
Chunks = Iterator[tuple[slice, "Tensor"]]
Part = TypeVar("Part")
Item = TypeVar("Item")
_here = local()


def widened(features: Tensor) -> Chunks:
    """Chunk by chunk, the slice of rows and these in float64: a copy to write on, in memory that is used again.

    Fresh memory of this size may go back to the system after every chunk, and then costs page faults at each.
    """
    rows = _rows(features, 1)
    return _strand(features, range(0, len(features), rows), _buffer(features, rows))


def in_strands(features: Tensor, size: int, part: Callable[[Chunks], Part]) -> list[Part]:
    """``part`` of the chunks of every strand, in their order; ``size``: elements of its sums."""
    count = _strands(features, size)
    rows = _rows(features, count)
    free: list[Tensor] = []

    def strand(number: int) -> Part:
        buffer = free.pop() if free else _buffer(features, rows)
        found = part(_strand(features, range(number * rows, len(features), count * rows), buffer))
        free.append(buffer)
        return found

    return in_order(features, range(count), strand)


def in_order(tensor: Tensor, items: Sequence[Item], work: Callable[[Item], Part]) -> list[Part]:
    """``work`` on a tensor, of all items and in their order, by as many threads as the caller has."""
    threads = min(getattr(_here, "threads", None) or torch.get_num_threads(), STRANDS)
    if len(items) == 1:
        return [by_one_thread(tensor, lambda: work(items[0]))]
    if threads == 1 or tensor.device.type != "cpu":
        return list(map(work, items))
    return list(_pool(threads).map(_as_here(work, 1), items))


def by_one_thread(tensor: Tensor, work: Callable[[], Part]) -> Part:
    """``work`` on a tensor by a thread that waits for no other, but where it does something ``in_order``."""
    threads = torch.get_num_threads()
    if threads == 1 or tensor.device.type != "cpu":
        return work()
    return _pool(1).submit(_as_here(lambda _: work(), threads), None).result()


def _as_here(work: Callable[[Item], Part], threads: int) -> Callable[[Item], Part]:
    """The same in a thread of a pool: without gradients, and in inference mode where the caller is."""
    inference = torch.is_inference_mode_enabled()

    def worked(item: Item) -> Part:
        _here.threads = threads
        with torch.inference_mode(inference), torch.no_grad():
            return work(item)

    return worked


def _strands(features: Tensor, size: int) -> int:
    """One on accelerators, else a power of two, which as many threads share out evenly."""
    if features.device.type != "cpu":
        return 1
    worth = min(STRANDS, features.numel() // STRAND_ELEMENTS, max(2, SUM_ELEMENTS // max(1, size)))
    return 1 << max(worth, 1).bit_length() - 1


def _rows(features: Tensor, strands: int) -> int:
    """Rows of a chunk, no more than give every strand one."""
    most, elements = CPU_CHUNK if features.device.type == "cpu" else DEVICE_CHUNK
    return max(1, min(most, elements // max(1, features.shape[1]), -(-len(features) // strands)))


def _buffer(features: Tensor, rows: int) -> Tensor:
    return torch.empty(min(rows, len(features)), features.shape[1], dtype=torch.float64, device=features.device)


def _strand(features: Tensor, starts: range, buffer: Tensor) -> Chunks:
    for start in starts:
        rows = slice(start, start + len(buffer))
        part = features[rows]
        yield rows, buffer[: len(part)].copy_(part)


def _take_no_others() -> None:
    torch.get_num_threads()  # at its first use a thread takes the number of all
    torch.set_num_threads(1)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads whose operations take no others. Torch keeps that number for every thread, and for those to come."""
    before = torch.get_num_threads()
    pool, meeting = ThreadPoolExecutor(threads, "ncpipe", _take_no_others), Barrier(threads)
    list(pool.map(lambda _: meeting.wait(), range(threads)))  # all have started
    torch.set_num_threads(before)
    return pool


if hasattr(os, "register_at_fork"):  # a child has none of its parent's threads
    os.register_at_fork(after_in_child=_pool.cache_clear)
