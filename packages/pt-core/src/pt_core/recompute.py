"""Segments that are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch.utils.checkpoint import checkpoint

from pt_core.kernels._mode import fast_paths_enabled, reference_kernels
from pt_core.randomness import current_rows, sampled_by


def recomputed(fn: Callable[..., Any], *tensors: Any) -> Any:
    """fn(*tensors), with what it keeps for the backward pass computed again there. Draws and the choice of kernels are those of the forward
    pass, whatever surrounds the backward pass.

    Every tensor that gets gradient must be an argument, and fn must put claimed or swapped weights in place itself (`backbone(...,
    weights=...)`, `functional_call`): a closure over parameters that an outer `functional_call` swapped would, when it runs again, see the
    module's own ones and silently yield their gradients.
    """
    keys, fast = current_rows(), fast_paths_enabled()

    def again(*arguments: Any) -> Any:
        with sampled_by(keys), nullcontext() if fast else reference_kernels():
            return fn(*arguments)

    return checkpoint(again, *tensors, use_reentrant=False)
