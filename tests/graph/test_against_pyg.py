"""Every supported network of PyG against PyG itself, on directed graphs with self-loops, repeated edges and nodes that receive nothing."""

from __future__ import annotations

import itertools

import pytest
import torch
from pt_core import Add
from pt_core.kernels import reference_kernels
from pt_graph.backbones import load_backbone
from pt_graph.graphs.batch import collate, single
from pt_graph.graphs.structure import Structure
from pt_graph.methods.all_in_one import AllInOne
from pt_graph.methods.supt import SUPT
from pt_graph.networks.adapt import adapt
from pt_graph.networks.plain import ACTIVATIONS
from torch_geometric.nn import GCNConv, models

from tests.graph.methods.common import close, randomise, seeded_make, task
from tests.graph.test_cli import run

KINDS = ("GCN", "GIN", "GraphSAGE", "GAT")


def multigraphs(seed=0, width=5):
    """Three graphs whose edges are drawn with repetition, so that degrees in and out differ; some are loops, one occurs three times."""
    rng = torch.Generator().manual_seed(seed)
    graphs = []
    for nodes, edges in ((7, 18), (1, 2), (5, 9)):
        pairs = torch.randint(nodes, (2, edges), generator=rng)
        pairs[1][pairs[1] == nodes - 1] = 0  # nothing reaches the last node
        pairs = torch.cat([pairs, pairs[:, :1], pairs[:, :1], torch.zeros(2, 1, dtype=torch.long)], 1)
        graphs.append(single(torch.randn(nodes, width, generator=rng), pairs))
    return collate(graphs)


def asymmetric(graphs):
    source, target = (torch.bincount(end, minlength=graphs.nodes) for end in graphs.edge_index)
    pairs = list(map(tuple, graphs.edge_index.T.tolist()))
    return not torch.equal(source, target) and len(set(pairs)) < len(pairs) and any(a == b for a, b in pairs)


