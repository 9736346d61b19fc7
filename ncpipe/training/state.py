"""The state of an unfinished training run, written atomically outside the declared outputs."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ncpipe.errors import UserError
from ncpipe.files import read_tensors, write_tensors


@dataclass
class Progress:
    """How far a run has come: everything but weights and optimiser. Data order follows from the epoch."""

    epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    timings: list[dict[str, float]] = field(default_factory=list)
    diverged: bool = False


class StateFolder:
    """``<run>/.state``: Snakemake deletes the declared outputs of a failed job, but not this folder."""

    def __init__(self, run_folder: Path, digest: str) -> None:
        self.folder = run_folder / ".state"
        self.digest = digest
        self.file = self.folder / "state.safetensors"

    def checkpoint(self, epoch: int) -> Path:
        return self.folder / "checkpoints" / checkpoint_name(epoch)

    def save(self, network: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        tensors = {f"network/{name}": value for name, value in network.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{k}": v for k, v in state.items() if isinstance(v, torch.Tensor)}
        metadata = {"digest": self.digest, "progress": json.dumps(progress.__dict__)}
        write_tensors(self.file, tensors, metadata)

    def load(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> Progress:
        """Put back what was saved for the same settings and code; otherwise begin anew."""
        if not self.file.exists():
            return Progress()
        try:
            tensors, metadata = read_tensors(self.file)
        except UserError as error:
            print(f"{error}; training starts again", flush=True)
            return self._restart()
        if metadata.get("digest") != self.digest:
            return self._restart()
        network.load_state_dict(
            {k.removeprefix("network/"): v for k, v in tensors.items() if k.startswith("network/")}
        )
        states: dict[int, dict[str, Any]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer/"):
                _, index, name = key.split("/")
                states.setdefault(int(index), {})[name] = value
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        return Progress(**json.loads(metadata["progress"]))

    def _restart(self) -> Progress:
        self.remove()
        return Progress()

    def publish_checkpoints(self, target: Path) -> None:
        """Give the checkpoints their declared place, keeping them here until the job has ended."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for source in sorted((self.folder / "checkpoints").glob("epoch*.safetensors")):
            try:
                os.link(source, target / source.name)
            except OSError:
                shutil.copy2(source, target / source.name)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def checkpoint_name(epoch: int) -> str:
    return f"epoch{epoch:06d}.safetensors"
