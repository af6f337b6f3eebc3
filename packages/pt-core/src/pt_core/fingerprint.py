"""Identity of a backbone's weights, independent of names and, where asked, of the storage dtype.

A fingerprint is built from the sorted list of (shape, fixed strided sample of the values) of all tensors. `exact` is over the values
as stored. `rounded` holds one digest per low-precision dtype over the values rounded to it, so that a bf16 copy of an fp32 network is
recognised as a copy: both give the same bf16 digest. Two seeds, or a partly fine-tuned network, differ in every digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

SAMPLES = 64
"""Values sampled per tensor."""
_ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Fingerprint:
    exact: str
    rounded: Mapping[str, str]
    dtype: str
    """Storage dtype of most values, such as `float32`."""
    parameters: int

    def compare(self, other: Fingerprint) -> Literal["same", "recast", "different"]:
        """`recast`: the same weights stored in another dtype."""
        if self.exact == other.exact:
            return "same"
        if self.dtype != other.dtype:
            for name in _ROUNDED:
                if name in (self.dtype, other.dtype) and self.rounded.get(name) == other.rounded.get(name):
                    return "recast"
        return "different"

    def to_json(self) -> dict[str, Any]:
        return {
            "exact": self.exact,
            "rounded": dict(self.rounded),
            "dtype": self.dtype,
            "parameters": self.parameters,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        return cls(str(data["exact"]), dict(data["rounded"]), str(data["dtype"]), int(data["parameters"]))


def fingerprint_tensors(tensors: Iterable[Tensor]) -> Fingerprint:
    """Fingerprint of a set of tensors; their order and names do not matter."""
    samples: list[tuple[tuple[int, ...], Tensor]] = []
    by_dtype: dict[str, int] = {}
    for tensor in tensors:
        flat = tensor.detach().reshape(-1)
        stride = max(1, flat.numel() // SAMPLES)
        # float64 holds every float and every integer counter below 2^53 exactly, so the exact digest loses nothing.
        samples.append((tuple(tensor.shape), flat[::stride].cpu().double()))
        if tensor.is_floating_point():
            name = str(tensor.dtype).removeprefix("torch.")
            by_dtype[name] = by_dtype.get(name, 0) + tensor.numel()
    rounded = {
        name: _digest([(shape, values.float().to(dtype).double()) for shape, values in samples])
        for name, dtype in _ROUNDED.items()
    }
    dtype = max(by_dtype, key=lambda key: by_dtype[key]) if by_dtype else "none"
    return Fingerprint(_digest(samples), rounded, dtype, sum(by_dtype.values()))


def _digest(samples: list[tuple[tuple[int, ...], Tensor]]) -> str:
    entries = sorted(
        repr(shape).encode() + b"\0" + values.numpy().astype(np.dtype("<f8")).tobytes() for shape, values in samples
    )
    total = hashlib.sha256()
    for entry in entries:
        total.update(len(entry).to_bytes(8, "little"))
        total.update(entry)
    return total.hexdigest()
