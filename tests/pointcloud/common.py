"""What the tests share: small labelled clouds, tiny backbones with random weights, methods on them, cases for the conformance suite."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from pt_core import Batch, Method
from pt_core.data import generator
from pt_core.randomness import seeded
from pt_core.run.declare.options import TrainOptions, build_all
from pt_core.run.tasks.classification import Classification
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from pt_pointcloud.data.dataset import PointDataset
from pt_pointcloud.networks.backbone import PointBackbone
from pt_pointcloud.networks.transformer import PointConfig, PointTransformer
from pt_pointcloud.tasks.parts import PartSegmentation
from torch import Tensor

LABELS = ["ball", "rod", "sheet"]
PARTS = ["ball/low", "ball/high", "rod/low", "rod/high", "sheet/low", "sheet/high"]
SIZES = {"points": 48, "groups": 8, "group_size": 6, "dim": 16, "depth": 3, "heads": 2, "first": 4, "position": 8}
OPTIONS = TrainOptions(steps=6, batch_size=8, lr=0.05, optimizer="sgd", eval_every=3, device="cpu")


def network(seed: int = 0, **changes: Any) -> PointTransformer:
    """A tiny Transformer whose every tensor, BatchNorm statistics included, differs from its initial value."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = PointTransformer(PointConfig(**{**SIZES, **changes}))
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point() and not name.startswith("cls_"):
                fan = tensor[0].numel() if tensor.ndim > 1 else 100
                offset = 1.0 if name.endswith("running_var") or ("norm" in name and name.endswith("weight")) else 0.0
                tensor.copy_(offset + 1.3 * torch.randn_like(tensor) / fan**0.5)
    return net


def tiny(seed: int = 0, class_token: bool = False, **changes: Any) -> PointBackbone:
    """Without a pretrained class token, as Point-MAE, or with one, as Point-BERT."""
    net = network(seed, **changes)
    if class_token:
        net.class_token_trained = True
        with torch.no_grad():
            for tensor in (net.cls_token, net.cls_pos):
                tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator("class", seed)))
    return PointBackbone(net, f"tiny:{seed}")


def clouds(size: int, seed: int, points: int = 48) -> PointDataset:
    """Balls, rods and sheets with noise; the parts of each are its lower and upper half."""
    rng = np.random.default_rng(seed)
    stretch = np.array([[1, 1, 1], [0.15, 1, 0.15], [1, 0.1, 1]])
    labels = [row % 3 for row in range(size)]
    made = [(rng.normal(size=(points, 3)) * stretch[label] * 0.4).astype(np.float32) for label in labels]
    parts = [2 * label + (cloud[:, 1] > 0).astype(np.int64) for label, cloud in zip(labels, made, strict=True)]
    return PointDataset(made, [f"cloud-{seed}-{row}" for row in range(size)], labels, LABELS, parts, PARTS)


def bound(size: int, seed: int, **view: Any) -> PointDataset:
    return clouds(size, seed).bind(tiny().preprocessing, **view)


DATA = {"train": bound(21, 1), "val": bound(9, 2)}
PART_DATA = {"train": bound(21, 1, parts=True), "val": bound(9, 2, parts=True)}


def batch_of(data: PointDataset = DATA["val"], rows: Any = None) -> Batch:
    rows = list(range(len(data)) if rows is None else rows)
    return data.collate(rows, [data.sample(row, epoch=None, seed=0) for row in rows])


def task() -> Classification:
    return Classification(LABELS)


def part_task() -> PartSegmentation:
    return PartSegmentation(LABELS, PARTS, {"ball": [0, 1], "rod": [2, 3], "sheet": [4, 5]})


def make(cls: type[Method], class_token: bool = False, **options: Any) -> Method:
    """A method on a tiny network; options are validated as the command line does."""
    config = build_all({"config": cls.Config}, options)["config"]
    kind = part_task() if getattr(cls, "predicts", "cloud") == "point" else task()
    return cls(config, {"backbone": tiny(class_token=class_token)}, kind)


def seeded_make(cls: type[Method], class_token: bool = False, seed: int = 0, **options: Any) -> Method:
    with seeded(seed, "init"):
        return make(cls, class_token, **options)


def case(cls: type[Method], parameters: int, class_token: bool = False, **options: Any) -> MethodCase:
    return MethodCase(
        make=partial(make, cls, class_token, **options),
        data=PART_DATA if getattr(cls, "predicts", "cloud") == "point" else DATA,
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-pointcloud/{sys.modules[cls.__module__].ID}",
        other_backbone=partial(tiny, 5, class_token),
        # A bias in front of a BatchNorm has no gradient; the suite compares what rounding leaves of it at this scale.
        tolerance=1e-4,
    )


def conformance(
    cases: Mapping[str, MethodCase], fresh: tuple[str, ...] = (), brief: Mapping[str, tuple[str, ...]] | None = None
) -> list[Any]:
    """All checks of all cases as test parameters. Those that start processes are slow but for `reload` of the cases in `fresh`; of a case
    in `brief` all checks are slow but the ones named there."""
    rows = []
    for name, one in cases.items():
        for check, run in {**CHECKS, **SLOW_CHECKS}.items():
            slow = check in SLOW_CHECKS or (check == "reload" and name not in fresh)
            slow = slow or check not in (brief or {}).get(name, (check,))
            rows.append(pytest.param(one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if slow else []))
    return rows


def head_values(width: int, classes: int = 3) -> int:
    return 256 * width + 256 * 256 + 256 * classes + classes + 6 * 256


def close(have: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    """Largest difference relative to the largest value."""
    have, want = have.detach(), want.detach()
    difference = float((have - want).abs().max() / want.abs().max().clamp(min=1e-6))
    assert difference <= tolerance, f"relative difference {difference:.2g}"
