"""What the tests share: a tiny encoder, windows of a few domains, and cases for the conformance suite."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from pt_core import Batch, Method
from pt_core.data import generator
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.testing import MethodCase
from pt_timeseries.adapters.base import PretrainedHead
from pt_timeseries.adapters.encoder import EncoderConfig, PatchEncoder
from pt_timeseries.adapters.patch import PatchBackbone
from pt_timeseries.data.dataset import WindowDataset
from pt_timeseries.tasks.classification import DomainClassification
from torch import Tensor

LABELS = ["still", "slow", "fast"]
SOURCES = ["a", "b", "c"]
CHANNELS, LENGTH = 2, 32
SIZES = EncoderConfig(channels=CHANNELS, length=LENGTH, patch=8, stride=4, dim=12, depth=2, heads=2, hidden=16)
OPTIONS = TrainOptions(steps=4, batch_size=6, lr=0.02, optimizer="sgd", eval_every=2, device="cpu")


def tiny(seed: int = 0, with_head: bool = True, **sizes: Any) -> PatchBackbone:
    """A patch Transformer whose weights are a function of the seed."""
    config = EncoderConfig(**{**vars(SIZES), **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PatchEncoder(config)
        for tensor in net.parameters():
            tensor.data += 0.1 * torch.randn(tensor.shape)
        head = PretrainedHead(torch.randn(3, config.dim), torch.randn(3), tuple(LABELS)) if with_head else None
    return PatchBackbone(net, f"tiny:{seed}", head)


def waves(
    domains: Sequence[str] = SOURCES, per_class: int = 4, seed: int = 0, labelled: bool = True, channels: int = CHANNELS
) -> WindowDataset:
    """Sines of a frequency per class, shifted and scaled per domain, with noise."""
    blocks, ids, labels, owners = [], [], [], []
    time = torch.linspace(0, 1, LENGTH)
    for name in domains:
        rng, body = generator("waves", seed, name), generator("body", name)
        offset, scale = torch.randn(channels, 1, generator=body), 0.5 + torch.rand(channels, 1, generator=body)
        for number in range(per_class * len(LABELS)):
            label = number % len(LABELS)
            phase = 6.28 * torch.rand((), generator=rng)
            clean = (6.28 * (1 + 2 * label) * time + phase).sin().expand(channels, -1)
            blocks.append(scale * clean + offset + 0.3 * torch.randn(channels, LENGTH, generator=rng))
            ids.append(f"{name}/{seed}-{number}")
            labels.append(label)
            owners.append(name)
    values = torch.stack(blocks)
    return WindowDataset(values, ids, labels if labelled else None, LABELS, owners, "none", known=SOURCES)


DATA = {
    "train": waves(),
    "val": waves(per_class=3, seed=1),
    "unlabeled": waves(["t"], labelled=False, seed=2),
    "shots": waves(["t"], per_class=2, seed=3),
}


def batch_of(dataset: WindowDataset, *rows: int) -> Batch:
    chosen = list(rows or range(len(dataset)))
    return dataset.collate(chosen, [dataset.values[row] for row in chosen])


def task(sources: Sequence[str] = SOURCES) -> DomainClassification:
    return DomainClassification(LABELS, sources=sources)


def make(
    cls: type[Method], sources: Sequence[str] = SOURCES, backbone: PatchBackbone | None = None, **options: Any
) -> Any:
    """A method on the tiny encoder; options are validated as the command line does."""
    config = build_all({"config": cls.Config}, options)["config"]
    return cls(config, {"backbone": backbone or tiny()}, task(sources))


def seeded_make(cls: type[Method], seed: int = 0, **options: Any) -> Any:
    with seeded(seed, "init"):
        return make(cls, **options)


def moved(method: Any, seed: int = 0, scale: float = 0.3) -> Any:
    """Every parameter moved away from its initial value (generators start at dP = 0)."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(scale * torch.randn(tensor.shape, generator=rng))
    return method


def case(cls: type[Method], parameters: int, **options: Any) -> MethodCase:
    return MethodCase(
        make=partial(make, cls, **options),
        data=DATA,
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-timeseries/{sys.modules[cls.__module__].ID}",
        other_backbone=partial(tiny, 5),
    )


def close(have: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(have, want, rtol=tolerance, atol=tolerance)
