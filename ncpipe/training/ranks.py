"""The processes that train one network together, and how they are started under torchrun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ncpipe.networks import Network
from ncpipe.system.errors import UserError
from ncpipe.training.preemption import Preempted, stop_requests

LAUNCHER = "NCPIPE_LAUNCHER"
"""In the environment of the processes that ``launch`` starts: the number of the process that did."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that share every batch."""

    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process writes the records."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Replace ``value`` by its sum over the processes; returns it."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is set in some process."""
        return flag if self.world == 1 else bool(self.sum(torch.tensor(float(flag), device=device)) > 0)

    def wrapped(self, network: Network) -> nn.Module | None:
        """The network whose gradients are averaged over the processes; None for one process."""
        if self.world == 1:
            return None
        unused = network.is_tapped  # a network of a user's own may have parameters without a part in its output
        return nn.parallel.DistributedDataParallel(network, find_unused_parameters=unused)


@contextmanager
def joined_ranks(device: torch.device) -> Iterator[Ranks]:
    """The processes that ``launch`` started, connected; one process where it did not.

    They are told to stop when the process that launched them has died. ``Preempted`` ends them with code 0, since
    torchrun takes another for a failure.
    """
    if not is_rank():
        yield Ranks()
        return
    threading.Thread(target=_stop_with, args=(int(os.environ[LAUNCHER]),), daemon=True).start()
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Ranks(dist.get_rank(), dist.get_world_size())
    except Preempted as stop:
        if dist.get_rank() == 0:
            print(f"ncpipe: {stop.message}", file=sys.stderr, flush=True)
        raise SystemExit(0) from None
    finally:
        dist.destroy_process_group()


def is_rank() -> bool:
    """Whether ``launch`` started this process."""
    return LAUNCHER in os.environ


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process, where the job has GPUs."""
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device.type == "cuda" else device


def launch(arguments: Sequence[str], world: int, visible: Sequence[int] | None) -> None:
    """Run ``ncpipe`` with these arguments in ``world`` processes under torchrun, and wait for them.

    ``visible``: GPUs they see, or None to leave that to the environment. A signal to stop is passed on to the ranks,
    which save and end well. Raises ``UserError`` where they failed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    environment = os.environ | {LAUNCHER: str(os.getpid())}
    # torchrun would die of SIGUSR1, which schedulers send to all processes of a job.
    environment["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    environment.setdefault("OMP_NUM_THREADS", "1")  # or torchrun warns that it sets it
    if visible is not None:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, visible))
    with stop_requests() as stop:
        process = subprocess.Popen([*command, "-m", "ncpipe", *arguments], env=environment)
        told: set[int] = set()
        while (code := process.poll()) is None:
            if stop:
                told |= _tell_ranks(process.pid, told)
            time.sleep(0.1)
    if code and not stop:
        raise UserError(f"training in {world} processes failed (code {code}): the reason stands above")


def _tell_ranks(torchrun: int, told: set[int]) -> set[int]:
    """Tell the ranks to stop that have not been told, not torchrun, which would give them 30 seconds and end with a
    traceback; their numbers."""
    import psutil

    ranks: set[int] = set()
    with suppress(psutil.NoSuchProcess):
        for rank in psutil.Process(torchrun).children():
            if rank.pid not in told:
                rank.send_signal(signal.SIGTERM)
                ranks.add(rank.pid)
    return ranks


def _stop_with(launcher: int) -> None:
    """Tell this rank to stop when its launcher has died: torchrun would train on, on GPUs that others may take."""
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(launcher)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
