"""What RELIEF's stages draw and keep, and what an episode earns, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pt_core import Add
from pt_core.data import generator
from pt_core.run.declare.options import TrainOptions
from pt_graph.methods.all_in_one import AllInOne
from pt_graph.methods.relief import RELIEF
from pt_graph.relief.episodes import Noise
from pt_graph.relief.epoch import episode_returns
from pt_graph.relief.shares import member_shares

from tests.graph.methods.common import DIM, batch, close, data, make, seeded_make


def stages(method: Any, kind: str, **options: Any) -> dict[str, Any]:
    ctx = SimpleNamespace(options=TrainOptions(**{"epochs": 3.0, **options}), data=data(kind))
    return {stage.name: stage for stage in method.stages(ctx)}


def test_an_epoch_of_relief_is_one_step_over_all_graphs() -> None:
    method = make(
        RELIEF, "molecules", warmup=7, ensemble=2, critic="pooled", policy_lr=0.1, head_lr=0.2, policy_decay=True
    )
    found = stages(method, "molecules")
    assert list(found) == ["warmup", "relief"]
    for stage in found.values():
        (stream,) = stage.streams.values()
        assert (stream.role, stream.batch_size, stream.shuffle) == ("train", 12, False)
    assert found["warmup"].options == {"steps": 7, "eval_every": 7}
    assert not found["warmup"].select
    assert found["warmup"].trains == ("head.*",)
    assert found["relief"].options == {"steps": 3}
    assert found["relief"].select
    optimisers = found["relief"].optimisers
    assert list(optimisers) == ["member0", "member1", "head"]
    assert all(optimisers[f"member{e}"].params == (f"members.{e}.*", "critic.*") for e in range(2))
    assert all(optimisers[f"member{e}"].shared for e in range(2))
    assert optimisers["member0"].options == {"lr": 0.1, "clip_norm": 0.5, "adam_eps": 1e-5, "schedule": "linear"}
    assert optimisers["head"].options == {"lr": 0.2, "weight_decay": 0.0, "schedule": "constant"}
    assert list(stages(make(RELIEF, "molecules", critic="pooled"), "molecules", steps=5)) == ["relief"]
    order = torch.randperm(12, generator=generator(0, "members")).tolist()
    assert sorted(row for share in member_shares(order, 3, False) for row in share) == list(range(12))


def test_head_and_tokens_have_optimisers_of_their_own() -> None:
    method = make(AllInOne, "shapes", head_lr=0.3, meta_steps=2)
    found = stages(method, "shapes", batch_size=10)
    assert list(found) == ["meta", "train"]
    assert found["meta"].streams == {}
    assert {name: one.params for name, one in found["train"].optimisers.items()} == {
        "prompt": ("tokens",),
        "head": ("head.*",),
    }
    assert found["train"].optimisers["head"].options == {"lr": 0.3}
    assert list(stages(make(AllInOne, "shapes", mode="light"), "shapes")) == ["train"]


@pytest.mark.parametrize("policy", ["joint", "random"])
def test_what_an_episode_earns(policy: str) -> None:
    """The loss before it less the loss behind it, every node chosen by the cumulative probability its number falls on."""
    method = seeded_make(RELIEF, "molecules", critic="pooled", z_max=0.8, ensemble=2)
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for tensor in method.parameters():
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=rng))
    whole = batch("molecules", 1, 2, 3)
    found = episode_returns(method, whole, 4, policy)
    want = []
    with torch.no_grad():
        for row, graph in enumerate(method.backbone.embed(whole.inputs).split()):
            key = generator(4, "returns", policy, whole.ids[row])
            noise = Noise.draw([graph.nodes], [key], DIM if policy == "random" else None)
            prompts, losses = torch.zeros(graph.nodes, DIM), []
            for t in range(graph.nodes + 1):
                nodes = method.backbone.nodes(graph, {"input": Add(lambda x, _, p=prompts: p)})
                losses.append(method.task.sample_losses(method.head(nodes.mean(0)[None]), whole.target[row][None])[0])
                if t == graph.nodes:
                    break
                level = noise.location[0, t]
                if policy == "random":
                    node = int(level * graph.nodes)
                    uniform = 0.5 * (1 + torch.erf(noise.content[0, t] / 2**0.5))
                    prompts[node] += 0.8 * (2 * uniform - 1)
                else:
                    each = torch.stack([one.scores(nodes).softmax(0) for one in method.policies])
                    joint = each.max(0).values / each.max(0).values.sum()
                    node = int((joint.cumsum(0) <= level).sum())
                    prompts[node] += sum(0.8 * torch.tanh(one.continuous(nodes[node])) for one in method.policies) / 2
            want.append(losses[0] - losses[-1])
    close(found, torch.stack(want), 1e-3)
    assert float(found.abs().max()) > 1e-3
