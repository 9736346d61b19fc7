"""Files of ours with a bit wrong anywhere: read as they were written, or refused in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from ncpipe.data.storage import StoredImages, write_split
from ncpipe.records.writing import read_table, write_rows
from ncpipe.system.errors import UserError
from ncpipe.system.files import (
    check_writable,
    content_digest,
    read_json,
    read_sealed,
    read_tensors,
    sealed,
    sha256,
    write_json,
    write_tensors,
)
from ncpipe.system.lock import HELD, hold

TENSORS = {
    "weight": torch.arange(12.0).reshape(3, 4),
    "half": torch.ones(3).bfloat16(),
    "count": torch.tensor(7),
    "none": torch.zeros(0, 2),
    "flags": torch.tensor([True, False]),
}
ROWS = [{"name": f"run {i % 3}", "value": i / 7, "step": i} for i in range(50)]
SCHEMA = pa.schema([("name", pa.string()), ("value", pa.float64()), ("step", pa.int64())])
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><path d="M 1.5 2.5 L 3.5 4.5"/></svg>\n'


def write_images(path: Path) -> None:
    write_split(path, (4, 1, 2, 3), [torch.arange(24, dtype=torch.uint8).reshape(4, 1, 2, 3)], torch.arange(4))


def read_all(path: Path) -> object:
    tensors, metadata = read_tensors(path)
    return tensors, metadata["epoch"]  # the key of the checksums itself may have become another


def read_known(path: Path) -> object:
    value = read_json(path)
    return value["mean"], value["id"]


def comparable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.tolist()
    if isinstance(value, dict):
        return {key: comparable(each) for key, each in value.items()}
    return [comparable(each) for each in value] if isinstance(value, tuple) else value


FORMATS: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "tensors": (lambda p: write_tensors(p, TENSORS, {"epoch": "3"}), read_all),
    "some tensors": (lambda p: write_tensors(p, TENSORS), lambda p: read_tensors(p, lambda n: n == "weight")[0]),
    "json": (lambda p: write_json(p, {"mean": [0.5, 1.25], "id": "a"}), read_known),
    "parquet": (lambda p: write_rows(p, SCHEMA, ROWS), lambda p: read_table(p).to_pylist()),
    "svg": (lambda p: p.write_text(sealed(SVG)), lambda p: read_sealed(p).rpartition("<!--")[0]),
    "streamed images": (write_images, lambda p: StoredImages(p)[np.arange(4)]),
}


@pytest.mark.every(3)
@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_bit_anywhere_is_refused_or_harmless(name: str, tmp_path: Path) -> None:
    write, read = FORMATS[name]
    path = tmp_path / "file"
    write(path)
    whole, expected = path.read_bytes(), comparable(read(path))
    refused = 0
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            value = comparable(read(path))
        except UserError as error:
            message = str(error)
        else:
            assert value == expected, f"byte {place} of {len(whole)}"
            continue
        refused += 1
        assert str(path) in message
        assert "\n" not in message
    assert refused > len(whole) / 3


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"half"], ids=["empty", "zeros", "half"])
def test_a_file_of_other_content_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    write, read = FORMATS[name]
    path = tmp_path / "file"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if content == b"half" else content)
    with pytest.raises(UserError):
        read(path)


def test_equal_tensors_give_equal_bytes(tmp_path: Path) -> None:
    written = set()
    for number in range(8):
        write_tensors(tmp_path / str(number), TENSORS, {"c": "\u00e9\x01", "a": "1", "b": "2"})
        written.add((tmp_path / str(number)).read_bytes())
    assert len(written) == 1


def test_two_writers_of_one_file_leave_one_of_both_at_every_moment(tmp_path: Path) -> None:
    path = tmp_path / "tensors"
    write_tensors(path, {"a": torch.zeros(1000)})
    with ThreadPoolExecutor() as pool:
        jobs = [pool.submit(write_tensors, path, {"a": torch.full((1000,), i % 2)}) for i in range(40)]
        while not all(job.done() for job in jobs):
            assert read_tensors(path)[0]["a"].unique().numel() == 1
        assert [job.result() for job in jobs] == [None] * 40
    assert list(tmp_path.iterdir()) == [path]


def test_files_without_checksums_are_read(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "tensors", {"epoch": "3"})
    assert comparable(read_tensors(tmp_path / "tensors")) == comparable((TENSORS, {"epoch": "3"}))
    (tmp_path / "json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "json") == {"a": 1}


def test_one_process_holds_a_results_folder_until_it_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HELD, "elsewhere")
    code = (
        f"import time; from pathlib import Path; from ncpipe.system.lock import hold; hold(Path({str(tmp_path)!r}));"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code + "print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    with pytest.raises(UserError, match=rf"another snakemake runs on .* \(process {holder.pid} on"):
        hold(tmp_path)
    monkeypatch.setenv(HELD, str(tmp_path))  # as where that one has started this one
    hold(tmp_path)
    monkeypatch.setenv(HELD, "elsewhere")
    holder.kill()
    holder.communicate()
    hold(tmp_path)


def test_where_nothing_can_be_locked_a_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.delenv(HELD, raising=False)
    monkeypatch.setattr("fcntl.flock", refuse)
    hold(tmp_path)
    assert re.fullmatch(r"ncpipe: .*\.lock cannot be locked \(No locks available\): .*\n", capsys.readouterr().err)


def test_a_folder_without_access_is_named_before_a_workflow_writes_to_it(tmp_path, monkeypatch):
    check_writable([tmp_path, tmp_path / "missing"])
    monkeypatch.setattr("os.access", lambda folder, mode: folder != tmp_path)  # root may write anywhere
    with pytest.raises(UserError, match=rf"cannot write {re.escape(str(tmp_path))}: Permission denied; .* run again"):
        check_writable([tmp_path])


def test_the_digest_of_a_content_is_of_nothing_else(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "deep").mkdir(parents=True)
        write_tensors(tmp_path / name / "deep/a.safetensors", TENSORS, {"epoch": "3"})
        (tmp_path / name / "b.txt").write_text("text")
    one, two = tmp_path / "one", tmp_path / "two"
    (two / ".snakemake_timestamp").touch()
    os.utime(two / "b.txt", (0, 0))
    assert content_digest(one) == content_digest(two)
    assert content_digest(one / "b.txt") == sha256(one / "b.txt")
    known = {content_digest(one)}
    for change in (
        lambda: (one / "b.txt").write_text("next"),  # of one length
        lambda: (one / "b.txt").rename(one / "c.txt"),
        lambda: write_tensors(one / "deep/a.safetensors", TENSORS | {"count": torch.tensor(8)}, {"epoch": "3"}),
        lambda: write_tensors(one / "deep/a.safetensors", TENSORS, {"epoch": "4"}),
        lambda: save_file({"a": torch.ones(1)}, one / "deep/a.safetensors"),
        lambda: save_file({"a": torch.zeros(1)}, one / "deep/a.safetensors"),  # of others, without checksums
        lambda: (one / "deep/a.safetensors").write_bytes(b"\xff" * 20),
        lambda: (one / "deep/a.safetensors").write_bytes(b""),
        lambda: (one / "deep/a.safetensors").unlink(),
    ):
        change()
        assert content_digest(one) not in known
        known.add(content_digest(one))
