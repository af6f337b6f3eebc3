"""The teacher of self-training: an exponential moving average of the student's parameters, kept as buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class Teacher(nn.Module):
    """theta' <- a_k theta' + (1 - a_k) theta with a_k = min(1 - 1 / (k + 1), alpha), so that step 0 copies the student.

    Parameters only: BatchNorm statistics are not averaged (as released). No gradient reaches it.
    """

    def __init__(self, student: nn.Module, alpha: float) -> None:
        super().__init__()
        self.alpha = alpha
        for name, parameter in student.named_parameters():
            self.register_buffer(name.replace(".", ":"), parameter.detach().clone())

    def tensors(self) -> dict[str, Tensor]:
        """Name in the student -> value."""
        return {name.replace(":", "."): tensor for name, tensor in self.named_buffers()}

    @torch.no_grad()
    def update(self, student: nn.Module, step: int) -> None:
        rate = min(1 - 1 / (step + 1), self.alpha)
        own: Mapping[str, Tensor] = self.tensors()
        for name, parameter in student.named_parameters():
            own[name].mul_(rate).add_(parameter.detach(), alpha=1 - rate)

    @torch.no_grad()
    def run(self, student: nn.Module, *arguments: Any, **options: Any) -> Any:
        """Run the student's forward with the averaged tensors: dropout and drop-path off, BatchNorm with the batch's own statistics,
        which go into copies of the student's running ones."""
        modes = {module: module.training for module in student.modules()}
        for module in modes:
            module.training = isinstance(module, nn.BatchNorm2d)
        copies = {
            f"{prefix}.{name}": buffer.clone()
            for prefix, module in student.named_modules()
            if isinstance(module, nn.BatchNorm2d)
            for name, buffer in module.named_buffers(recurse=False)
        }
        try:
            return torch.func.functional_call(student, {**self.tensors(), **copies}, arguments, options)
        finally:
            for module, mode in modes.items():
                module.training = mode
