"""What the method tests share: small labelled pictures, methods on tiny timm networks, and cases for the conformance suite."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch
from pt_core import Batch, Method
from pt_core.data import generator
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.tasks.classification import Classification
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from pt_vision.adapters.base import VisionBackbone
from pt_vision.backbones import load_backbone
from pt_vision.modality import Vision
from torch import Tensor

from tests.vision.nets import network

LABELS = ["round", "square", "wavy"]
OPTIONS = TrainOptions(steps=6, batch_size=8, lr=0.05, optimizer="sgd", eval_every=3, device="cpu")


class Pictures:
    """Normalised pictures (3, 32, 32): a pattern per class plus noise."""

    def __init__(self, size: int, seed: int, side: int = 32, classes: int = 3) -> None:
        patterns = torch.randn(classes, 3, 4, 4, generator=generator("patterns")).repeat_interleave(side // 4, 2)
        self.targets = torch.arange(size) % classes
        noise = torch.randn(size, 3, side, side, generator=generator("pictures", seed))
        self.pixels = 0.7 * patterns.repeat_interleave(side // 4, 3)[self.targets] + 0.7 * noise
        self.ids: Sequence[str] = [f"picture-{seed}-{row}" for row in range(size)]
        self.labels: Sequence[int] | None = self.targets.tolist()

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Tensor:
        return self.pixels[index]

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        rows = torch.tensor(list(index))
        return Batch(torch.stack(list(samples)), self.targets[rows], rows, [self.ids[row] for row in rows])

    def identity(self) -> str:
        return hashlib.sha256(self.pixels.numpy().tobytes()).hexdigest()

    def batch(self, *rows: int) -> Batch:
        chosen = rows or range(len(self))
        return self.collate(list(chosen), [self.pixels[row] for row in chosen])


DATA = {"train": Pictures(21, 1), "val": Pictures(9, 2)}


def tiny(name: str, seed: int = 0) -> VisionBackbone:
    """A tiny float32 network of tests/vision/nets.py."""
    backbone = network(name, seed)
    backbone.to("cpu", torch.float32)
    return backbone


def task(classes: int = 3) -> Classification:
    return Classification(LABELS if classes == 3 else [f"class {n}" for n in range(classes)])


def make(method: type[Method] | str, name: str = "class", **options: Any) -> Method:
    """A method, given as a class or by its id, on a tiny network; options are validated as the command line does."""
    cls = Vision.registry.load(method) if isinstance(method, str) else method
    config = build_all({"config": cls.Config}, options)["config"]
    return cls(config, {"backbone": tiny(name)}, task())


def seeded_make(method: type[Method] | str, name: str = "class", seed: int = 0, **options: Any) -> Method:
    with seeded(seed, "init"):
        return make(method, name, **options)


def double(cls: type[Method], name: str = "class", seed: int = 0, **options: Any) -> Method:
    """Method and network in float64, every tensor of the method moved away from its initial value."""
    method = seeded_make(cls, name, seed, **options).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=rng, dtype=torch.float64))
    method.backbone.to("cpu", torch.float64)
    return method


def case(method: type[Method] | str, name: str, parameters: int, **options: Any) -> MethodCase:
    """A method, given as a class or (for files in PT_METHOD_PATH, which other processes cannot import by name) by its id."""
    return MethodCase(
        make=partial(make, method, name, **options),
        data=DATA,
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-vision/{method if isinstance(method, str) else sys.modules[method.__module__].ID}",
        other_backbone=partial(tiny, name, 5),
    )


def conformance(cases: Mapping[str, MethodCase], fresh: Sequence[str] = ()) -> list[Any]:
    """All checks of all cases as test parameters (case, check). Starting a process that imports timm takes seconds, so `reload` is
    marked slow but for the cases in `fresh`, and `two_processes` always."""
    rows = []
    for name, one in cases.items():
        for check, run in {**CHECKS, **SLOW_CHECKS}.items():
            slow = check in SLOW_CHECKS or (check == "reload" and name not in fresh)
            rows.append(pytest.param(one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if slow else []))
    return rows


def steps(case: MethodCase, **changes: Any) -> MethodCase:
    return replace(case, options=replace(case.options, **changes))


@cache
def large(name: str) -> VisionBackbone:
    """A timm network of published size, without weights."""
    return load_backbone(f"timm:{name}", device="meta")


def on_large(cls: type[Method], name: str, classes: int, **options: Any) -> Method:
    config = build_all({"config": cls.Config}, options)["config"]
    return cls(config, {"backbone": large(name)}, task(classes))


def head_values(method: Method) -> int:
    return sum(p.numel() for name, p in method.named_parameters() if name.startswith("head."))
