"""The switch between fast paths and their references."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

_reference: ContextVar[bool] = ContextVar("pt_core_reference_kernels", default=False)


@contextmanager
def reference_kernels() -> Iterator[None]:
    """Inside this block every kernel of pt runs its slow reference, and SDPA runs its math backend.

    For tests, and for methods that differentiate twice: flash attention has no second derivative, the math backend
    has. It has to be open during the *forward* pass; the backward pass follows what the forward pass recorded. Blocks
    may be nested. The switch itself is local to the context (thread, asyncio task); the choice of the SDPA backend is
    torch's own flag, which is process-wide.
    """
    token = _reference.set(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        _reference.reset(token)


def fast_paths_enabled() -> bool:
    """False inside `reference_kernels()`; every dispatcher and every adapter that lowers an edit asks this first."""
    return not _reference.get()


def transforming() -> bool:
    """True while torch.compile, torch.export or torch.func traces the caller: they need plain operators."""
    return torch.compiler.is_compiling() or torch.compiler.is_exporting() or torch._C._are_functorch_transforms_active()
