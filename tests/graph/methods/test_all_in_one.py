"""All-in-One: the joined graph, its thresholds, the paper's weighted sum, the light form, and alternating training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from pt_core.data import generator
from pt_core.errors import ConfigError, DataError
from pt_core.run.declare.options import build_all
from pt_core.testing import BadInput
from pt_core.testing._support import train
from pt_graph.graphs.batch import collate
from pt_graph.meta import adapted_loss
from pt_graph.methods.all_in_one import AllInOne, AllInOneConfig
from pt_graph.methods.linear import LinearProbe

from tests.graph.methods.common import DIM, OPTIONS, batch, case, close, conformance, data, head_values, seeded_make

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
    "insert": case(AllInOne, "molecules", 4 * DIM + head_values(2), {"tokens": 4}, bad_inputs=BAD),
    "weighted": case(AllInOne, "shapes", 10 * 5 + head_values(3), {"mode": "weighted_sum"}),
    "meta": case(
        AllInOne,
        "shapes",
        4 * 5 + head_values(3),
        {"tokens": 4, "meta_steps": 3, "meta_pairs": 2, "meta_shots": 2},
    ),
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
    together = method.joined(graphs, method.tokens[0])
    alone = collate([method.joined(one, method.tokens[0]) for one in graphs.split()])
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
    joined = method.joined(graph, method.tokens[0])
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
    new = method.joined(graph, method.tokens[0]).edge_index.shape[1] - graph.edge_index.shape[1]
    assert new == (4 * 4 + 4 * graph.nodes if every else 0)


def test_a_graph_without_edges_and_a_single_node():
    from pt_graph.graphs.batch import single

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
            close(method.weighted(x, tokens)[row], want)
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


def test_second_derivatives_are_those_of_the_unrolled_loss():
    """Card, check 7: MAML's gradient against finite differences of the whole objective; the first-order one differs."""
    method = method_of(
        "shapes", inner_prune=0.0, cross_prune=0.0
    ).double()  # all links, so that no threshold is crossed
    method.backbone.module.double()
    part = data("shapes")["train"]

    def loss_on(rows, target):
        graphs = part.collate(rows, [part.sample(row, epoch=None, seed=0) for row in rows]).inputs
        graphs = replace(graphs, x=graphs.x.double())

        def loss(own):
            logits = torch.nn.functional.linear(method.pooled(graphs, own[0]), own[1], own[2])
            return torch.nn.functional.cross_entropy(logits, torch.tensor(target))

        return loss

    support, query = loss_on([0, 1, 3, 4], [0, 1, 0, 1]), loss_on([6, 7, 9, 10], [0, 1, 0, 1])
    rng = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((4, 5), (2, DIM), (2,))]
    values = [(0.5 * value).requires_grad_() for value in values]
    found, first = (
        torch.autograd.grad(adapted_loss(values, support, query, lr=0.3, first_order=flag), values)
        for flag in (False, True)
    )
    for number, (value, gradient) in enumerate(zip(values, found, strict=True)):
        for place in range(0, value.numel(), 3):
            sides = []
            for sign in (1, -1):
                moved = [v.detach().clone().requires_grad_() for v in values]
                with torch.no_grad():
                    moved[number].view(-1)[place] += sign * 1e-6
                sides.append(float(adapted_loss(moved, support, query, lr=0.3).detach()))
            assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(float(gradient.view(-1)[place]), rel=1e-4, abs=1e-8)
    assert float((found[0] - first[0]).abs().max()) > 1e-3 * float(found[0].abs().max())


def test_meta_learning_moves_the_start_and_lowers_the_loss_of_new_tasks(tmp_path):
    one = replace(
        CASES["meta"], make=lambda: method_of("shapes", meta_steps=60, meta_shots=3, meta_lr=0.01, head_epochs=1)
    )
    before = one.make().tokens.detach().clone()
    method, logs = one.make(), []
    method.meta_learn(Job(data("shapes"), logs.append))
    assert not torch.equal(method.tokens, before)
    assert logs[0]["query_loss"] < logs[0]["first_query_loss"]
    again = one.make()
    again.meta_learn(Job(data("shapes"), logs.append))
    assert torch.equal(again.tokens, method.tokens)


def test_meta_learning_needs_classes_with_two_graphs_and_a_head():
    with pytest.raises(ConfigError, match="meta_steps needs a head and one of several classes"):
        method_of("molecules", meta_steps=2)
    with pytest.raises(ConfigError, match="meta_steps needs a head"):
        method_of("shapes", mode="light", meta_steps=2)
    part = data("shapes")["train"].subset([0, 1, 2, 3, 4])
    with pytest.raises(DataError, match="2 training graphs or more per class; star has 1"):
        method_of("shapes", meta_steps=2).meta_learn(Job({"train": part}, print))


@dataclass
class Job:
    """What a job stage gets, as far as meta-learning asks for it."""

    data: dict
    log: Callable
    device: str = "cpu"

    def rng(self, *key):
        return generator(0, *key)
