"""What is kept between calls until what it was computed from changes: keys and values of fixed prompts, computed contexts."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pt_core.backbone import Backbone, Edits
from pt_core.kernels._mode import fast_paths_enabled


class Watch:
    """Tells whether tensors may have changed since they were last looked at.

    Their version counters tell changes in place. Fused optimisers and writes through `.data` do not count, so gradient that arrived in the
    meantime, or that still waits for its step, is taken for a change too.
    """

    def __init__(self) -> None:
        self._seen: Any = None
        self._tensors: tuple[Tensor, ...] = ()  # holding them keeps their ids unique
        self._hooks: list[Any] = []

    def __deepcopy__(self, memo: dict[int, Any]) -> Watch:
        return Watch()

    def same(self, tensors: Sequence[Tensor], *state: Any) -> bool:
        """Whether these tensors and this state are those of the last call, unchanged."""
        waiting = any(tensor.is_leaf and tensor.grad is not None for tensor in tensors)
        now = (tuple((id(tensor), tensor._version) for tensor in tensors), state)
        if not waiting and now == self._seen:
            return True
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._seen, self._tensors = (None, ()) if waiting else (now, tuple(tensors))
        me = weakref.ref(self)

        def changed(_: Tensor) -> None:
            watch = me()
            if watch is not None:
                watch._seen = None

        for tensor in self._tensors:
            if tensor.is_leaf and tensor.requires_grad:
                self._hooks.append(tensor.register_post_accumulate_grad_hook(changed))
        return False


class LoweredEdits:
    """Keeps `backbone.lower(edits)` until what it was computed from changes; for inference with fixed prompts.

    That is: a tensor behind the edits, the backbone's device and dtype, autocast, and `reference_kernels()`.
    """

    def __init__(self) -> None:
        self._watch = Watch()
        self._edits: Edits = {}

    def get(self, backbone: Backbone, tensors: Sequence[Tensor], edits: Callable[[], Edits]) -> Edits:
        if (
            backbone._bound is not None
        ):  # keys and values of other weights, which may change between calls: nothing is kept
            return edits()
        kind = backbone.device.type
        autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        cast = torch.get_autocast_dtype(kind) if autocast else None
        if not self._watch.same(tensors, backbone.device, backbone.dtype, cast, fast_paths_enabled()):
            with torch.no_grad():
                self._edits = backbone.lower(edits())
        return self._edits
