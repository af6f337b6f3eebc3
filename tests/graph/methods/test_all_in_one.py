"""All-in-One: the joined graph, its thresholds, the paper's weighted sum, the light form, and alternating training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pt_core.run.options import build_all
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_graph.graphs import collate
from pt_graph.methods.all_in_one import AllInOne, AllInOneConfig
from pt_graph.methods.linear import LinearProbe

from tests.graph.methods.common import DIM, OPTIONS, batch, case, close, conformance, head_values, seeded_make

BAD = (
    BadInput(
        "negative threshold", lambda: build_all({"config": AllInOneConfig}, {"inner_prune": -0.1}), "inner_prune=-0.1"
    ),
    BadInput(
        "threshold above one", lambda: build_all({"config": AllInOneConfig}, {"cross_prune": 1.5}), "cross_prune=1.5"
    ),
    BadInput("no token", lambda: build_all({"config": AllInOneConfig}, {"tokens": 0}), "tokens=0"),
)
CASES = {
    "insert": case(AllInOne, "molecules", 4 * DIM + head_values(2), {"tokens": 4}, accumulates=False, bad_inputs=BAD),
    "weighted": case(AllInOne, "shapes", 10 * 5 + head_values(3), {"mode": "weighted_sum"}, accumulates=False),
    "light": case(AllInOne, "shapes", 3 * 6 * 5, {"mode": "light", "tokens": 6}),
}


@pytest.mark.parametrize(("one", "check"), conformance(CASES))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


def method_of(kind="molecules", **options):
    return seeded_make(AllInOne, kind, **{"tokens": 4, **options})


@pytest.mark.parametrize("kind", ["molecules", "shapes"])
def test_the_joined_batch_is_each_joined_graph(kind):
    method = method_of(kind, inner_prune=0.5, cross_prune=0.5)
    graphs = method.backbone.embed(batch(kind).inputs)
    together = method.joined(graphs)
    alone = collate([method.joined(one) for one in graphs.split()])
    assert torch.equal(together.x, alone.x)
    assert torch.equal(together.sizes, graphs.sizes + 4)
    assert len(together.graph) == int((graphs.sizes + 4).sum())
    assert torch.equal(together.edge_counts, alone.edge_counts)
    for left, right in zip(together.split(), alone.split(), strict=True):
        assert sorted(map(tuple, left.edge_index.T.tolist())) == sorted(map(tuple, right.edge_index.T.tolist()))
    close(together.mean(method.nodes(together, noisy=False)), alone.mean(method.nodes(alone, noisy=False)))


def test_edges_are_inner_own_and_token_to_node():
    method = method_of(inner_prune=0.5, cross_prune=0.45)
    graph = next(iter(method.backbone.embed(batch().inputs).split()))
    joined = method.joined(graph)
    tokens = method.tokens[0]
    assert torch.equal(joined.x[:4], tokens)
    assert torch.equal(joined.x[4:], graph.x)
    edges = set(map(tuple, joined.edge_index.T.tolist()))
    inner = {(i, j) for i in range(4) for j in range(4) if torch.sigmoid(tokens[i] @ tokens[j]) >= 0.5}
    cross = {(k, 4 + v) for k in range(4) for v in range(graph.nodes) if torch.sigmoid(tokens[k] @ graph.x[v]) >= 0.45}
    own = {(i + 4, j + 4) for i, j in graph.edge_index.T.tolist()}
    assert edges == inner | cross | own
    assert joined.edge_index.shape[1] == len(inner) + len(cross) + len(own)
    assert {(i, i) for i in range(4)} & inner  # self-loops among them
    kinds = {tuple(e): tuple(a) for e, a in zip(joined.edge_index.T.tolist(), joined.edge_attr.tolist(), strict=True)}
    bonds = {
        (i + 4, j + 4): tuple(a)
        for (i, j), a in zip(graph.edge_index.T.tolist(), graph.edge_attr.tolist(), strict=True)
    }
    assert all(kinds[edge] == bonds[edge] for edge in own)
    assert all(kinds[edge] == (4, 0) for edge in inner | cross)


@pytest.mark.parametrize(("threshold", "every"), [(0.0, True), (1.01, False)])
def test_thresholds_give_all_edges_or_none(threshold, every):
    method = method_of(inner_prune=threshold, cross_prune=threshold)
    graph = next(iter(method.backbone.embed(batch().inputs).split()))
    new = method.joined(graph).edge_index.shape[1] - graph.edge_index.shape[1]
    assert new == (4 * 4 + 4 * graph.nodes if every else 0)


def test_a_graph_without_edges_and_a_single_node():
    from pt_graph.graphs import single

    method = method_of(cross_prune=0.0, inner_prune=0.0)
    lonely = collate(
        [single(torch.tensor([[5, 0]]), torch.zeros(2, 0), torch.zeros(0, 2)), batch().inputs.select_rows([0])]
    )
    one = replace(batch(), inputs=lonely)
    found = method(one)
    assert bool(found.isfinite().all())
    close(found[0], method(replace(one, inputs=lonely.select_rows([0])))[0])


def test_weighted_sum_by_hand():
    method = method_of("shapes", mode="weighted_sum", cross_prune=0.5)
    x = batch("shapes").inputs.x
    tokens = method.tokens[0]
    with torch.no_grad():
        for row in range(6):
            want = torch.zeros(5)
            for token in tokens:
                weight = torch.sigmoid(token @ x[row])
                want += weight * token if weight >= 0.5 else 0
            close(method.weighted(x)[row], want)
        off, probe = method_of("shapes", mode="weighted_sum", cross_prune=1.01), seeded_make(LinearProbe, "shapes")
        probe.head.load_state_dict(off.head.state_dict())
        close(off(batch("shapes")), probe(batch("shapes")))


def test_light_compares_with_a_prompt_graph_per_class():
    method = method_of("shapes", mode="light", inner_prune=0.5)
    assert method.head is None
    classes = method.prompt_graphs()
    assert classes.sizes.tolist() == [4, 4, 4]
    with torch.no_grad():
        own = method.backbone.nodes(batch("shapes", 1).inputs).mean(0)
        for number, graph in enumerate(classes.split()):
            close(method(batch("shapes", 1))[0, number], own @ method.backbone.nodes(graph).mean(0))


def test_double_softmax_is_a_flag():
    plain, doubled = method_of("shapes"), method_of("shapes", double_softmax=True)
    close(doubled(batch("shapes")), plain(batch("shapes")).softmax(-1))


def test_head_and_tokens_train_in_turn(tmp_path):
    one = replace(CASES["insert"], options=replace(OPTIONS, steps=4, batch_size=6, select=False))  # 2 steps per epoch
    seen = []
    method = one.make()
    start = {"tokens": method.tokens.detach().clone(), "head": method.head[0].weight.detach().clone()}

    def note(stage, step):
        now = {"tokens": method.tokens.detach().clone(), "head": method.head[0].weight.detach().clone()}
        seen.append({name for name in now if not torch.equal(now[name], start[name])})
        start.update(now)

    train(one, tmp_path / "run", method, on_step=note)
    assert seen == [{"head"}, {"head"}, {"tokens"}, {"tokens"}]
