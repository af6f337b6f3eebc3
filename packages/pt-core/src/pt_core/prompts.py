"""Prompt tensors: learned tokens, their initialisers, and banks of many tenants' prompts.

Prompts are kept in float32 whatever the backbone's dtype; adapters cast them at insertion, so low precision never accumulates in
the tuned tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pt_core.errors import UserError
from pt_core.randomness import dropout

Initialiser = Callable[[tuple[int, ...]], Tensor]
"""shape -> float32 tensor of that shape; draws from torch's global generator, which the run seeds and restores."""


def uniform(bound: float) -> Initialiser:
    """U(-bound, bound).

    >>> uniform(0.1)((2, 5, 8)).shape
    torch.Size([2, 5, 8])
    """
    return lambda shape: torch.empty(shape).uniform_(-bound, bound)


def normal(std: float, truncate: bool = False) -> Initialiser:
    """N(0, std^2); `truncate` cuts at two standard deviations."""
    if truncate:
        return lambda shape: nn.init.trunc_normal_(torch.empty(shape), std=std, a=-2 * std, b=2 * std)
    return lambda shape: torch.randn(shape) * std


def vpt_bound(patch: tuple[int, int], dim: int, channels: int = 3) -> float:
    """VPT's bound sqrt(6 / (channels * h * w + dim)), the Xavier bound of the patch embedding (Jia et al. 2022, official code)."""
    return math.sqrt(6.0 / (channels * patch[0] * patch[1] + dim))


def from_vectors(vectors: Tensor) -> Initialiser:
    """Given vectors (n, dim): token embeddings, class means ... Prompt i starts as vector i modulo n, in every layer."""

    def init(shape: tuple[int, ...]) -> Tensor:
        if vectors.ndim != 2 or vectors.shape[1] != shape[-1]:
            raise UserError(f"initial prompt vectors are {tuple(vectors.shape)}, the prompt needs (n, {shape[-1]})")
        rows = torch.arange(shape[-2]) % vectors.shape[0]
        return vectors.detach().float().cpu()[rows].expand(shape).clone()

    return init


def overlaid(earlier: Tensor, fresh: Tensor, axis: int = 0) -> Tensor | None:
    """`fresh` with the values of an earlier run's prompts where both have a place along `axis`: a longer prompt keeps its new vectors, a
    shorter one takes the first. None where another axis differs. For `Method.resized`.

    >>> overlaid(torch.ones(2, 3), torch.zeros(3, 3)).tolist()
    [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    shapes = [list(tensor.shape) for tensor in (earlier, fresh)]
    if len(shapes[0]) != len(shapes[1]):
        return None
    shared = min(shape.pop(axis) for shape in shapes)
    if shapes[0] != shapes[1]:
        return None
    result = fresh.detach().clone()
    result.narrow(axis, 0, shared).copy_(earlier.narrow(axis, 0, shared))
    return result


class PromptTokens(nn.Module):
    """`layers` sets of `length` learned tokens, with optional projection and per-sample dropout.

    Args:
        layers: number of sets: 1 for input prompts, the number of blocks for deep prompts.
        length: tokens per set; 0 is allowed and inserts nothing.
        dim: width of the backbone's tokens.
        init: initialiser of the stored tensor.
        dropout: probability; applied to the projected prompt expanded to the batch, so each sample has its own mask (VPT).
        rank: width of the stored prompts when they are projected by a shared Linear(rank, dim); None stores `dim` directly.
        name: tells these prompts' dropout from others' in the same method.

    Attributes:
        tokens: (layers, length, rank or dim), float32.

    Parameters: layers * length * width [+ rank * dim + dim].

    >>> prompts = PromptTokens(layers=12, length=5, dim=8, init=normal(0.02), dropout=0.1)
    >>> prompts.eval()(batch=3).shape, prompts.train()(batch=3).shape
    (torch.Size([12, 5, 8]), torch.Size([12, 3, 5, 8]))
    """

    def __init__(
        self,
        layers: int,
        length: int,
        dim: int,
        init: Initialiser,
        dropout: float = 0.0,
        rank: int | None = None,
        name: str = "prompt",
    ) -> None:
        super().__init__()
        self.name = name
        self.tokens = nn.Parameter(init((layers, length, rank or dim)).float())
        self.dropout = dropout
        self.projection: nn.Linear | None = None
        if rank is not None:
            self.projection = nn.Linear(rank, dim)
            nn.init.kaiming_normal_(self.projection.weight, a=0, mode="fan_out")

    @property
    def length(self) -> int:
        return self.tokens.shape[1]

    def forward(self, batch: int) -> Tensor:
        """The prompts of every layer: (layers, length, dim), or (layers, batch, length, dim) while dropout is active."""
        tokens = self.tokens if self.projection is None else self.projection(self.tokens)
        if not (self.training and self.dropout > 0):
            return tokens
        layers, length, dim = tokens.shape
        return dropout(tokens[:, None].expand(layers, batch, length, dim), self.dropout, True, self.name, axis=1)


class PromptBank:
    """Prompts of several tenants over one backbone, stacked so that one batch can mix them.

    `tensors` maps a tenant's name to its tensor; all have one shape (..., prompt, dim). The stack has shape (tenants, ..., prompt, dim).

    >>> bank = PromptBank({"birds": torch.zeros(5, 8), "cars": torch.ones(5, 8)})
    >>> bank.stack.shape, bank.index(["cars", "birds", "cars"])
    (torch.Size([2, 5, 8]), tensor([1, 0, 1]))
    >>> bank.index(["boats"])
    Traceback (most recent call last):
    pt_core.errors.UserError: unknown prompt 'boats'; known: birds, cars
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        if not tensors:
            raise UserError("a prompt bank needs at least one prompt")
        self.names = list(tensors)
        first = tensors[self.names[0]]
        for name, tensor in tensors.items():
            if tensor.shape != first.shape:
                raise UserError(
                    f"prompt {name!r} has shape {tuple(tensor.shape)}, {self.names[0]!r} has {tuple(first.shape)}; "
                    "only prompts of one shape fit one bank"
                )
        self.stack = torch.stack([tensors[name].detach() for name in self.names])

    def __len__(self) -> int:
        return len(self.names)

    def index(self, names: Sequence[str]) -> Tensor:
        """(len(names),) rows of the bank.

        Raises:
            UserError: an unknown name; lists the known ones.
        """
        position = {name: row for row, name in enumerate(self.names)}
        unknown = sorted({name for name in names if name not in position})
        if unknown:
            raise UserError(f"unknown prompt {', '.join(map(repr, unknown))}; known: {', '.join(self.names)}")
        return torch.tensor([position[name] for name in names], dtype=torch.long)
