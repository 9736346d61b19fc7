"""The stages that make one run of a study, and how they are run again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ncpipe.data.dataset import RECORD
from ncpipe.job_server.start import THREAD_VARIABLES
from ncpipe.study.layout import Layout
from ncpipe.study.runs import ContinualRun, UfmBatch
from ncpipe.study.study import Study
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, sha256
from ncpipe.training.settings import NetworkRun

Command = tuple[str, ...]
"""Arguments of ``ncpipe``."""


def made_by(study: Study, run_id: str) -> NetworkRun | ContinualRun | UfmBatch | None:
    """The network, also of a matched UFM, or else the job in which the run is made; None where it is not planned."""
    for network in study.networks.values():
        if run_id in (network.id, *(f"matched-{kind}-{network.id}" for kind in study.config.ufm.matched)):
            return network
    learning = (run for run in study.continual.values() if run_id in run.ways)
    return next(learning, None) or next((b for b in study.ufm_batches.values() if run_id in b.problems), None)


def records_of(study: Study, run_id: str, results: Path) -> Path:
    """Folder of the records of a planned run below a results folder."""
    layout, source = Layout(results), made_by(study, run_id)
    if isinstance(source, ContinualRun):
        return layout.continual(source.network.id)
    if isinstance(source, NetworkRun):
        return layout.run(run_id) if run_id == source.id else layout.ufm(source.matched_id)
    assert source is not None
    return layout.ufm(source.id)


def commands_of(study: Study, file: Path, run_id: str, threads: int, device: str) -> list[Command]:
    """The commands that make the run, in their order, as the rules of the workflow call them."""
    source, s, cpu = made_by(study, run_id), str(file), ("--threads", str(threads))
    anywhere = (*cpu, "--device", device)
    if isinstance(source, UfmBatch):
        folder = study.layout.ufm(source.id)
        return [("fit", s, source.id, *cpu), _collapse(folder, "ufm")]
    assert source is not None
    network = source.network if isinstance(source, ContinualRun) else source
    commands: list[Command] = [
        ("dataset", s, name) for name in _datasets(source) if not study.layout.dataset(name).exists()
    ]
    commands.append(("train", s, network.id, *anywhere))
    if isinstance(source, ContinualRun):
        return [*commands, ("continual", s, network.id, *anywhere)]
    commands += [("features", s, network.id, *anywhere), _collapse(study.layout.run(network.id), "net")]
    return commands if run_id == network.id else [*commands, ("match", s, network.id, *cpu)]


def _collapse(folder: Path, source: str) -> Command:
    return "collapse", str(folder / "statistics.safetensors"), source, str(folder / "collapse.parquet")


def _datasets(source: NetworkRun | ContinualRun) -> Sequence[str]:
    if isinstance(source, ContinualRun):
        return source.network.dataset_id, source.dataset_id
    return (source.dataset_id,)


def recorded_data(study: Study, run_id: str, recorded: Layout) -> None:
    """Link the prepared data sets of the record whose SHA-256 are those of their making; others are made anew."""
    source = made_by(study, run_id)
    for name in () if source is None or isinstance(source, UfmBatch) else _datasets(source):
        if not (recorded.dataset(name) / RECORD).is_file():
            continue
        if altered := _altered(recorded.dataset(name)):
            print(f"{altered} is missing or altered: the data set is prepared anew", file=sys.stderr, flush=True)
            continue
        target = study.layout.dataset(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(recorded.dataset(name).resolve())


def _altered(folder: Path) -> Path | None:
    """The file of a prepared data set that is not as it was made, if any."""
    for split, checksum in read_json(folder / RECORD)["sha256"].items():
        path = folder / f"{split}.safetensors"
        if not path.is_file() or sha256(path) != checksum:
            return path
    return None


def rerun(commands: Iterable[Command], threads: int) -> None:
    """Run the commands one after another, each in a process as a job has; what they print goes to stderr."""
    environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(threads))
    listed = list(commands)
    for number, command in enumerate(listed, start=1):
        print(f"{number}/{len(listed)} {command[0]}", file=sys.stderr, flush=True)
        done = subprocess.run([sys.executable, "-m", "ncpipe", *command], env=environment, stdout=2, check=False)
        if done.returncode:
            raise UserError(
                f"the stage {command[0]} failed with exit code {done.returncode}; its reason stands above"
            )
