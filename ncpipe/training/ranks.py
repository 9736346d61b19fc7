"""The processes that train one network together, and how they are started under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ncpipe.errors import UserError
from ncpipe.training.preemption import Preempted, stop_requests

PARENT = "NCPIPE_RANKS"
"""Set in the environment of processes that ``launch`` has started."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share every batch."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the records."""
        return self.rank == 0

    @property
    def share(self) -> tuple[int, int]:
        return self.rank, self.world

    def sum(self, value: Tensor) -> Tensor:
        """Replace ``value`` by its sum over the processes; returns it."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in some process."""
        return flag if self.world == 1 else bool(self.sum(torch.tensor(float(flag), device=device)) > 0)

    def wrapped(self, network: nn.Module) -> nn.Module | None:
        """The network whose gradients are averaged over the processes; None for one process."""
        return nn.parallel.DistributedDataParallel(network) if self.world > 1 else None


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """The processes that ``launch`` started, connected; one process where it did not."""
    if PARENT not in os.environ:
        yield Ranks()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def is_rank() -> bool:
    """Whether ``launch`` started this process."""
    return PARENT in os.environ


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, where the job has GPUs."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device


def launch(arguments: Sequence[str], world: int, visible: Sequence[int] | None) -> None:
    """Run ``ncpipe`` with these arguments in ``world`` processes under torchrun, and wait for them.

    ``visible``: GPUs they see, or None to leave that to the environment. A signal to stop is passed on; the ranks
    save and end. Raises ``Preempted`` then, and ``UserError`` where they failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    environment = os.environ | {PARENT: str(world)}
    # torchrun must pass on the signals that we save at; it would die of SIGUSR1, which schedulers send to all.
    environment["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    environment.setdefault("OMP_NUM_THREADS", "1")  # or torchrun warns that it sets it
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, visible))
    with stop_requests() as stop:
        process = subprocess.Popen([*command, "-m", "ncpipe", *arguments], env=environment)
        told = False
        while (code := _wait(process)) is None:
            if stop and not told:
                process.send_signal(signal.SIGTERM)
                told = True
    if stop:
        raise Preempted(f"{stop.name}: saved; run again to go on")
    if code:
        raise UserError(f"training in {world} processes failed (code {code}): the reason stands above")


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None
