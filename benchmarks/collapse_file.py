"""Files larger than memory: seconds, speed and peak memory of ``ncpipe measure`` on a file of features.

    python benchmarks/collapse_file.py [--rows 1000000] [--width 512] [--classes 10] [--format safetensors]

Writes the file a piece at a time, measures it in a process of its own, and reads it twice from the same state of the
page cache for comparison. 10^7 x 512 are 20 GB on disk.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

PIECE = 50_000
PEAK = "import re, sys; from ncpipe.cli.main import app; app(standalone_mode=False); "
PEAK += r"print(re.search(r'VmHWM:\s+(\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"


def pieces(rows: int, width: int, classes: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Gaussian clusters, from noise that is drawn once."""
    draw = np.random.default_rng(0)
    means, noise = (
        draw.standard_normal((classes, width), np.float32),
        draw.standard_normal((PIECE, width), np.float32),
    )
    for start in range(0, rows, PIECE):
        labels = np.arange(start, min(rows, start + PIECE)) % classes
        yield means[labels] + noise[: len(labels)], labels


def write(path: Path, rows: int, width: int, classes: int) -> None:
    if path.suffix == ".parquet":
        kind = pa.list_(pa.float32(), width)
        with parquet.ParquetWriter(path, pa.schema([("features", kind), ("labels", pa.int64())])) as file:
            for features, labels in pieces(rows, width, classes):
                column = pa.FixedSizeListArray.from_arrays(features.reshape(-1), width)
                file.write_table(pa.table({"features": column, "labels": labels}))
        return
    size, all_labels = 4 * rows * width, np.arange(rows) % classes
    if path.suffix == ".safetensors":
        header = {
            "features": {"dtype": "F32", "shape": [rows, width], "data_offsets": [0, size]},
            "labels": {"dtype": "I64", "shape": [rows], "data_offsets": [size, size + 8 * rows]},
        }
        words = json.dumps(header).encode()
        words += b" " * (-len(words) % 8)
        with path.open("wb") as stream:
            stream.write(len(words).to_bytes(8, "little") + words)
            for features, _ in pieces(rows, width, classes):
                stream.write(features.data)
            stream.write(all_labels.data)
        return
    path.mkdir()
    np.save(path / "labels.npy", all_labels)
    array = np.lib.format.open_memmap(path / "features.npy", "w+", np.float32, (rows, width))
    for start, (features, _) in enumerate(pieces(rows, width, classes)):
        array[start * PIECE : start * PIECE + len(features)] = features


def read_twice(path: Path) -> float:
    """Seconds of reading every byte two times, 64 MiB at a time."""
    start, buffer = time.perf_counter(), bytearray(1 << 26)
    for _ in range(2):
        for file in path.glob("*.npy") if path.is_dir() else [path]:
            with file.open("rb", buffering=0) as stream:
                while stream.readinto(buffer):
                    pass
    return time.perf_counter() - start


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--format", choices=("safetensors", "parquet", "npy"), default="safetensors")
    parser.add_argument("--folder", type=Path, help="where the file is written; default: a temporary folder")
    arguments = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / ("arrays" if arguments.format == "npy" else f"features.{arguments.format}")
        write(path, arguments.rows, arguments.width, arguments.classes)
        size = sum(file.stat().st_size for file in (path.rglob("*.npy") if path.is_dir() else [path])) / 1e9
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        command = [sys.executable, "-c", PEAK, "measure", str(path), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        peak, twice = int(done.stderr.splitlines()[-1]) / 2**20, read_twice(path)
    print(
        f"{arguments.format}, {arguments.rows:,} x {arguments.width}, K = {arguments.classes}, {size:.2f} GB: CPU"
        f" {cpu:.1f} s, wall {wall:.1f} s, peak memory {peak:.2f} GiB; two reads alone {twice:.1f} s;"
        f" nc1_pinv {json.loads(done.stdout)['nc1_pinv']:.6g}"
    )


if __name__ == "__main__":
    main()
