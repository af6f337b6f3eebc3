"""The decoder blocks of a model: prompt vectors in front of each of them, and each of them under checkpointing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from pt_core.bridges.transformers.draws import current_places, placed
from pt_core.errors import UserError
from pt_core.randomness import current_rows, sampled_by

SlotFn = Callable[[int, Tensor], Tensor]
"""fn(block, hidden (batch, tokens, dim)) -> prompt vectors (batch, slots, dim) for that block."""


def blocks(model: Any) -> nn.ModuleList:
    """The decoder blocks, in order.

    Raises:
        UserError: the model does not keep its blocks in one list.
    """
    depth = int(model.config.get_text_config(decoder=True).num_hidden_layers)
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(
        f"{type(model).__name__} has no list of {depth} blocks to hook into; use a decoder-only model that keeps its blocks in a "
        "ModuleList (GPT-2, Llama, Qwen and Mistral style models do)"
    )


@contextmanager
def slotted(model: Any, chosen: tuple[int, SlotFn] | None) -> Iterator[None]:
    """In front of every block the first `number` positions are replaced by fn(block, the rest)."""
    if chosen is None:
        yield
        return
    number, fn = chosen

    def replace(layer: int) -> Callable[..., tuple[tuple[Any, ...], dict[str, Any]]]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            states = args[0] if args else kwargs["hidden_states"]
            own = states[:, number:]
            new = torch.cat([fn(layer, own).to(own.dtype).expand(own.shape[0], -1, -1), own], 1)
            return ((new, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": new})

        return hook

    handles = [
        block.register_forward_pre_hook(replace(layer), with_kwargs=True) for layer, block in enumerate(blocks(model))
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Held(nn.Module):
    """Lets `functional_call` put a block's weights in place while a function other than its forward runs."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, fn: Callable[[], Any]) -> Any:
        return fn()


@contextmanager
def recomputed(model: Any, on: bool) -> Iterator[None]:
    """Run every block under checkpointing. Prefix keys and values and the block's weights, which may be another's that are put in place for
    the call only, are arguments of the recomputed function, and its draws are those of the forward pass; each run gets a cache of its own,
    so that nothing is appended twice."""
    if not on:
        yield
        return
    plain = [(block, block.forward) for block in blocks(model)]

    def wrap(layer: int, block: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        held = _Held(block)

        def outer(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            given = [*args, *kwargs.values()]
            cache = next((value for value in given if hasattr(value, "get_seq_length")), None)
            named, rows, places = dict(held.named_parameters()), current_rows(), current_places()

            def inner(hidden: Tensor, keys: Tensor | None, values: Tensor | None, *weights: Tensor) -> Any:
                own = None if cache is None else _only(cache, layer, keys, values)
                again = [own if value is cache else value for value in args]
                more = {n: own if v is cache else v for n, v in kwargs.items()}
                with sampled_by(rows), placed(places):
                    return functional_call(
                        held, dict(zip(named, weights, strict=True)), (lambda: forward(hidden, *again, **more),)
                    )

            return checkpoint(inner, hidden, *_pair(cache, layer), *named.values(), use_reentrant=False)

        return outer

    for layer, (block, forward) in enumerate(plain):
        block.forward = wrap(layer, block, forward)
    try:
        yield
    finally:
        for block, _ in plain:
            del block.__dict__["forward"]


def _pair(cache: Any, layer: int) -> tuple[Tensor | None, Tensor | None]:
    if cache is None or layer >= len(cache.layers):
        return None, None
    return getattr(cache.layers[layer], "keys", None), getattr(cache.layers[layer], "values", None)


def _only(cache: Any, layer: int, keys: Tensor | None, values: Tensor | None) -> Any:
    """The cache with one block's keys and values given, and its own layer objects."""
    new = copy.copy(cache)
    new.layers = list(cache.layers)
    if layer < len(new.layers):
        new.layers[layer] = copy.copy(new.layers[layer])
        if keys is not None:
            new.layers[layer].keys, new.layers[layer].values = keys, values
    return new
