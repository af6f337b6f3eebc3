"""Operators of torch over the compiled kernels, which are imported when one of them first runs: numba on the CPU, Triton on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def operator(shapes: Callable[..., Any]) -> Callable[..., Any]:
    """The operator `pt_pointcloud::NAME` for a function `_NAME` that makes empty results of the right shapes; its kernels are the functions
    NAME of `_cpu` (on arrays) and `_cuda`.

    Defined part by part: `torch.library.custom_op` does the same, but imports torch's compiler when the operator first runs.
    """
    name = shapes.__name__.strip("_")

    def on_cpu(*arguments: Any) -> Any:
        from pt_pointcloud.ops import _cpu

        found = getattr(_cpu, name)(*(value.numpy() if isinstance(value, Tensor) else value for value in arguments))
        return tuple(map(torch.from_numpy, found)) if isinstance(found, tuple) else torch.from_numpy(found)

    def on_cuda(*arguments: Any) -> Any:
        from pt_pointcloud.ops import _cuda

        return getattr(_cuda, name)(*arguments)

    full = f"pt_pointcloud::{name}"
    torch.library.define(full, torch.library.infer_schema(shapes, mutates_args=()), tags=torch.Tag.pt2_compliant_tag)
    torch.library.impl(full, "cpu", on_cpu)
    torch.library.impl(full, "cuda", on_cuda)
    torch.library.register_fake(full, shapes)
    defined: Callable[..., Any] = getattr(torch.ops.pt_pointcloud, name).default
    return defined
