"""Counting the operations of attention, the same on every device.

torch's counter has no formula for the CPU flash operator and counts it as zero; for the CUDA operators it adds the
recomputation of the scores in the backward pass (10 N M D per head); on meta tensors SDPA runs as plain matrix
products (8 N M D per head). The formulas below count what the mathematics needs, 4 N M D forward and 8 N M D
backward, for every fused operator, so that a count on meta tensors, on CPU and on CUDA is one number. Causal and
padding masks are not deducted, as in torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:  # torch's counter imports Triton
    from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]


def _forward(query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    from torch.utils.flop_counter import sdpa_flop_count

    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


def _backward(grad: Shape, query: Shape, key: Shape, value: Shape, *args: Any, **kwargs: Any) -> int:
    return 2 * _forward(query, key, value)


_aten = torch.ops.aten
FLASH_FLOP_FORMULAS: dict[Any, Callable[..., int]] = {
    _aten._scaled_dot_product_flash_attention_for_cpu: _forward,
    _aten._scaled_dot_product_flash_attention: _forward,
    _aten._scaled_dot_product_efficient_attention: _forward,
    _aten._scaled_dot_product_cudnn_attention: _forward,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    _aten._scaled_dot_product_flash_attention_backward: _backward,
    _aten._scaled_dot_product_efficient_attention_backward: _backward,
    _aten._scaled_dot_product_cudnn_attention_backward: _backward,
}
"""Formulas by operator, for `FlopCounterMode(custom_mapping=...)`; they replace torch's own for the same operators."""


def flop_counter() -> FlopCounterMode:
    """A counter that knows fused attention: `with flop_counter() as count: ...`, then `count.get_total_flops()`.

    It counts in total only, not per module: torch's module tracker fails where, without gradients, a module is called
    with a view of a parameter, as prompts are.
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False, custom_mapping=FLASH_FLOP_FORMULAS)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


class _NoModules:
    """Stands in for torch's module tracker and tracks nothing."""

    parents = frozenset({"Global"})

    def __enter__(self) -> _NoModules:
        return self

    def __exit__(self, *_: object) -> None:
        pass
