"""Identity of a backbone: its weights, independent of names and, where asked, of the storage dtype; and what it does with them.

A fingerprint is built from the sorted list of (shape, fixed strided sample of the values) of all tensors. `exact` is over the values
as stored. `rounded` holds one digest per low-precision dtype over the values rounded to it, so that a bf16 copy of an fp32 network is
recognised as a copy: both give the same bf16 digest. Two seeds, or a partly fine-tuned network, differ in every digest.

Equal weights do not make equal networks: another activation, norm epsilon, pooling, mask or stride computes something else from them.
So `behaviour` holds features of a fixed probe input, compared with a tolerance per dtype (a digest of rounded values would flip at
boundaries).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

SAMPLES = 64
"""Values sampled per tensor."""
TOLERANCE = {"float64": 3e-4, "float32": 3e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest difference of two behaviours, relative to the largest value, that counts as equal. In fp32 that is above what kernels and
machines differ by (about 1e-5) and below GELU against QuickGELU (1.5e-2). Of equal weights the dtype is the one that the probe was computed
in, which is fp32 for bf16 and fp16 networks too; of a network and a recast copy it is the coarser storage dtype, whose rounding of the
weights hides small differences such as that one."""
_ROUNDED = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Fingerprint:
    exact: str
    rounded: Mapping[str, str]
    dtype: str
    """Storage dtype of most values, such as `float32`."""
    parameters: int
    behaviour: tuple[float, ...] | None = None
    """Features of the backbone's probe; None where it has none, or in cards of format 1."""
    probed: str = ""
    """Dtype that the behaviour was computed in; empty where it is not known, which is taken for the storage dtype."""

    def compare(self, other: Fingerprint) -> Literal["same", "recast", "behaviour", "different"]:
        """`recast`: the same weights stored in another dtype; `behaviour`: the same weights in a network that does something else."""
        weights = self._weights(other)
        if weights != "different" and self.distance(other) > self._tolerance(other):
            return "behaviour"
        return weights

    def distance(self, other: Fingerprint) -> float:
        """Largest difference of the behaviours, relative to the largest value; 0 where one of them is unknown."""
        if self.behaviour is None or other.behaviour is None:
            return 0.0
        if len(self.behaviour) != len(other.behaviour):
            return math.inf
        scale = max((abs(value) for value in self.behaviour), default=0.0) or 1.0
        return max((abs(a - b) for a, b in zip(self.behaviour, other.behaviour, strict=True)), default=0.0) / scale

    def _tolerance(self, other: Fingerprint) -> float:
        equal = self.exact == other.exact
        dtypes = [one.probed if equal and one.probed else one.dtype for one in (self, other)]
        return max(TOLERANCE.get(dtype, TOLERANCE["bfloat16"]) for dtype in dtypes)

    def _weights(self, other: Fingerprint) -> Literal["same", "recast", "different"]:
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
            "behaviour": None if self.behaviour is None else list(self.behaviour),
            "probed": self.probed,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Fingerprint:
        seen = data.get("behaviour")
        behaviour = None if seen is None else tuple(float(value) for value in seen)
        exact, rounded, dtype, parameters = (data[name] for name in ("exact", "rounded", "dtype", "parameters"))
        return cls(str(exact), dict(rounded), str(dtype), int(parameters), behaviour, str(data.get("probed", "")))


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


@contextmanager
def whole_float32() -> Iterator[None]:
    """GPU products and convolutions in all 23 bits: TF32, cuDNN's default, rounds to 10, and features then differ from a CPU's."""
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)  # type: ignore[attr-defined]
    before = [place.fp32_precision for place in places]
    try:
        for place in places:
            place.fp32_precision = "ieee"
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value


def sampled(features: Tensor) -> tuple[float, ...]:
    """A fixed strided sample of features, to nine digits."""
    flat = features.detach().reshape(-1)
    stride = max(1, flat.numel() // SAMPLES)
    return tuple(float(f"{value:.9g}") for value in flat[::stride][:SAMPLES].double().cpu().tolist())


def _digest(samples: list[tuple[tuple[int, ...], Tensor]]) -> str:
    entries = sorted(
        repr(shape).encode() + b"\0" + values.numpy().astype(np.dtype("<f8")).tobytes() for shape, values in samples
    )
    total = hashlib.sha256()
    for entry in entries:
        total.update(len(entry).to_bytes(8, "little"))
        total.update(entry)
    return total.hexdigest()
