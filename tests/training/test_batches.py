"""Batches: order, shares, augmentation and normalisation, of images in memory and streamed from disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest
import torch
from networks_in_training import stored
from torch import Tensor

from ncpipe.data import Dataset, Split
from ncpipe.system.errors import UserError
from ncpipe.training.augmentation import cut_out, draw, flipped_and_cropped
from ncpipe.training.batches import ImageBatches
from ncpipe.training.loading import open_batches
from ncpipe.training.settings import AugmentSpec
from ncpipe.training.streams import StreamedBatches, _default_workers

CPU = torch.device("cpu")
PLAIN = AugmentSpec()
ALL = AugmentSpec(flip=True, crop=2, cutout=3)
CROPPED = AugmentSpec(flip=True, resized_crop=0.3)


def numbered(count: int = 50, channels: int = 3, side: int = 8) -> Dataset:
    """Random images whose labels are their numbers."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, channels, side, side)
    splits = [
        Split(torch.randint(256, shape, dtype=torch.uint8, generator=generator), torch.arange(count)) for _ in "ab"
    ]
    names = tuple(str(number) for number in range(count))
    mean, std = torch.rand(2, channels, generator=generator) * 0.5 + 0.1
    return Dataset("numbered", names, *splits, mean=mean, std=std)


