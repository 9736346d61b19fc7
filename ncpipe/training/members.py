"""Networks in training under one interface: a single one, or several of one architecture as one stack.

Images and outputs have a leading dimension M, the number of members.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ncpipe.networks import Network, Output
from ncpipe.system.errors import UserError


class Single:
    """One network; ``forward`` may be wrapped, for several processes.

    Attributes:
        skeleton: a network whose parameters' names and shapes are those of every member.
        parameters: what is optimised, by name.
    """

    def __init__(self, network: Network, wrapped: nn.Module | None = None) -> None:
        self.skeleton = network
        self.wrapped = wrapped or network
        self.parameters: dict[str, Tensor] = dict(network.named_parameters())

    def train(self, mode: bool = True) -> None:
        self.wrapped.train(mode)

    def __call__(self, images: Tensor) -> Output:
        """Outputs (M, N, ...) of images (M, N, C, H, W)."""
        module = self.wrapped if self.wrapped.training else self.skeleton
        logits, head_input = module(images[0])
        return Output(logits[None], head_input[None])

    def state(self, member: int) -> dict[str, Tensor]:
        """The state dict of a member, as that of a network of its own."""
        return self.skeleton.state_dict()

    def load(self, member: int, state: Mapping[str, Tensor]) -> None:
        self.skeleton.load_state_dict(state)

    def own_part(self, member: int, value: Tensor, parameter: str) -> Tensor:
        """The member's part of what the optimiser keeps for a parameter."""
        return value

    def joined(self, parts: Sequence[Tensor], parameter: str) -> Tensor:
        """What the optimiser keeps for a parameter, from the parts of all members."""
        return parts[0]

    def finite(self) -> Tensor:
        """Whether all weights of each member are finite, (M,) bool."""
        values = self.skeleton.state_dict().values()
        return torch.stack([value.isfinite().all() for value in values]).all()[None]


class _MixedBatchNorm(TorchFunctionMode):
    """BatchNorm of bf16 maps with float32 statistics, which torch has for one network but not under ``vmap``."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm and args[0].dtype == torch.bfloat16:
            return func(args[0].float(), *args[1:], **(kwargs or {})).to(torch.bfloat16)
        return func(*args, **(kwargs or {}))


class Stack:
    """M networks as one, with the methods of ``Single``: parameters have a leading dimension M, over which
    ``torch.func.vmap`` runs.

    What is computed for a member depends on that member alone, so that it equals separate training up to the order
    of sums; a member that diverges leaves the others as they are.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self.parameters, self.buffers = stack_module_state(list(networks))
        self.tensors: dict[str, Tensor] = self.parameters | self.buffers
        self.skeleton = copy.deepcopy(networks[0]).to("meta")

    def train(self, mode: bool = True) -> None:
        self.skeleton.train(mode)

    def __call__(self, images: Tensor) -> Output:
        def output(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> tuple[Tensor, ...]:
            return tuple(functional_call(self.skeleton, (parameters, buffers), (images,)))

        try:
            with _MixedBatchNorm():
                stacked = torch.vmap(output, randomness="different")(self.parameters, self.buffers, images)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = next(iter(str(error).splitlines()), "no reason given")
            raise UserError(f"compute.ensemble: this network cannot be stacked ({reason}); set it to 1") from error
        return Output(*stacked)

    def state(self, member: int) -> dict[str, Tensor]:
        return {name: self.tensors[name][member].detach() for name in self.skeleton.state_dict()}

    def load(self, member: int, state: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in self.tensors.items():
                value[member].copy_(state[name])

    def own_part(self, member: int, value: Tensor, parameter: str) -> Tensor:
        return value[member] if value.shape == self.parameters[parameter].shape else value

    def joined(self, parts: Sequence[Tensor], parameter: str) -> Tensor:
        is_like = parts[0].shape == self.parameters[parameter].shape[1:]
        return torch.stack(list(parts)) if is_like else parts[0]

    def finite(self) -> Tensor:
        values = self.tensors.values()
        return torch.stack([value.isfinite().reshape(len(value), -1).all(dim=1) for value in values]).all(dim=0)


Members = Single | Stack
