"""The epochs of a training so far: a file that grows by a line an epoch, for whoever watches."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ncpipe.records.writing import read_table

Epoch = dict[str, Any]
"""``time``, the quantities of the ``history`` table, ``seconds``, ``images_per_second`` and ``finished_at``."""


class EpochLog:
    """``epochs.jsonl`` in the folder of a run that trains: its history and timings up to the last whole epoch.

    Best effort: what cannot be written is left out, and training goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.path = log_path(folder)

    def begin(self, epochs: Iterable[Mapping[str, float]]) -> None:
        """Start the file with the epochs that a resumed run has behind it."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text("".join(map(_line, epochs)), encoding="utf-8")

    def add(self, epoch: Mapping[str, float]) -> None:
        with suppress(OSError), self.path.open("a", encoding="utf-8") as stream:
            stream.write(_line(epoch))

    def remove(self) -> None:
        """Once the records are published."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def log_path(folder: Path) -> Path:
    return folder / "epochs.jsonl"


def _line(epoch: Mapping[str, float]) -> str:
    return json.dumps(epoch) + "\n"


def read_epochs(folder: Path) -> list[Epoch]:
    """Epochs of a run that trains, or of one that has ended; none before the first.

    A line that is still being written is left for later, and what follows a damaged one is left out.
    """
    try:
        lines = log_path(folder).read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return _published(folder)
    except ValueError:  # no UTF-8
        return []
    epochs: list[Epoch] = []
    with suppress(ValueError):
        epochs.extend(json.loads(line) for line in lines if line.endswith("\n"))
    return epochs


def _published(folder: Path) -> list[Epoch]:
    history, timings = folder / "history.parquet", folder / "timings.parquet"
    if not (history.exists() and timings.exists()):
        return []
    epochs: dict[int, Epoch] = {}
    for row in read_table(timings).to_pylist():
        finished = row["finished_at"].timestamp()
        epochs[row["time"]] = {"time": row["time"], "seconds": row["seconds"], "finished_at": finished}
    for row in read_table(history).to_pylist():
        epochs.setdefault(row["time"], {"time": row["time"]})[row["quantity"]] = row["value"]
    return [epochs[time] for time in sorted(epochs)]