def stacked(batches: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The batches of an epoch one after the other."""
    images, labels = zip(*batches)
    return torch.cat(images, dim=1), torch.cat(labels, dim=1)


# --- order ------------------------------------------------------------------------------------------


def test_an_epoch_visits_every_image_once_in_an_order_of_its_own():
    data = open_batches(numbered(), "train", CPU)
    orders = [
        stacked(list(data.shuffled(16, PLAIN, [seed], epoch)))[1][0] for seed, epoch in ((1, 1), (1, 2), (2, 1))
    ]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert not torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])
    sizes = [labels.shape[1] for _, labels in data.shuffled(17, PLAIN, [1], 1)]
    assert sizes == [17, 17, 16]
    assert len(sizes) == data.steps(17)


def test_images_go_with_their_labels():
    dataset = numbered()
    data = open_batches(dataset, "train", CPU)
    in_order = torch.cat([images for images, _ in data.in_order(16)])
    images, labels = stacked(list(data.shuffled(16, PLAIN, [3, 4], 1)))
    assert images.shape == (2, 50, 3, 8, 8)
    for member in range(2):
        assert torch.equal(images[member], in_order[labels[member]])
    assert torch.cat([labels for _, labels in data.in_order(16)]).tolist() == list(range(50))


@pytest.mark.parametrize("augment", [PLAIN, ALL])
def test_members_steps_and_ranks_see_what_a_run_alone_sees(augment):
    data = open_batches(numbered(), "train", CPU)
    alone = {seed: list(data.shuffled(16, augment, [seed], 2)) for seed in (5, 6)}
    for step, (images, labels) in enumerate(data.shuffled(16, augment, [6, 5], 2)):
        for member, seed in enumerate((6, 5)):
            assert torch.equal(images[member], alone[seed][step][0][0])
            assert torch.equal(labels[member], alone[seed][step][1][0])
    resumed = list(data.shuffled(16, augment, [5], 2, start=2))
    assert len(resumed) == data.steps(16) - 2
    assert torch.equal(stacked(resumed)[0], stacked(alone[5][2:])[0])
    ranks = [data.shuffled(16, augment, [5], 2, share=(rank, 3)) for rank in range(3)]
    for whole, *parts in zip(alone[5], *ranks, strict=True):
        assert torch.equal(stacked(parts)[0], whole[0])
        assert torch.equal(stacked(parts)[1], whole[1])
        assert max(part[1].shape[1] for part in parts) - min(part[1].shape[1] for part in parts) <= 1


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_images_are_normalised_by_the_training_set(channels, layout, monkeypatch):
    monkeypatch.setattr("ncpipe.training.computation.memory_format", lambda device: layout)
    dataset = numbered(channels=channels)
    data = open_batches(dataset, "test", CPU)
    (images, _), *_ = data.in_order(64)
    mean, std = dataset.mean[:, None, None], dataset.std[:, None, None]
    torch.testing.assert_close(images, (dataset.test.images / 255 - mean) / std)
    assert images.is_contiguous(memory_format=layout)
    (shuffled, _), *_ = data.shuffled(64, PLAIN, [0, 1], 1)
    assert all(member.is_contiguous(memory_format=layout) for member in shuffled)


def test_vectors_have_no_layout_and_are_not_changed_in_place(monkeypatch):
    monkeypatch.setattr("ncpipe.training.computation.memory_format", lambda device: torch.channels_last)
    vectors = torch.randn(20, 5)
    split = Split(vectors.clone(), torch.arange(20))
    dataset = Dataset("v", tuple("ab"), split, split, mean=vectors.mean(dim=0), std=vectors.std(dim=0))
    data = open_batches(dataset, "train", CPU)
    for _ in range(2):
        (found, labels), *_ = data.in_order(64)
        torch.testing.assert_close(found, (vectors - dataset.mean) / dataset.std)
        found, labels = stacked(list(data.shuffled(7, PLAIN, [0, 1], 1)))
        torch.testing.assert_close(found, ((vectors - dataset.mean) / dataset.std)[labels])
    assert torch.equal(dataset.train.images, vectors)


def test_targets_are_labels_or_tags():
    dataset = numbered()
    labels = torch.tensor([[0, 2], [1, 3]])
    assert ImageBatches(dataset, "train", CPU).targets(labels) is labels
    tags = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.uint8)
    data = ImageBatches(replace(dataset, tag_sets=tags), "train", CPU)
    found = data.targets(labels)
    assert found.dtype == torch.float32
    assert found.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 1, 0]]]


# --- augmentation -----------------------------------------------------------------------------------


def test_flips_and_crops_are_of_whole_images():
    images = torch.arange(9, dtype=torch.uint8).view(1, 1, 3, 3).expand(400, 2, 3, 3)
    augment = AugmentSpec(flip=True)
    flipped = flipped_and_cropped(images, augment, draw(400, augment, 3, 3, torch.Generator().manual_seed(0)))
    kinds = Counter(tuple(image.flatten().tolist()) for image in flipped)
    plain, mirrored = tuple(range(9)) * 2, (2, 1, 0, 5, 4, 3, 8, 7, 6) * 2
    assert set(kinds) == {plain, mirrored}
    assert 150 < kinds[plain] < 250
    augment = AugmentSpec(crop=1)
    cropped = flipped_and_cropped(images + 1, augment, draw(400, augment, 3, 3, torch.Generator().manual_seed(0)))
    kinds = Counter(tuple(image.flatten().tolist()) for image in cropped)
    assert len(kinds) == 9
    assert min(kinds.values()) > 20
    assert (0, 0, 0, 0, 1, 2, 0, 4, 5) * 2 in kinds
    assert (5, 6, 0, 8, 9, 0, 0, 0, 0) * 2 in kinds


@pytest.mark.parametrize(("side", "areas"), [(2, {1, 2, 4}), (3, {4, 6, 9}), (9, {25})])
def test_cutout_is_a_square_about_any_pixel_clipped_at_the_border(side, areas):
    augment = AugmentSpec(cutout=side)
    draws = draw(500, augment, 5, 5, torch.Generator().manual_seed(0))
    cut = cut_out(torch.ones(500, 2, 5, 5), augment, draws) == 0
    assert torch.equal(cut[:, 0], cut[:, 1])
    assert set(cut[:, 0].sum(dim=(1, 2)).tolist()) == areas
    assert cut[range(500), 0, draws[3], draws[4]].all()
    assert draws[3:5].T.unique(dim=0).shape == (25, 2)


def test_no_setting_changes_what_another_one_draws():
    generators = [torch.Generator().manual_seed(1) for _ in range(2)]
    few = draw(100, AugmentSpec(crop=2), 8, 8, generators[0])
    many = draw(100, AugmentSpec(flip=True, crop=2, cutout=3), 8, 8, generators[1])
    assert torch.equal(few, many)


# --- streamed images --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair_of_sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """The same data in memory and on disk."""
    dataset, folder = numbered(), tmp_path_factory.mktemp("stored")
    return dataset, stored(dataset, folder)


@pytest.fixture(scope="module", params=[0, 2])
def streamed(request: pytest.FixtureRequest, pair_of_sets: tuple[Dataset, Dataset]) -> StreamedBatches:
    return StreamedBatches(pair_of_sets[1], "train", CPU, workers=request.param)


def test_stored_images_open_streamed_batches(pair_of_sets):
    assert isinstance(open_batches(pair_of_sets[0], "train", CPU), ImageBatches)
    assert isinstance(open_batches(pair_of_sets[1], "train", CPU), StreamedBatches)


@pytest.mark.parametrize(
    "options", [{}, {"start": 2}, {"share": (1, 2)}, {"start": 1, "share": (2, 3)}], ids=lambda options: str(options)
)
def test_streamed_batches_equal_those_in_memory(streamed, pair_of_sets, options):
    memory = ImageBatches(pair_of_sets[0], "train", CPU)
    for epoch in (1, 2):
        pairs = zip(
            streamed.shuffled(16, ALL, [3], epoch, **options),
            memory.shuffled(16, ALL, [3], epoch, **options),
            strict=True,
        )
        for (images, labels), (expected_images, expected_labels) in pairs:
            assert torch.equal(images, expected_images)
            assert torch.equal(labels, expected_labels)
            assert images[0].is_contiguous()
    for (images, labels), (expected_images, expected_labels) in zip(
        streamed.in_order(16), memory.in_order(16), strict=True
    ):
        assert torch.equal(images, expected_images)
        assert torch.equal(labels, expected_labels)


def test_an_iteration_may_be_left_and_begun_anew(streamed):
    whole = list(streamed.shuffled(16, PLAIN, [0], 1))
    next(streamed.shuffled(16, PLAIN, [0], 2))
    for (images, _), (expected, _) in zip(streamed.shuffled(16, PLAIN, [0], 1), whole, strict=True):
        assert torch.equal(images, expected)


def test_streaming_leaves_the_random_numbers_of_training_alone(streamed):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(streamed.shuffled(16, CROPPED, [0], 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_resized_crops_depend_on_neither_workers_nor_resumption(pair_of_sets, streamed):
    expected = list(StreamedBatches(pair_of_sets[1], "train", CPU, workers=0).shuffled(16, CROPPED, [4], 2))
    resumed = list(streamed.shuffled(16, CROPPED, [4], 2, start=1, share=(0, 2)))
    for (images, _), (whole, _) in zip(resumed, expected[1:], strict=True):
        assert torch.equal(images, whole[:, : images.shape[1]])


def test_a_resized_crop_is_a_part_of_its_image(tmp_path):
    """Of an image that rises evenly from left to right a crop shows a narrower range, and rises too."""
    ramp = (torch.arange(0, 256, 16, dtype=torch.uint8)).expand(40, 3, 16, 16).contiguous()
    split = Split(ramp, torch.zeros(40, dtype=torch.int64))
    dataset = Dataset("ramp", ("a",), split, split, torch.zeros(3), torch.ones(3) / 255)
    data = StreamedBatches(stored(dataset, tmp_path), "train", CPU)
    images, _ = next(data.shuffled(40, AugmentSpec(resized_crop=0.2), [0], 1))
    rows = images[0, :, 0, 0]
    assert (images[0] == rows[:, None, None]).all()
    assert (rows.diff(dim=1) >= 0).all()
    ranges = rows[:, -1] - rows[:, 0]
    # Widths in whole pixels: a share a of the area with sides of ratio r is sqrt(a r) of the width, at least 0.38.
    assert set(ranges.tolist()) <= {16 * (width - 1) for width in range(6, 17)}
    assert len(ranges.unique()) > 5


def test_a_gpu_has_workers_and_ranks_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(12), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert (_default_workers(CPU), _default_workers(torch.device("cuda"))) == (0, 8)
    for ranks, workers in ((2, 5), (4, 2), (12, 0), (24, 0)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        assert _default_workers(torch.device("cuda", 1)) == workers


def test_streamed_data_train_one_network_at_a_time(streamed):
    with pytest.raises(UserError, match=r"set compute\.ensemble to 1"):
        next(streamed.shuffled(16, PLAIN, [0, 1], 1))


READING = """
import multiprocessing, signal, sys, time
from pathlib import Path
import torch
from ncpipe.data import Dataset, Split
from ncpipe.data.storage import StoredImages
from ncpipe.training.settings import (AugmentSpec)
from ncpipe.training.streams import StreamedBatches

def main():
    split = Split(StoredImages(Path(sys.argv[1])), torch.arange(50))
    dataset = Dataset("numbered", ("a",), split, split, torch.zeros(3), torch.ones(3))
    data = StreamedBatches(dataset, "train", torch.device("cpu"), workers=2)
    batches = data.shuffled(5, AugmentSpec(), [0], 1)
    next(batches), next(batches)  # of each worker one
    print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
    sys.stdin.readline()
    print(2 + sum(1 for _ in batches), flush=True)
    sys.stdin.readline()

if __name__ == "__main__":
    main()
"""


@pytest.fixture
def reading(pair_of_sets, tmp_path) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A process that streams, and its workers."""
    script = tmp_path / "reading.py"
    script.write_text(READING)
    command = [sys.executable, str(script), str(pair_of_sets[1].train.images.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, [int(pid) for pid in process.stdout.readline().split()]
        process.kill()


def ends(pid: int, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_a_killed_run_leaves_no_worker_behind(reading):
    process, workers = reading
    assert len(workers) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert all(ends(worker) for worker in workers)


def test_workers_outlive_the_signals_of_a_scheduler_and_end_with_the_run(reading):
    process, workers = reading
    for worker in workers:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.kill(worker, number)
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "10\n"  # the whole epoch
    process.stdin.close()
    assert process.wait(20) == 0
    assert all(ends(worker) for worker in workers)