@pytest.mark.parametrize(("name", "act"), list(itertools.product(KINDS, ACTIVATIONS)))
def test_state_dicts_of_pyg(name, act, tmp_path):
    theirs = randomise(
        getattr(models, name)(5, 6, num_layers=3, out_channels=4, act=None if act == "identity" else act), 1
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    backbone, graphs = load_backbone(f"pyg:{name}:{act}", tmp_path / "w.pt"), multigraphs()
    assert asymmetric(graphs)
    with torch.no_grad():
        want = theirs(graphs.x, graphs.edge_index)
        close(backbone.nodes(graphs), want)
        with reference_kernels():
            close(backbone.nodes(graphs.select_rows([0, 1, 2])), want)
        close(backbone.nodes(graphs.prefix(2)), want[:8])


def test_state_dicts_with_several_heads(tmp_path):
    theirs = randomise(models.GAT(5, 6, num_layers=3, heads=2), 1).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    graphs = multigraphs(6)
    with torch.no_grad():
        close(load_backbone("pyg:GAT", tmp_path / "w.pt").nodes(graphs), theirs(graphs.x, graphs.edge_index))


@pytest.mark.parametrize("name", KINDS)
def test_gradients_of_prompts_are_pygs(name, tmp_path):
    theirs = randomise(getattr(models, name)(5, 6, num_layers=2), 2).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    backbone, graphs = load_backbone(f"pyg:{name}", tmp_path / "w.pt"), multigraphs(1)
    ours, plain = (torch.zeros(graphs.nodes, 5, requires_grad=True) for _ in range(2))
    backbone.nodes(graphs, {"input": Add(lambda x, _: ours)}).square().sum().backward()
    theirs(graphs.x + plain, graphs.edge_index).square().sum().backward()
    close(ours.grad, plain.grad)


@pytest.mark.parametrize(
    "text",
    [
        "GCN,improved=true",
        "GCN,add_self_loops=false,norm=batch_norm",
        "GCN,normalize=false,jk=max",
        "GAT,heads=2,norm=layer_norm",
        "GAT,heads=2,v2=true,add_self_loops=false",
        "GraphSAGE,aggr=max,normalize=true",
        "GIN,eps=0.5,train_eps=true",
        "PNA,aggregators=mean+max,scalers=identity+amplification",
        "EdgeCNN,aggr=mean",
    ],
)
def test_networks_with_arguments(text, tmp_path):
    name, *pairs = text.split(",")
    values = {"true": True, "false": False, "0.5": 0.5, "2": 2}
    settings = {k: v.split("+") if "+" in v else values.get(v, v) for k, v in (pair.split("=") for pair in pairs)}
    more = {"deg": torch.tensor([1, 3, 5, 2])} if name == "PNA" else {}
    theirs = randomise(getattr(models, name)(5, 6, num_layers=3, out_channels=4, **settings, **more), 3).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    spec = f"pyg:{name},in_channels=5,hidden_channels=6,out_channels=4{text[len(name) :]}"
    graphs = multigraphs(2)
    with torch.no_grad():
        want = theirs(graphs.x, graphs.edge_index, batch=graphs.graph)
        close(load_backbone(spec, tmp_path / "w.pt").nodes(graphs), want)
        close(adapt(theirs, "mine").nodes(graphs), want)


@pytest.mark.parametrize("name", KINDS)
def test_all_in_one_joins_its_tokens_as_nodes_of_pygs_network(name, tmp_path):
    """Token edges are directed and tokens are linked with themselves: a hand-made graph goes through PyG's own network."""
    theirs = randomise(getattr(models, name)(5, 6, num_layers=2), 4).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    backbone, graphs = load_backbone(f"pyg:{name}", tmp_path / "w.pt"), multigraphs(3)
    config = AllInOne.Config(tokens=3, inner_prune=0.5, cross_prune=0.5)
    method = AllInOne(config, {"backbone": backbone}, task("shapes"))
    with torch.no_grad():
        method.tokens.normal_(generator=torch.Generator().manual_seed(5))
    tokens = method.tokens[0].detach()
    linked = lambda a, b: float(torch.sigmoid(a @ b)) >= 0.5  # noqa: E731
    rows = []
    for graph in graphs.split():
        edges = [(i, j) for i in range(3) for j in range(3) if linked(tokens[i], tokens[j])]
        edges += [(3 + a, 3 + b) for a, b in graph.edge_index.T.tolist()]
        edges += [(i, 3 + v) for i in range(3) for v in range(graph.nodes) if linked(tokens[i], graph.x[v])]
        with torch.no_grad():
            nodes = theirs(torch.cat([tokens, graph.x]), torch.tensor(edges).T)
        rows.append(nodes.mean(0))
    with torch.no_grad():
        close(method.pooled(graphs, tokens), torch.stack(rows))


def test_the_convolution_of_supt_is_pygs():
    method, graphs = seeded_make(SUPT, "shapes", bases=3, variant="soft"), multigraphs(4)
    conv = GCNConv(5, 3)
    with torch.no_grad():
        method.bias.normal_(generator=torch.Generator().manual_seed(0))
        conv.lin.weight.copy_(method.score.weight)
        conv.bias.copy_(method.bias)
        scores = conv(graphs.x + method.prompt.sum(0), graphs.edge_index)
        close(method.prompts(graphs, graphs.x), scores.softmax(-1) @ method.prompt)


def test_loops_of_a_view():
    edges = torch.tensor([[0, 1, 1, 2, 2], [1, 1, 1, 0, 0]])
    views = {loops: Structure(edges, None, 3).view(loops) for loops in ("own", "one", "more")}
    counts = {
        loops: torch.zeros(3, 3).index_put((view.target, view.source), view.weights("sum"), accumulate=True)
        for loops, view in views.items()
    }
    plain = torch.tensor([[0.0, 0, 2], [1, 0, 0], [0, 0, 0]])
    assert torch.equal(counts["own"], plain + torch.diag(torch.tensor([0.0, 2, 0])))
    assert torch.equal(counts["one"], plain + torch.eye(3))
    assert torch.equal(counts["more"], counts["own"] + torch.eye(3))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("method", ["gpf", "supt", "gppt"])
def test_a_budget_counts_them(name, method, tmp_path):
    """Its tensors have shapes and no values: loops and their replacement may not change a shape."""
    torch.save(getattr(models, name)(5, 6, num_layers=2).state_dict(), tmp_path / "w.pt")
    status, out, err = run("budget", method, "--backbone", f"pyg:{name}", "--weights", tmp_path / "w.pt")
    assert status == 0, err
    assert "training step" in out


def test_graphs_of_one_network_do_not_touch(tmp_path):
    """A batch is its graphs one by one, loops and repeated edges included."""
    theirs = randomise(models.GCN(5, 6, num_layers=2), 6).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    backbone, graphs = load_backbone("pyg:GCN", tmp_path / "w.pt"), multigraphs(5)
    with torch.no_grad():
        close(backbone.nodes(graphs), torch.cat([backbone.nodes(one) for one in graphs.split()]))
