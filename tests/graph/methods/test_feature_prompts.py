"""GPF, GPF-plus, SUPT, the linear probe and full fine-tuning: the acceptance checks of their card."""

from __future__ import annotations

import math

import pytest
import torch
from pt_core.errors import ConfigError, UserError
from pt_core.kernels.flops import flop_counter
from pt_core.randomness import keyed, sampled_by
from pt_core.run.declare.options import build_all
from pt_core.run.train.rundir import RunDir
from pt_core.run.train.trainer import Trainer
from pt_core.run.train.world import World
from pt_core.testing import BadInput
from pt_graph.graphs.batch import collate, single
from pt_graph.methods.full import FullFineTuning
from pt_graph.methods.gpf import GPF, GPFConfig
from pt_graph.methods.gpf_plus import GPFPlus
from pt_graph.methods.linear import LinearProbe
from pt_graph.methods.supt import SUPT, SUPTConfig, best_nodes

from tests.graph.methods.common import (
    DIM,
    OPTIONS,
    batch,
    case,
    close,
    conformance,
    data,
    head_values,
    make,
    molecular,
    seeded_make,
)

H2 = head_values(2)
BACKBONE = sum(p.numel() for p in molecular().module.parameters())
EVAL = {"frozen_mode": "eval"}
DROPOUT = {"frozen_mode": "dropout"}


def refuse(cls, **options):
    return lambda: build_all({"config": cls}, options)


def wrong_kind():
    method = make(GPF)
    method(batch("shapes"))


def integers():
    method = make(GPF)
    graphs = batch().inputs
    method.backbone(graphs.with_x(graphs.x))


BAD = (
    BadInput("no head", refuse(GPFConfig, head_layers=0), "head_layers=0"),
    BadInput("unknown mode", refuse(GPFConfig, frozen_mode="frozen"), "frozen_mode='frozen'"),
    BadInput("float features for a molecular network", wrong_kind, "reads atoms and bonds"),
    BadInput("categories where embedded features are due", integers, "embed the categories first"),
    BadInput("ratio of nothing", refuse(SUPTConfig, ratio=0), "ratio=0"),
    BadInput("ratio above one", refuse(SUPTConfig, ratio=1.5), "ratio=1.5"),
)
CASES = {
    "linear": case(LinearProbe, "molecules", H2),
    "linear_mlp": case(LinearProbe, "shapes", head_values(3, 2), {"head_layers": 2}),
    "gpf": case(GPF, "molecules", DIM + H2, bad_inputs=BAD),
    "gpf_eval": case(GPF, "shapes", 5 + head_values(3), EVAL),
    "gpf_dropout": case(GPF, "molecules", DIM + H2, DROPOUT),
    "gpf_pyg": case(GPF, "pyg", 5 + head_values(3), DROPOUT),
    "gpf_train": case(GPF, "molecules", DIM + H2, {"frozen_mode": "train"}),
    "gpf_plus": case(GPFPlus, "molecules", 2 * 4 * DIM + 4 + H2, {"bases": 4}),
    "gpf_plus_dropout": case(GPFPlus, "shapes", 2 * 4 * 5 + 4 + head_values(3), {"bases": 4, **DROPOUT}),
    "supt_soft": case(SUPT, "molecules", 2 * 3 * DIM + 3 + H2, {"bases": 3}),
    "supt_dropout": case(SUPT, "molecules", 2 * 3 * DIM + 3 + H2, {"bases": 3, **DROPOUT}),
    "supt_hard": case(SUPT, "shapes", 2 * 3 * 5 + 3 + head_values(3), {"bases": 3, "variant": "hard"}),
    "full": case(FullFineTuning, "molecules", BACKBONE + H2, idle=("claimed.*",)),
}
BRIEF = dict.fromkeys(("gpf_dropout", "gpf_pyg", "gpf_plus_dropout", "supt_dropout"), ("cuts",))


@pytest.mark.parametrize(("one", "check"), conformance(CASES, fresh=("gpf",), brief=BRIEF))
def test_conformance(one, check, tmp_path):
    check(one, tmp_path)


