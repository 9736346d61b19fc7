"""The loop of training: steps, epochs, records, and a state saved so that nothing is lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ncpipe.data import Dataset
from ncpipe.networks import Network, build_network
from ncpipe.records.epoch_log import EpochLog
from ncpipe.records.writing import write_history, write_timings
from ncpipe.settings.identity import STAGE_VERSIONS, digest
from ncpipe.system.errors import UserError
from ncpipe.system.files import replacing, write_json, write_tensors
from ncpipe.system.progress import progress as progress_bar
from ncpipe.system.progress import silent
from ncpipe.system.provenance import origin
from ncpipe.training.computation import Computation, device_kind
from ncpipe.training.full_batch import FullBatch
from ncpipe.training.losses import correct, feature_penalty
from ncpipe.training.members import Members, Single, Stack
from ncpipe.training.optimization import build_optimizer, learning_rate
from ncpipe.training.preemption import Preempted, StopRequest
from ncpipe.training.ranks import Ranks
from ncpipe.training.settings import NetworkRun, NetworkSpec
from ncpipe.training.state import (
    Progress,
    SaveClock,
    SavedState,
    StateFolder,
    generator_states,
    restore_generators,
)
from ncpipe.training.streams import open_batches
from ncpipe.training.terminal import EndPhase

EVALUATION_BATCH = 512
REPORT_INTERVAL = 1.0
"""Seconds between two reports of progress within an epoch."""
STOP_CHECK = 16
"""Steps between two questions whether another process was told to stop; each takes a synchronisation."""


class Trainer:
    """Networks in training that differ in their seed only: weights, optimiser, data and records.

    All members stand at one step. Usually there is one.
    """

    progress: list[Progress]
    epochs: int
    """Whole epochs behind."""
    step: int
    """Steps behind of the epoch after those."""

    def __init__(
        self,
        runs: Sequence[NetworkRun],
        folders: Sequence[Path],
        dataset: Dataset,
        computation: Computation,
        ranks: Ranks = Ranks(),  # noqa: B008
    ) -> None:
        self.runs, self.folders, self.ranks, self.computation = runs, folders, ranks, computation
        self.dataset = dataset
        self.spec, self.device = runs[0].spec, computation.device
        self.train_data = open_batches(dataset, "train", self.device)
        self.test_data = open_batches(dataset, "test", self.device)
        networks = [computation.place(new_network(run.spec, dataset)) for run in runs]
        self.members: Members = Stack(networks) if len(runs) > 1 else Single(networks[0], ranks.wrapped(networks[0]))
        self.optimizer = build_optimizer(self.spec.optimizer, self.members.skeleton, self.members.parameters)
        self._check_batches()
        self.totals = torch.zeros(2, len(runs), dtype=torch.float64, device=self.device)
        torch.manual_seed(self.spec.seed)
        self.states = [state_folder(run, folder, dataset) for run, folder in zip(runs, folders)]
        self._restore([state.load() for state in self.states])
        self.logs = [EpochLog(folder) for folder in folders] if ranks.is_first else []
        for log, progress in zip(self.logs, self.progress):
            log.begin(history | timing for history, timing in zip(progress.history, progress.timings))
        self.clock = SaveClock()

    @property
    def is_done(self) -> bool:
        return all(progress.is_done(self.spec.epochs) for progress in self.progress)

    def _check_batches(self) -> None:
        """BatchNorm has no statistics of a single image."""
        least = len(self.train_data) // self.train_data.steps(self.spec.batch_size) // self.ranks.world
        norms = (nn.BatchNorm1d, nn.BatchNorm2d)
        if least < 2 and any(isinstance(module, norms) for module in self.members.skeleton.modules()):
            raise UserError(
                f"batches of {least} images on each device leave BatchNorm without statistics: raise batch_size or"
                " lower gpus"
            )

    # --- the loop -----------------------------------------------------------------------------------

    def fit(self, stop: StopRequest) -> None:
        """Train to the last epoch, or until no loss is finite any more. ``Preempted`` when told to stop."""
        steps = self.train_data.steps(self.spec.batch_size)
        if self.epochs == 0 and self.step == 0:
            self._checkpoint(0)
        label = self.runs[0].id + (f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else "")
        shown = progress_bar if self.ranks.is_first else silent
        with shown(label, self.spec.epochs * steps, self.epochs * steps + self.step) as report:
            while not self.is_done:
                summary = self.epoch(
                    stop, lambda step: report(self.epochs * steps + step, f"epoch {self.epochs + 1}")
                )
                report(self.epochs * steps, f"epoch {self.epochs} {summary}")
                measured = self._checkpoint(self.epochs)
                diverged = any(p.diverged and p.epoch == self.epochs for p in self.progress)
                if measured or diverged or self.is_done or self.clock.is_time():
                    self.save()

    def epoch(self, stop: StopRequest, report: Callable[[int], None] = lambda step: None) -> str:
        """The rest of a pass over the training data, and the evaluation of the test data; returns a summary."""
        start, first_step, epoch = time.perf_counter(), self.step, self.epochs + 1
        rate = learning_rate(self.spec.optimizer.lr, self.spec.schedule, epoch, self.spec.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self._train_steps(epoch, stop, report)
        train = (self.totals / len(self.train_data)).tolist()
        seconds = time.perf_counter() - start
        tested = self.spec.test_every_epoch or epoch in self.runs[0].epochs
        test = dict(zip(("test_loss", "test_accuracy"), self.evaluate())) if tested else {}
        steps = self.train_data.steps(self.spec.batch_size)
        images = len(self.train_data) * len(self.runs) * (steps - first_step) / steps
        timing = {
            "seconds": (time.perf_counter() - start) / len(self.runs),
            "images_per_second": images / seconds,
            "finished_at": time.time(),
        }
        self.epochs, self.step = epoch, 0
        self.totals.zero_()
        return self._record(rate, train, test, timing)

    def _train_steps(self, epoch: int, stop: StopRequest, report: Callable[[int], None]) -> None:
        """The steps of an epoch that are not behind. Nothing here waits for the device."""
        self.members.train()
        seeds, size = [run.spec.seed for run in self.runs], self.spec.batch_size
        share = self.ranks.rank, self.ranks.world
        batches = self.train_data.shuffled(size, self.spec.augment, seeds, epoch, self.step, share)
        reported = time.monotonic()
        for images, labels in batches:
            self.totals += self.ranks.sum(self._train_step(images, labels))
            self.step += 1
            if self._is_told_to(stop):
                self.save()
                at = f"epoch {epoch}, step {self.step}"
                raise Preempted(f"{stop.name or 'a signal'}: saved at {at}; run again to go on")
            if self.clock.is_time():
                self.save()
            if time.monotonic() - reported > REPORT_INTERVAL:
                report(self.step)
                reported = time.monotonic()

    def _train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser on batches (M, N, ...); sums of losses and right decisions, (2, M)."""
        with self.computation.autocast():
            output = self.members(images)
        targets = self.train_data.targets(labels)
        losses = self.spec.loss.sample_loss.sample_losses(output.logits, targets)
        objective = losses.mean(dim=1) + feature_penalty(self.spec.head, output.head_input)
        if self.ranks.world > 1:  # gradients are averaged over processes, whose shares may differ in size
            objective = objective * (labels.shape[1] * self.ranks.world / self._batch_size())
        self.optimizer.zero_grad(set_to_none=True)
        objective.sum().backward()
        self.optimizer.step()
        with torch.no_grad():
            return torch.stack([losses.double().sum(dim=1), correct(output.logits, targets).double().sum(dim=1)])

    def _batch_size(self) -> int:
        """Images of the step in progress, over all processes: batches differ by one at most, the larger first."""
        least, larger = divmod(len(self.train_data), self.train_data.steps(self.spec.batch_size))
        return least + (self.step < larger)

    @torch.no_grad()
    def evaluate(self) -> list[list[float]]:
        """Mean loss without penalties and accuracy on the test data, each by member; evaluation mode, float32."""
        self.members.train(False)
        totals = torch.zeros_like(self.totals)
        for images, labels in self.test_data.in_order(EVALUATION_BATCH):
            logits = self.members(images.expand(len(self.runs), *images.shape)).logits
            targets = self.test_data.targets(labels.expand(len(self.runs), len(labels)))
            totals[0] += self.spec.loss.sample_loss.sample_losses(logits, targets).double().sum(dim=1)
            totals[1] += correct(logits, targets).double().sum(dim=1)
        return (totals / len(self.test_data)).tolist()

    def _record(
        self, rate: float, train: list[list[float]], test: dict[str, list[float]], timing: dict[str, float]
    ) -> str:
        """Add the epoch to the history of every member that has not diverged; returns a summary of the first."""
        # Running statistics differ between processes, which must agree on the end of the run.
        broken = self.ranks.sum((~self.members.finite()).double()).tolist()
        for member, progress in enumerate(self.progress):
            if progress.diverged:
                continue
            record = {
                "train_loss": train[0][member],
                "train_accuracy": train[1][member],
                **{name: values[member] for name, values in test.items()},
                "learning_rate": rate,
            }
            progress.epoch = self.epochs
            progress.history.append({"time": self.epochs, **record})
            progress.timings.append({"time": self.epochs, **timing})
            progress.diverged = not (math.isfinite(record["train_loss"]) and not broken[member])
            for log in self.logs[member : member + 1]:
                log.add(progress.history[-1] | progress.timings[-1])
        tested = f" test {test['test_accuracy'][0]:.4f}" if test else ""
        return f"loss {train[0][0]:.2e} accuracy {train[1][0]:.4f}{tested} lr {rate:.1e}"

    # --- what is saved ------------------------------------------------------------------------------

    def _is_told_to(self, stop: StopRequest) -> bool:
        if self.ranks.world == 1:
            return bool(stop)
        taken = self.epochs * self.train_data.steps(self.spec.batch_size) + self.step
        return taken % STOP_CHECK == 0 and self.ranks.any(bool(stop), self.device)

    def save(self) -> None:
        """Write the state of every member; one that diverged before keeps what was written then."""
        with self.clock.saving():
            for member, (folder, progress) in enumerate(zip(self.states, self.progress)):
                went_on = progress.diverged and self.step > 0
                if self.ranks.is_first and progress.epoch == self.epochs and not went_on:
                    progress.step = self.step
                    folder.save(self._state(member))

    def _state(self, member: int) -> SavedState:
        names = {id(value): name for name, value in self.members.parameters.items()}
        kept = {
            names[id(parameter)]: {
                name: self.members.own_part(member, value, names[id(parameter)]) for name, value in values.items()
            }
            for parameter, values in self.optimizer.state.items()
        }
        random = generator_states(self.device)
        return SavedState(self.progress[member], self.members.state(member), kept, self.totals[:, member], random)

    def _restore(self, saved: Sequence[SavedState]) -> None:
        """Go on from what was saved, or begin."""
        self.progress = [state.progress for state in saved]
        self.epochs = max(progress.epoch for progress in self.progress)
        self.step = max(progress.step for progress in self.progress)
        if not saved[0].network:
            for folder in self.states if self.ranks.is_first else ():
                folder.remove()  # of other settings, or damaged
            return
        for member, state in enumerate(saved):
            self.members.load(member, state.network)
            if state.totals is not None:
                self.totals[:, member] = state.totals.to(self.device)
        for name, parameter in self.members.parameters.items():
            for key in saved[0].optimizer.get(name, {}):
                value = self.members.joined([state.optimizer[name][key] for state in saved], name)
                # Fused optimisers walk through memory: a state must lie as its parameter does.
                like = parameter if value.shape == parameter.shape else value
                kept = torch.empty_like(like, device=parameter.device, requires_grad=False)
                self.optimizer.state[parameter][key] = kept.copy_(value)
        restore_generators(saved[0].random, self.device)

    def _checkpoint(self, epoch: int) -> bool:
        """Checkpoints of the members that are measured at the epoch which has just ended; whether there are any."""
        both = enumerate(zip(self.states, self.progress))
        measured = [member for member, (folder, progress) in both if epoch in folder.epochs_behind(progress)]
        for member in measured if self.ranks.is_first else ():
            write_tensors(self.states[member].checkpoint(epoch), self.members.state(member), {"epoch": str(epoch)})
        return bool(measured)

    def publish(self, stop: StopRequest | None = None) -> None:
        """The end phase of the first member, where it has one, and its declared outputs; then remove its state.

        Other members have theirs in jobs of their own.
        """
        run, progress = self.runs[0], self.progress[0]
        # A member that diverged before the others has the weights of then.
        network = self.members.state(0) if progress.epoch == self.epochs else self.states[0].load().network
        if run.spec.terminal is not None and not progress.diverged:
            network = self._end_phase(network, stop or StopRequest())
        self._write_outputs(network)

    def _end_phase(self, network: dict[str, Tensor], stop: StopRequest) -> dict[str, Tensor]:
        fresh = new_network(self.spec, self.dataset)
        fresh.load_state_dict(network)
        full = FullBatch(fresh, self.spec, self.train_data, self.device)
        phase = EndPhase(self.runs[0], full, self.test_data, self.states[0], self.progress[0], self.logs[0].add)
        phase.fit(stop)
        return phase.weights()

    def _write_outputs(self, network: dict[str, Tensor]) -> None:
        run, folder, progress = self.runs[0], self.folders[0], self.progress[0]
        self.states[0].publish_checkpoints(folder / "checkpoints", progress)
        if run.spec.model.code is not None:
            name, text = run.spec.model.code
            with replacing(folder / "checkpoints" / name) as temporary:
                temporary.write_bytes(text)
        write_tensors(folder / "model.safetensors", network)
        write_history(folder / "history.parquet", "net", {run.id: progress.history})
        write_timings(folder / "timings.parquet", "train", {run.id: progress.timings})
        write_json(
            folder / "spec.json",
            {
                "id": run.id,
                "settings": run.spec.model_dump(mode="json"),
                "status": "diverged" if progress.diverged else "done",
                "final_epoch": progress.epoch,
                "zero_error_epoch": progress.zero_error_epoch,
                "parameters": sum(p.numel() for p in self.members.skeleton.parameters() if p.requires_grad),
                "device": device_kind(self.device),
                "precision": self.computation.precision,
                "code_version": STAGE_VERSIONS["train"],
                "provenance": origin(self.device),
                "reproduce": f"ncpipe reproduce {run.id}",
            },
        )
        self.states[0].remove()
        self.logs[0].remove()


def new_network(spec: NetworkSpec, dataset: Dataset) -> Network:
    """The untrained network of ``spec`` for the images of ``dataset``."""
    return build_network(spec.model, spec.head, dataset.image_shape, dataset.num_classes, spec.seed)


def state_folder(run: NetworkRun, folder: Path, dataset: Dataset) -> StateFolder:
    """Where the unfinished run keeps its state; of other settings, data or code nothing is read there."""
    return StateFolder(folder, digest([run.spec, run.epochs, dataset.digest, STAGE_VERSIONS["train"]]), run.epochs)
