"""The processes of a run: who we are, where tensors live, and the few collectives the trainer needs.

Several processes, and gradient scaling, are HF Accelerate's. A plain process on its own needs neither, so it does not wait for it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pt_core.errors import ConfigError, LostProcess, UserError
from pt_core.run.declare.options import TrainOptions
from pt_core.run.declare.process import launched


class World:
    """Rank, device, precision and collectives. With one process every collective is the identity."""

    def __init__(self, options: TrainOptions) -> None:
        cpu = options.device == "cpu" or (options.device == "auto" and not _accelerated())
        problems = device_problems(options.device, options.precision)
        if problems:
            raise ConfigError(problems)
        self.precision = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(options.precision)
        self.rank, self.size = 0, 1
        self._scaler: torch.amp.GradScaler | None = None
        # Whether a GPU can do bf16 is Accelerate's to say, as is what a launcher or another library set up before.
        plain = self.precision is None or (cpu and self.precision == torch.bfloat16)
        if plain and not launched() and not (dist.is_available() and dist.is_initialized()):
            found = "mps" if torch.backends.mps.is_available() else "cuda"
            self.device = torch.device("cpu" if cpu else found if options.device == "auto" else options.device)
        else:
            self._join(cpu, {"fp32": "no"}.get(options.precision, options.precision))

    def _join(self, cpu: bool, precision: str) -> None:
        """Become one of the processes that Accelerate finds."""
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState

        # One process may run several fits of different precision; Accelerate keeps the first one's unless its state is reset.
        AcceleratorState._reset_state()
        accelerator = Accelerator(cpu=cpu, mixed_precision=precision)
        self.rank, self.size = accelerator.process_index, accelerator.num_processes
        self.device = accelerator.device
        self._scaler = accelerator.scaler

    @property
    def main(self) -> bool:
        return self.rank == 0

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        return self._scaler

    @property
    def alone(self) -> str | None:
        """A remark where a launcher prepared for several processes and started one, as `accelerate launch --cpu` does."""
        if self.size > 1 or "MASTER_PORT" not in os.environ or "WORLD_SIZE" in os.environ:
            return None
        return (
            "one process only: `accelerate launch --cpu` starts no more; use `torchrun --nproc-per-node N` for several"
        )

    def autocast(self) -> AbstractContextManager[None]:
        if self.precision is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.precision)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Sum over processes, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, values: Sequence[Any]) -> list[Any]:
        """Concatenate the lists of all processes, in rank order."""
        if self.size == 1:
            return list(values)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(values))
        return [value for part in parts for value in part]

    def barrier(self) -> None:
        if self.size > 1:
            dist.barrier()


def device_problems(device: str, precision: str) -> list[str]:
    """Why a run cannot use this device, or not with this precision."""
    problems = []
    cpu = device == "cpu" or (device == "auto" and not _accelerated())
    if precision == "fp16" and (cpu or device == "mps"):
        problems.append("precision='fp16' needs a CUDA device; use bf16 or fp32")
    if device == "cuda" and not torch.cuda.is_available():
        problems.append("device='cuda', but no CUDA device is visible; use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        problems.append("device='mps', but there is no Apple GPU; use --device cpu")
    return problems


LOST = ("closed by peer", "reset by peer", "Broken pipe", "gloo", "NCCL", "Timed out", "timed out", "Timeout")
"""What the backends say when the other side does not answer."""


def lost_process(error: BaseException) -> LostProcess | None:
    """What to tell the user where `error` is a backend's way of saying that another process of the run is gone, else None."""
    together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    if not together or not isinstance(error, RuntimeError) or not any(word in str(error) for word in LOST):
        return None
    rank = dist.get_rank()
    return LostProcess(
        f"process {rank}: another process of this run is gone (killed, or out of memory?); see what it said, then `resume` the run"
    )


def out_of_memory(error: BaseException) -> UserError | None:
    """What to tell the user where `error` says that memory ran out, else None."""
    text = str(error)
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and "DefaultCPUAllocator" not in text:
        return None
    peak = f"; {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB were in use" if torch.cuda.is_available() else ""
    first = " ".join(text.split())[:160] or type(error).__name__
    return UserError(
        f"out of memory ({first}{peak}); raise --accumulate (less at a time, the same result), or lower --batch-size, the "
        "prompt's length or the input's size, or use --precision bf16"
    )


def _accelerated() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()