# ---- 2. neutral prompts change nothing; special cases agree ------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "options"), [(GPF, {}), (SUPT, {}), (SUPT, {"variant": "hard"})])
def test_zero_prompts_are_the_frozen_network_bit_for_bit(cls, options):
    method, linear = seeded_make(cls, **options, **EVAL), seeded_make(LinearProbe)
    linear.head.load_state_dict(method.head.state_dict())
    with torch.no_grad():
        method.prompt.zero_()
        assert torch.equal(method(batch()), linear(batch()))


def test_gpf_plus_with_one_basis_or_equal_bases_is_gpf():
    gpf = seeded_make(GPF, **EVAL)
    for bases in (1, 3):
        plus = seeded_make(GPFPlus, bases=bases, **EVAL)
        plus.head.load_state_dict(gpf.head.state_dict())
        with torch.no_grad():
            plus.prompt.copy_(gpf.prompt.expand(bases, -1))
            close(plus(batch()), gpf(batch()))


def test_gpf_plus_does_not_see_the_order_of_nodes_or_bases():
    plus = seeded_make(GPFPlus, bases=4, **EVAL)
    graph = data("molecules")["val"].graphs[0]
    order = torch.randperm(graph.nodes, generator=torch.Generator().manual_seed(1))
    back = torch.argsort(order)
    moved = single(graph.x[order], back[graph.edge_index], graph.edge_attr)
    with torch.no_grad():
        x, y = plus.backbone.embed(graph).x, plus.backbone.embed(moved).x
        close(plus.prompts(moved, y), plus.prompts(graph, x)[order])
        want = plus.prompts(graph, x)
        shuffle = torch.tensor([2, 0, 3, 1])
        plus.prompt.copy_(plus.prompt[shuffle])
        plus.attention.weight.copy_(plus.attention.weight[shuffle])
        plus.attention.bias.copy_(plus.attention.bias[shuffle])
        close(plus.prompts(graph, x), want)


def test_prompts_mix_by_attention_of_the_unprompted_features():
    plus = seeded_make(GPFPlus, bases=3, **EVAL)
    graphs = batch().inputs
    x = torch.randn(graphs.nodes, DIM)
    with torch.no_grad():
        for row in range(4):
            scores = [float(plus.attention.weight[j] @ x[row] + plus.attention.bias[j]) for j in range(3)]
            total = sum(math.exp(s) for s in scores)
            want = sum(math.exp(s) / total * plus.prompt[j] for j, s in enumerate(scores))
            close(plus.prompts(graphs, x)[row], want)


# ---- 3. a first layer that is linear: the prompt is a change of its bias ------------------------------------------------------


def test_gpf_before_a_linear_layer_is_another_bias():
    gpf = seeded_make(GPF, "shapes", **EVAL)
    sage = gpf.backbone.module
    graphs = batch("shapes").inputs
    with torch.no_grad():
        first = sage.layers[0]["mlp"][0]
        want = first(graphs.x + gpf.prompt)
        first.bias += (gpf.prompt @ first.weight.T)[0]
        close(first(graphs.x), want)


# ---- 4. SUPT-hard ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_supt_hard_takes_the_share_of_every_graph_for_itself(ratio):
    graphs = batch("shapes").inputs
    scores = torch.randn(graphs.nodes, 3, generator=torch.Generator().manual_seed(0))
    chosen = best_nodes(scores, graphs, ratio)
    for first, size in zip(graphs.starts.tolist(), graphs.sizes.tolist(), strict=True):
        own = chosen[first : first + size]
        assert own.sum(0).tolist() == [math.ceil(ratio * size)] * 3
        for column in range(3):
            values = scores[first : first + size, column]
            assert values[own[:, column] > 0].min() >= values[own[:, column] == 0].max() if own.min() == 0 else True


