"""How a network is computed on a device: precision, memory format, compilation."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ncpipe.networks import Network
from ncpipe.system.errors import UserError
from ncpipe.training.settings import ComputeSpec, NetworkSpec

Result = TypeVar("Result")
Precision = Literal["float32", "tf32", "bf16"]

SUSTAINED = 1e14
"""Operations a second that training reaches on a recent GPU in bf16; enters estimates only."""
LAUNCH = 6e-5
"""Seconds of a GPU's training step that one layer takes at least, by the launches of its kernels."""
COMPILE_COST, COMPILE_GAIN = 1.5, 0.3
"""Seconds of compilation per layer, and the share of a step that it saves; enter estimates only."""


@dataclass(frozen=True)
class Computation:
    """Device and number format of a network in training."""

    device: torch.device
    precision: Precision = "float32"
    compiled: bool = False
    deterministic: bool = False

    @classmethod
    def choose(cls, spec: NetworkSpec, device: torch.device, options: ComputeSpec = ComputeSpec()) -> Computation:  # noqa: B008
        """What the settings ask for, resolved for the device."""
        precision = spec.precision
        if precision == "auto":
            precision = "bf16" if computes_bf16(device) else "float32"
        elif precision == "tf32" and device.type == "cpu":
            precision = "float32"
        return cls(device, precision, options.compile is True, options.deterministic)

    def place(self, network: Network) -> Network:
        """The network on the device, on a GPU with convolutions channels-last, compiled where that was chosen."""
        self.configure()
        network = network.to(self.device, memory_format=memory_format(self.device))  # type: ignore[call-overload]
        if self.compiled:
            # Where torch's own `compile` puts it, so that copies leave it out.
            network._compiled_call_impl = compiled_if_possible(network._call_impl)
        return network

    def configure(self) -> None:
        """Set torch's switches of this process: exact float32 unless tf32 is asked for, deterministic or fast."""
        torch.set_flush_denormal(True)
        if self.compiled:
            _keep_kernels_by_processor()
        if self.device.type != "cuda":
            return
        exact = "tf32" if self.precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = exact
        torch.backends.cudnn.conv.fp32_precision = exact  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = not self.deterministic
        if self.deterministic:  # read by cuBLAS when it starts
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(self.deterministic)

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """The context of a forward pass in training."""
        if self.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


def compiled_if_possible(function: Callable[..., Result]) -> Callable[..., Result]:
    """The function under ``torch.compile``; as it is from the call on in which that fails, as one line then says.

    It fails where a compiler (Triton needs one of C, too) is missing or does not work, and by faults of torch.
    """
    compiled, works = torch.compile(function), True

    def call(*arguments: Any) -> Result:
        nonlocal works
        if works:
            try:
                return compiled(*arguments)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:
                found = function(*arguments)  # whose own error is no fault of compiling
                works = False
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                print(f"torch.compile does not work: the network is not compiled ({reason})", flush=True)
                return found
        return function(*arguments)

    return call


def _keep_kernels_by_processor() -> None:
    """Give compiled code a folder for each instruction set: torch 2.13 takes from its cache what was compiled for
    another one, as by another node of a cluster, and then computes NaN."""
    usual = Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}"
    folder = Path(os.environ.get("TORCHINDUCTOR_CACHE_DIR", usual))
    capability = torch.backends.cpu.get_cpu_capability()
    if folder.name != capability:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / capability)


def memory_format(device: torch.device) -> torch.memory_format:
    """Memory format of images and kernels. Channels-last is faster on GPUs; on CPUs little, and there the weight
    gradient of a strided 1x1 convolution of few channels is wrong or crashes in it (torch 2.13, several threads)."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def laid_out(images: Tensor) -> Tensor:
    """Images (N, C, H, W) in the device's memory format; vectors have none."""
    return images.contiguous(memory_format=memory_format(images.device)) if images.ndim == 4 else images.contiguous()


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bf16: GPUs from Ampere on, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_device(name: str = "auto") -> torch.device:
    """``auto``: the first GPU where there is one, else the CPU. ``UserError`` for a device that is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"device must be auto, cpu, cuda or cuda:N, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"there is no device {name!r}: torch sees {torch.cuda.device_count()} GPUs")
    return device


def device_kind(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def training_flops(network: Network, image_shape: Sequence[int]) -> int:
    """Floating-point operations of training on one image: forward, and twice as many backward."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *image_shape))
    return 3 * counter.get_total_flops()


def repays_compiling(network: Network, image_shape: Sequence[int], images: float, batch_size: int) -> bool:
    """Whether training on so many images saves more time on a GPU than compiling takes, by a count of operations."""
    kernels = images / batch_size * LAUNCH * layers(network)
    operations = images * training_flops(network, image_shape) / SUSTAINED
    return COMPILE_GAIN * max(kernels, operations) > COMPILE_COST * layers(network)


def layers(network: nn.Module) -> int:
    """Modules without parts, as a measure of how many kernels a step launches."""
    return sum(not list(module.children()) for module in network.modules())
