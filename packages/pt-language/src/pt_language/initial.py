"""Initial values of virtual tokens (Lester et al. 2021, official `prompts.py`)."""

from __future__ import annotations

import torch
from pt_core.errors import ConfigError
from torch import Tensor

from pt_language.adapters.base import LanguageBackbone
from pt_language.data.templates import Encoder
from pt_language.tasks.contract import TextTask


def initial_rows(
    backbone: LanguageBackbone, length: int, kind: str, task: TextTask, text: str | None, fill: str, population: int
) -> Tensor:
    """(length, dim) float32 rows; draws from torch's global generator.

    Raises:
        ConfigError: labels without classes, or a text of zero tokens.
    """
    table = backbone.embeddings.detach()
    shape = (length, backbone.dim)
    if kind == "uniform":
        return torch.rand(shape) - 0.5
    if kind == "uniform_positive":
        return torch.rand(shape) * 0.5
    if kind == "normal":
        return torch.randn(shape) * 0.02
    rows = torch.zeros(0, backbone.dim)
    if kind == "labels":
        if not task.words:
            raise ConfigError("init='labels' needs a task with classes")
        encoder = Encoder(backbone.tokenizer)
        words = [encoder.answer(task.template, word).ids for word in task.words]
        rows = torch.stack([lookup(table, torch.tensor(ids)).mean(0) for ids in words])
    if kind == "text":
        ids = Encoder(backbone.tokenizer).encode(str(text), 0).ids
        if not ids:
            raise ConfigError(f"init_text={text!r} has zero tokens")
        rows = lookup(table, torch.tensor(ids))
    missing = length - len(rows)
    if missing <= 0:
        return rows[:length].clone()
    if fill == "repeat" and len(rows):
        return rows[torch.arange(length) % len(rows)].clone()
    return torch.cat([rows, sampled_rows(table, missing, population)])


def sampled_rows(table: Tensor, count: int, population: int) -> Tensor:
    """(count, dim): distinct rows among the first `population` ids of the embedding table; repeated only where there are too few."""
    size = min(population, len(table))
    order = torch.cat([torch.randperm(size) for _ in range(-(-count // size))])[:count]
    return lookup(table, order)


def lookup(table: Tensor, ids: Tensor) -> Tensor:
    """Float32 rows on the CPU; zeros where the table has no values (cost counting)."""
    if table.is_meta:
        return torch.zeros(*ids.shape, table.shape[1])
    return table[ids.to(table.device)].float().cpu()


def cycled(tensor: Tensor, shape: torch.Size, axis: int = 0) -> Tensor | None:
    """An earlier prompt in another length: repeated, or its beginning. None where the shapes differ in more than the length."""
    others = [place for place in range(tensor.ndim) if place != axis]
    if tensor.ndim != len(shape) or any(tensor.shape[place] != shape[place] for place in others) or not tensor.numel():
        return None
    return tensor.index_select(axis, torch.arange(shape[axis], device=tensor.device) % tensor.shape[axis])