def test_supt_hard_divides_by_a_counter_that_starts_at_one():
    method = seeded_make(SUPT, "shapes", bases=1, variant="hard", ratio=0.01, **EVAL)
    graphs = batch("shapes", 0).inputs
    with torch.no_grad():
        mixed = method.score(graphs.x + method.prompt.sum(0))
        score = (graphs.structure.view("one").gather(mixed, "symmetric") + method.bias).tanh()
        best = int(score[:, 0].argmax())
        prompts = method.prompts(graphs, graphs.x)
    assert (prompts.abs().sum(1) > 0).nonzero().flatten().tolist() == [best]
    close(prompts[best], 0.5 * score[best, 0] * method.prompt[0])


# ---- 8. frozen modes -----------------------------------------------------------------------------------------------------------


def fit(method, tmp_path, kind="molecules"):
    with RunDir(tmp_path / "run").open(False) as run:
        run.update({"status": "running"})
        Trainer(method, data(kind), OPTIONS, run, World(OPTIONS)).fit()


@pytest.mark.parametrize("mode", ["eval", "dropout", "train"])
def test_what_frozen_means(mode, tmp_path):
    method = seeded_make(GPF, frozen_mode=mode)
    net = method.backbone.module
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    method.train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        drawn = [method(batch()) for _ in range(2)]
    assert torch.equal(*drawn) is (mode == "eval")
    fit(method, tmp_path)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    drifted = [n for n, b in getattr(method, "statistics", torch.nn.Module()).named_buffers() if "running" in n]
    assert bool(drifted) is (mode == "train")
    if mode == "train":
        own = method.statistics.tensors()
        assert not torch.equal(own["batch_norms.0.running_mean"], before["batch_norms.0.running_mean"])
        close(method.eval()(batch()), method(batch()))


@pytest.mark.parametrize("kind", ["molecules", "shapes", "pyg"])
def test_what_a_node_draws_belongs_to_its_graph_and_its_place_there(kind):
    method = seeded_make(GPF, kind, **DROPOUT).train()
    together = keyed(batch(kind, 4, 1, 2), 0, "step", 1)
    whole = method(together)
    alone = [method(keyed(batch(kind, row), 0, "step", 1)) for row in (4, 1, 2)]
    close(whole, torch.cat(alone))
    assert not torch.allclose(whole, method(keyed(batch(kind, 4, 1, 2), 0, "step", 2)))
    with sampled_by(together.keys[:2]), pytest.raises(ValueError, match="3 graphs do not have the 2 keys"):
        method.nodes(together.inputs)


# ---- counts and cost -------------------------------------------------------------------------------------------------------------


def test_gpf_costs_nothing_but_additions():
    """n D additions, which are no multiply-adds: the counted operations are those of the frozen network and the head."""
    graphs = collate([data("molecules")["val"].graphs[row % 6] for row in range(1000)])
    gpf, linear = seeded_make(GPF, **EVAL), seeded_make(LinearProbe)
    one = batch()
    counted = {}
    for method in (gpf, linear):
        big = type(one)(graphs, None, torch.arange(1000), [str(n) for n in range(1000)])
        with torch.no_grad(), flop_counter() as counter:
            method(big)
        counted[type(method)] = counter.get_total_flops()
    assert counted[GPF] == counted[LinearProbe] > 0
    plus = seeded_make(GPFPlus, bases=5, **EVAL)
    with torch.no_grad(), flop_counter() as counter:
        plus(type(one)(graphs, None, torch.arange(1000), [str(n) for n in range(1000)]))
    assert counter.get_total_flops() - counted[LinearProbe] == 2 * (2 * graphs.nodes * 5 * DIM)  # 2 n k D multiply-adds


def test_a_prompt_of_another_width_names_both():
    method = seeded_make(GPF)
    method.prompt = torch.nn.Parameter(torch.zeros(1, 7))
    with pytest.raises(UserError, match="width 7 .* width 8"):
        method(batch())


def test_gppt_and_light_need_classes():
    from pt_graph.methods.all_in_one import AllInOne
    from pt_graph.methods.gppt import GPPT

    for cls, options in ((GPPT, {}), (AllInOne, {"mode": "light"}), (AllInOne, {"double_softmax": True})):
        with pytest.raises(ConfigError, match="yes/no properties"):
            make(cls, **options)
