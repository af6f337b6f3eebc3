"""Loops that are not pt's, which train a wrapped method in the tests of every package: HF Trainer and Lightning Fabric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn


class Columns(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Tensors of equal length by name, row by row."""

    def __init__(self, columns: Mapping[str, Tensor]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["labels"])

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {name: column[row] for name, column in self.columns.items()}


class Named(nn.Module):
    """HF Trainer calls by keyword; some networks take one tensor."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor, labels: Tensor | None = None) -> Any:
        return self.module(inputs, labels=labels)


def by_trainer(
    module: nn.Module, columns: Mapping[str, Tensor], folder: Path, steps: int, batch: int, **more: Any
) -> Any:
    """The trainer that has trained `module`; `more` are further TrainingArguments."""
    transformers = pytest.importorskip("transformers")
    quiet = {"report_to": [], "save_strategy": "no", "logging_strategy": "no", "disable_tqdm": True, "use_cpu": True}
    given = {"max_steps": steps, "per_device_train_batch_size": batch, "learning_rate": 0.03, "seed": 0, **more}
    arguments = transformers.TrainingArguments(output_dir=str(folder), remove_unused_columns=False, **quiet, **given)
    trainer = transformers.Trainer(module, arguments, train_dataset=Columns(columns))
    trainer.train()
    return trainer


def by_fabric(module: nn.Module, loss: Callable[[nn.Module], Tensor], steps: int, lr: float) -> nn.Module:
    """The module as Fabric prepared it, trained on `loss(module)`."""
    fabric = pytest.importorskip("lightning_fabric").Fabric(accelerator="cpu", devices=1)
    prepared, optimiser = fabric.setup(module, torch.optim.Adam(module.parameters(), lr=lr))
    prepared.train()
    for _ in range(steps):
        optimiser.zero_grad()
        fabric.backward(loss(prepared))
        optimiser.step()
    trained: nn.Module = prepared
    return trained
