"""What the method tests share: tiny frozen networks, generated molecules, small classified graphs, cases for the conformance suite."""

from __future__ import annotations

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
from pt_core.testing import CHECKS, SLOW_CHECKS, MethodCase
from pt_graph.data.dataset import GraphDataset
from pt_graph.data.molecules import PROPERTIES, molecule_data
from pt_graph.graphs.batch import single
from pt_graph.networks.adapt import adapt
from pt_graph.networks.backbone import GraphBackbone
from pt_graph.networks.molecular import MolecularGNN
from pt_graph.networks.plain import PlainGNN
from pt_graph.tasks.binary import BinaryTasks
from pt_graph.tasks.classification import GraphClassification
from torch import nn

OPTIONS = TrainOptions(steps=6, batch_size=8, lr=0.05, optimizer="sgd", eval_every=3, device="cpu")
CLASSES = ["path", "ring", "star"]
DIM = 8


def randomise(net: nn.Module, seed: int) -> nn.Module:
    """Values of every tensor, the statistics of BatchNorm included, drawn from one seed."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(1 + torch.rand(tensor.shape, generator=rng))
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=rng) * (0.5 if tensor.ndim > 1 else 0.3))
    return net


def molecular(seed: int = 0, kind: str = "gin", dim: int = DIM, layers: int = 2) -> GraphBackbone:
    with seeded("net", seed):
        net = MolecularGNN(kind, dim, layers)
    return GraphBackbone(randomise(net, seed), f"tiny:{kind}", {"inputs": "atoms and bonds"})


def plain(seed: int = 0, kind: str = "gin", dim: int = DIM) -> GraphBackbone:
    with seeded("net", seed):
        net = PlainGNN(kind, [5, dim, dim], dropout=0.2)
    return GraphBackbone(randomise(net, seed), f"tiny:{kind}", {"inputs": "float features"})


def pyg(seed: int = 0, dim: int = DIM) -> GraphBackbone:
    """PyG's own GCN with dropout, norms and jumping knowledge."""
    from torch_geometric.nn.models import GCN

    with seeded("net", seed):
        net = GCN(5, dim, 2, dropout=0.3, norm="batch_norm", jk="cat")
    return adapt(randomise(net, seed), "tiny:pyg")


NETWORKS = {"molecules": molecular, "shapes": plain, "pyg": pyg}
"""Kind of data -> its network; `pyg` reads the shapes with another one."""


def shapes(count: int, seed: int) -> GraphDataset:
    """Paths, rings and stars of 4 to 7 nodes with 5 noisy features; node 0 is the target node."""
    rng = generator("shapes", seed)
    graphs, labels = [], []
    for number in range(count):
        size, label = 4 + int(torch.randint(4, (1,), generator=rng)), number % 3
        here = torch.arange(size - 1)
        pairs = torch.stack([torch.zeros_like(here), here + 1]) if label == 2 else torch.stack([here, here + 1])
        if label == 1:
            pairs = torch.cat([pairs, torch.tensor([[size - 1], [0]])], 1)
        edges = torch.stack([pairs, pairs.flip(0)], 2).flatten(1)
        x = 0.5 * torch.randn(size, 5, generator=rng)
        x[:, label] += 1
        graphs.append(single(x, edges))
        labels.append(label)
    return GraphDataset(graphs, [f"shape-{seed}-{n}" for n in range(count)], labels, CLASSES)


@cache
def molecules() -> dict[str, GraphDataset]:
    """Small ones; the first training molecule has no label at all."""
    whole = molecule_data((90, 120, 10), seed=3)
    parts = {}
    for role, count in (("train", 12), ("val", 6)):
        small = [row for row, graph in enumerate(whole[role].graphs) if graph.nodes <= 11]
        yes = [row for row in small if whole[role].targets[row, 1] > 0]  # both labels, so that an AUC is defined
        no = [row for row in small if whole[role].targets[row, 1] < 0]
        parts[role] = whole[role].subset([*yes[: count // 2], *no[: count - count // 2]])
    parts["train"].targets[0] = 0
    return parts


@cache
def classified() -> dict[str, GraphDataset]:
    return {"train": shapes(21, 1), "val": shapes(9, 2)}


def task(kind: str) -> Any:
    made = BinaryTasks(PROPERTIES) if kind == "molecules" else GraphClassification(CLASSES)
    made.largest = 30
    return made


def make(cls: type[Method], kind: str = "molecules", seed: int = 0, **options: Any) -> Any:
    """A method on a tiny network; options are validated as the command line does."""
    config = build_all({"config": cls.Config}, options)["config"]
    return cls(config, {"backbone": NETWORKS[kind](seed)}, task(kind))


def seeded_make(cls: type[Method], kind: str = "molecules", **options: Any) -> Any:
    with seeded(0, "init"):
        return make(cls, kind, **options)


def data(kind: str) -> dict[str, GraphDataset]:
    return molecules() if kind == "molecules" else classified()


def batch(kind: str = "molecules", *rows: int, role: str = "val") -> Batch:
    part = data(kind)[role]
    chosen = list(rows) or list(range(len(part)))
    return part.collate(chosen, [part.sample(row, epoch=None, seed=0) for row in chosen])


def case(
    cls: type[Method], kind: str, parameters: int, settings: Mapping[str, Any] | None = None, **changes: Any
) -> MethodCase:
    built = MethodCase(
        make=partial(make, cls, kind, **(settings or {})),
        data=data(kind),
        options=OPTIONS,
        parameters=parameters,
        method_id=f"pt-graph/{sys.modules[cls.__module__].ID}",
        other_backbone=partial(NETWORKS[kind], 5),
    )
    return replace(built, **changes)


def conformance(
    cases: Mapping[str, MethodCase], fresh: Sequence[str] = (), brief: Mapping[str, Sequence[str]] | None = None
) -> list[Any]:
    """All checks of all cases as test parameters; those that start processes are slow but for `fresh`, and of a case in `brief` all but the
    ones named there."""
    rows = []
    for name, one in cases.items():
        for check, run in {**CHECKS, **SLOW_CHECKS}.items():
            slow = check in SLOW_CHECKS or (check == "reload" and name not in fresh)
            slow = slow or check not in (brief or {}).get(name, (check,))
            rows.append(pytest.param(one, run, id=f"{name}-{check}", marks=[pytest.mark.slow] if slow else []))
    return rows


def close(have: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-5) -> None:
    have, want = have.detach(), want.detach()
    scale = max(float(want.abs().max()), 1e-12)
    assert have.shape == want.shape
    assert float((have.double() - want.double()).abs().max()) <= tolerance * scale


def head_values(outputs: int, layers: int = 1, dim: int = DIM) -> int:
    return (layers - 1) * (dim * dim + dim) + dim * outputs + outputs
