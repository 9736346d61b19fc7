"""The continual stage: from a trained network and its data with all classes to the records of learning them."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from ncpipe.continual.initialisation import Head, Samples
from ncpipe.continual.learning import Learnt, learn
from ncpipe.data import Dataset
from ncpipe.networks import Network
from ncpipe.records.writing import write_history, write_timings
from ncpipe.settings.identity import STAGE_VERSIONS
from ncpipe.study.runs import ContinualRun
from ncpipe.system.errors import UserError
from ncpipe.system.files import read_json, read_tensors, write_json
from ncpipe.system.progress import progress
from ncpipe.system.provenance import origin
from ncpipe.system.stopwatch import work
from ncpipe.training.computation import Computation
from ncpipe.training.streams import open_batches
from ncpipe.training.trainer import EVALUATION_BATCH, new_network

DIVERGED = Learnt("diverged", 0, 0, [])
"""On a network that diverged itself."""


def learn_classes(
    run: ContinualRun, kept: Dataset, whole: Dataset, network_folder: Path, folder: Path, computation: Computation
) -> None:
    """Teach the classifier of a trained network the classes that it has not seen, in every way of ``run``.

    Writes ``history.parquet``, ``timings.parquet`` and, last, ``runs.json`` to ``folder``.

    Args:
        run: the network and the ways to learn.
        kept: the data that the network was trained on; its mean and deviation normalise all images.
        whole: the same data with all classes, of which the first are the kept ones.
        network_folder: holds ``spec.json`` and ``model.safetensors`` of the network.
        folder: where to write.
        computation: of the forward pass, in float32; SGD runs in float64 on the CPU.
    """
    if whole.num_classes <= kept.num_classes:
        raise UserError(f"{run.network.id} has seen all {whole.num_classes} classes; lower dataset.classes")
    learnt, device = dict.fromkeys(run.ways, DIVERGED), computation.device
    timings = {}
    with work(), progress(f"continual {run.network.id}", len(run.ways)) as report:
        if read_json(network_folder / "spec.json")["status"] == "done":
            old, train, test = frozen_features(run, kept, whole, network_folder, computation)
            for done, (run_id, spec) in enumerate(run.ways.items(), start=1):
                start = time.time()
                found = learn(spec, run.network.spec.loss, old, train, test, whole.num_classes)
                now = time.time()
                learnt[run_id] = found
                timings[run_id] = [{"time": found.final_step, "seconds": now - start, "finished_at": now}]
                report(done, run_id)
        write_history(folder / "history.parquet", "net", {run_id: found.history for run_id, found in learnt.items()})
        write_timings(folder / "timings.parquet", "continual", timings)
        write_json(folder / "runs.json", {run_id: _about(found, device) for run_id, found in learnt.items()})


def _about(found: Learnt, device: torch.device) -> dict[str, Any]:
    return {
        "status": found.status,
        "final_step": found.final_step,
        "train_samples": found.train_samples,
        "code_version": STAGE_VERSIONS["continual"],
        "provenance": origin(device),
    }


@torch.no_grad()
def frozen_features(
    run: ContinualRun, kept: Dataset, whole: Dataset, network_folder: Path, computation: Computation
) -> tuple[Head, Samples, Samples]:
    """The trained classifier, and what it reads of all training and test images in evaluation mode, on the CPU."""
    network = replace(computation, compiled=False).place(new_network(run.network.spec, kept)).eval()
    network.load_state_dict(read_tensors(network_folder / "model.safetensors")[0])
    data = replace(whole, mean=kept.mean, std=kept.std)
    train, test = (_samples(network, data, split, computation.device) for split in ("train", "test"))
    weight, bias = network.head.effective()
    return Head(weight.double().cpu(), None if bias is None else bias.double().cpu()), train, test


def _samples(network: Network, data: Dataset, split: Literal["train", "test"], device: torch.device) -> Samples:
    batches = open_batches(data, split, device)
    read = [network.features(images)[0]["features"].cpu() for images, _ in batches.in_order(EVALUATION_BATCH)]
    return Samples(torch.cat(read).double(), batches.labels.cpu())
