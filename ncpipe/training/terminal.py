"""The end phase of a training: L-BFGS on the objective over all images at once, to a stationary point."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from ncpipe.records.writing import PERFECT
from ncpipe.system.files import write_tensors
from ncpipe.system.progress import progress as progress_bar
from ncpipe.training.batches import Batches
from ncpipe.training.full_batch import Evaluation, FullBatch
from ncpipe.training.losses import correct
from ncpipe.training.optimization import before_normalisation
from ncpipe.training.preemption import Preempted, StopRequest
from ncpipe.training.settings import NetworkRun
from ncpipe.training.state import Progress, SaveClock, StateFolder, below
from ncpipe.ufm.objective import Differentiable
from ncpipe.ufm.solvers.lbfgs import Memory, State, lbfgs_round

PAIRS, PAIRS_BUDGET = 40, 2**27
"""Steps and gradient changes that L-BFGS keeps, and numbers that they may hold: large networks keep fewer."""
TEST_BATCH = 512
SAVED = "terminal.safetensors"


class EndPhase(Differentiable):
    """L-BFGS from the last weights of a run; iteration i is its time ``epochs`` + i.

    Weights whose scale a BatchNorm takes away are measured in units of the norm of their rows at the start, since a
    step's effect goes with it. At every checkpoint BatchNorm's running statistics are those of all images.
    """

    last: Evaluation

    def __init__(
        self,
        run: NetworkRun,
        full: FullBatch,
        test: Batches,
        states: StateFolder,
        progress: Progress,
        log: Callable[[dict[str, float]], None],
    ) -> None:
        assert run.spec.terminal is not None
        self.run, self.full, self.test, self.states, self.log = run, full, test, states, log
        self.limits, self.progress = run.spec.terminal, progress
        self.scales = _row_norms(full)
        start = full.parameters / self.scales
        self.memory = Memory(min(PAIRS, max(3, PAIRS_BUDGET // (2 * len(start)))), start[None], alone=True)
        self.ended = ""
        if not self._restore():
            self.state = State.at(start[None], *self.evaluate(start[None]))
            self._end()
        self.clock = SaveClock()

    @property
    def iterations(self) -> int:
        return int(self.state.iterations)

    def evaluate(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Objective (1,) and gradient (1, P) in the scaled parameters, for ``lbfgs_round``."""
        self.full.load(vectors[0] * self.scales)
        self.last = self.full.evaluate()
        return self.last.gradient.new_tensor([self.last.value]), (self.last.gradient * self.scales)[None]

    def fit(self, stop: StopRequest) -> None:
        """Go on until the gradient is within tolerance, no step descends or the iterations are used up; the network
        has the parameters of the end. ``Preempted`` when told to stop."""
        if left_out := before_normalisation(self.full.network):
            print(f"{self.run.id}: end phase without decay of {len(left_out)} tensors before a BatchNorm", flush=True)
        with progress_bar(f"end phase {self.run.id}", self.limits.iterations, self.iterations) as report:
            while not self.ended:
                start, before = time.perf_counter(), self.iterations
                stuck = bool(lbfgs_round(self, self.state, self.memory))
                if self.iterations > before:
                    self._end()
                    self._record(time.perf_counter() - start)
                    value, gradient = self.last.value, self.full.relative_gradient(self.last.gradient)
                    report(self.iterations, f"objective {value:.4e} gradient {gradient:.1e}")
                if stuck and not self.ended:
                    self.ended = "no step descends further"
                    self.evaluate(self.state.point)  # the last was of a step that was not taken
                    if self.progress.history[-1]["time"] != self.run.spec.epochs + self.iterations:
                        self._record(time.perf_counter() - start)
                if stop and not self.ended:
                    self.save()
                    raise Preempted(f"{stop.name}: saved at iteration {self.iterations}; run again to go on")
                if self.ended or self.clock.is_time():
                    self.save()
        self._stand_at_the_point()
        print(f"{self.run.id}: {self.ended} after {self.iterations} iterations", flush=True)

    def _end(self) -> None:
        """Say why the phase ends here, if it does."""
        if self.full.relative_gradient(self.last.gradient) <= self.limits.tolerance:
            self.ended = "gradient within tolerance"
        elif self.iterations >= self.limits.iterations:
            self.ended = "iterations used up"

    def _record(self, seconds: float) -> None:
        """History and a checkpoint where the iteration is measured, is the first without error, and at the end."""
        last, now = self.last, self.run.spec.epochs + self.iterations
        self.progress.epoch = now
        first_perfect = last.accuracy >= PERFECT and self.progress.zero_error_epoch is None
        if now not in self.run.epochs and not first_perfect and not self.ended:
            return
        self._stand_at_the_point()
        test_loss, test_accuracy = self._tested()
        row = {
            "train_loss": last.loss,
            "train_accuracy": last.accuracy,
            "test_loss": test_loss,
            "test_accuracy": test_accuracy,
            "objective": last.value,
            "gradient_norm": self.full.relative_gradient(last.gradient),
        }
        timing = {
            "seconds": seconds, "images_per_second": len(self.full.data) / seconds, "finished_at": time.time()
        }  # fmt: skip
        self.progress.history.append({"time": now, **row})
        self.progress.timings.append({"time": now, **timing})
        self.log(self.progress.history[-1] | self.progress.timings[-1])
        write_tensors(self.states.checkpoint(now), self.weights(), {"epoch": str(now)})

    def weights(self) -> dict[str, Tensor]:
        """The network's state in the format of all checkpoints, float32."""
        state = self.full.network.state_dict()
        return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}

    def _stand_at_the_point(self) -> None:
        self.evaluate(self.state.point)
        self.full.set_statistics(self.last.statistics)

    @torch.no_grad()
    def _tested(self) -> tuple[float, float]:
        """Mean loss and accuracy on the test data."""
        loss, hits = 0.0, 0
        for images, labels in self.test.in_order(TEST_BATCH):
            logits = self.full.network.forward(images.double()).logits
            targets = self.test.targets(labels)
            loss += float(self.run.spec.loss.sample_loss.sample_losses(logits, targets).sum())
            hits += int(correct(logits, targets).sum())
        return loss / len(self.test), hits / len(self.test)

    # --- what is saved --------------------------------------------------------------------------------

    def save(self) -> None:
        """Write all that the next step depends on."""
        with self.clock.saving():
            tensors = {f"state/{name}": value for name, value in self.state.tensors().items()}
            tensors |= {f"memory/{name}": value for name, value in self.memory.tensors().items()}
            self.states.write(SAVED, tensors | {"scales": self.scales}, self.progress, self.ended)

    def _restore(self) -> bool:
        """Go on from what was saved for the same settings; False where there is nothing."""
        found = self.states.read(SAVED, "the end phase")
        if found is None:
            return False
        tensors, progress, self.ended = found
        parts = {name: value.to(self.scales.device) for name, value in tensors.items()}
        self.scales, self.state = parts["scales"], State(**below(parts, "state/"))
        for name, value in below(parts, "memory/").items():
            setattr(self.memory, name, value)
        self.progress.__dict__.update(progress.__dict__)
        return True


def _row_norms(full: FullBatch) -> Tensor:
    """Norm of the row of every parameter that a BatchNorm follows, 1 of the others, (P,)."""
    free, parts = before_normalisation(full.network), []
    for name, parameter in full.network.named_parameters():
        norms = torch.ones_like(parameter)
        if name in free and parameter.ndim > 1:
            rows = parameter.detach().flatten(1)
            norms = rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny).expand_as(rows)
        parts += [norms.flatten()] if parameter.requires_grad else []
    return torch.cat(parts)
