"""A method on a PyG network of one's own: a bare loop, saving, copies, precisions, and what a network may be called with."""

import copy

import pt_graph
import pytest
import torch
from pt_core.errors import BackboneMismatch, DataError, UserError
from torch.nn import functional as F
from torch_geometric.data import Batch, Data
from torch_geometric.nn.models import GAT, GCN, GIN

from tests.graph.methods.common import CLASSES, batch, close, data, molecular

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def network(**settings):
    torch.manual_seed(3)
    return GCN(5, 16, 2, **settings).eval()


def shapes(role="train"):
    """(PyG batch, classes) of the shapes."""
    part = data("shapes")[role]
    samples = [Data(x=graph.x, edge_index=graph.edge_index) for graph in part.graphs]
    return Batch.from_data_list(samples), torch.tensor(part.labels)


def accuracy(module):
    graphs, labels = shapes("val")
    with torch.no_grad():
        return float((module.eval()(graphs).argmax(-1) == labels).float().mean())


def frozen(module):
    return {name: tensor.clone() for name, tensor in module.method.backbone.module.state_dict().items()}


@pytest.mark.parametrize(("method", "tuned"), [("gpf", {"prompt"}), ("supt", {"prompt", "score.weight", "bias"})])
def test_a_bare_loop_trains_what_is_tuned_and_nothing_else(method, tuned, tmp_path):
    module = pt_graph.wrap(network(dropout=0.2), method, classes=CLASSES, frozen_mode="dropout")
    before, start = frozen(module), accuracy(module)
    assert {name.removeprefix("method.") for name in module.state_dict()} == {*tuned, "head.0.weight", "head.0.bias"}
    graphs, labels = shapes()
    optimiser = torch.optim.Adam(module.parameters(), lr=0.05)
    module.train()
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(module(graphs), labels).backward()
        optimiser.step()
    assert accuracy(module) > max(0.8, start)
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen(module).items())
    assert not module.method.backbone.module.training
    module.save(tmp_path / "tuned", {"accuracy": accuracy(module)})
    predictor = pt_graph.load(tmp_path / "tuned", backbone=network(dropout=0.2), device="cpu")
    with torch.no_grad():
        assert torch.equal(predictor.module().eval()(graphs), module.eval()(graphs))
    found = predictor.predict([data("shapes")["val"].graphs[4]])
    assert found[0]["predicted"] == CLASSES[int(module(shapes("val")[0]).argmax(-1)[4])]
    with pytest.raises(BackboneMismatch, match="in another network"):
        pt_graph.load(tmp_path / "tuned", backbone=network(act="elu"))


def test_copies_share_the_frozen_network():
    module = pt_graph.wrap(network(), "gpf", classes=2)
    other, (graphs, _) = copy.deepcopy(module), shapes()
    assert other.method.backbone is module.method.backbone
    with torch.no_grad():
        assert torch.equal(other(graphs), module(graphs))
        other.method.prompt.add_(1)
        assert not torch.equal(other(graphs), module(graphs))


@pytest.mark.parametrize("method", ["gpf", "gpf_plus", "supt", "linear", "full", "all_in_one"])
def test_it_moves_as_one(method):
    options = {"mode": "light", "tokens": 3} if method == "all_in_one" else {}
    graphs, _ = shapes()
    want = pt_graph.wrap(network(), method, classes=2, **options)(graphs)
    assert want.shape == (len(graphs), 2)
    graphs.x = graphs.x.double()
    double = pt_graph.wrap(network(), method, classes=2, **options).double()
    assert {p.dtype for p in [*double.parameters(), *double.method.backbone.module.parameters()]} == {torch.float64}
    found = double(graphs)
    assert found.dtype == torch.float64
    close(found.float(), want, 1e-4)
    graphs.x = graphs.x.bfloat16()
    low = pt_graph.wrap(network(), method, classes=2, **options).bfloat16()(graphs)
    assert low.dtype == torch.bfloat16
    close(low.float(), want, 0.1)


def test_every_way_to_call_it_is_the_same():
    module = pt_graph.wrap(network(), "gpf", classes=2)
    graphs, labels = shapes()
    want = module(graphs)
    owner = graphs.batch
    for found in (
        module(graphs.x, graphs.edge_index, owner),
        module(graphs.x, graphs.edge_index, batch=owner),
        module(x=graphs.x, edge_index=graphs.edge_index, batch=owner),
        module(pt_graph.from_pyg(graphs.to_data_list()).collate([*range(21)], data("shapes")["train"].graphs).inputs),
    ):
        assert torch.equal(found, want)
    shuffled = torch.randperm(graphs.edge_index.shape[1], generator=torch.Generator().manual_seed(0))
    close(module(graphs.x, graphs.edge_index[:, shuffled], owner), want)
    close(module(graphs[2]), want[2:3])
    loss = module(graphs, labels=labels % 2)
    close(loss["loss"], F.cross_entropy(want, labels % 2))


def test_molecular_networks_read_atoms_and_bonds():
    module = pt_graph.wrap(molecular().module, "gpf", classes=2)
    graphs = batch("molecules").inputs
    want = module(graphs)
    assert torch.equal(module(graphs.x, graphs.edge_index, graphs.edge_attr, graphs.graph), want)
    assert torch.equal(module(Data(graphs.x, graphs.edge_index, graphs.edge_attr, batch=graphs.graph)), want)
    with pytest.raises(UserError, match="reads atoms and bonds"):
        module(graphs.x, graphs.edge_index, graphs.graph)


def test_calls_that_make_no_graphs_are_refused():
    module, (graphs, _) = pt_graph.wrap(network(), "gpf", classes=2), shapes()
    x, edges, owner = graphs.x, graphs.edge_index, graphs.batch
    for call, message in (
        (lambda: module(x), "give a PyG Data"),
        (lambda: module(Data()), "a Data has no x and edge_index"),
        (lambda: module(x, edges, edge_weight=x), "take no edge_weight"),
        (lambda: module(x, edges, owner, batch=owner), "take batch once"),
        (lambda: module(x, edges, edge_attr=edges.T), "networks of float features take none"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(DataError, match="nodes of one graph next to each other"):
        module(x, edges, owner.flip(0))
    with pytest.raises(DataError, match="an edge joins nodes of two graphs"):
        module(x, torch.tensor([[0], [len(x) - 1]]), owner)
    with pytest.raises(UserError, match="reads width 5"):
        module(x[:, :3], edges, owner)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (lambda: torch.nn.Linear(2, 2), "no adapter for a Linear; it takes PyG's GCN"),
        (lambda: GCN(-1, 8, 2), "in_channels=-1 of this GCN is no width"),
        (lambda: GIN(5, 8, 2, norm="graph_norm"), "this GIN: inside its layers PyG's GIN normalises over all graphs"),
        (lambda: GAT(5, 8, 2, edge_dim=3), "this GAT: it reads attributes of edges"),
    ],
)
def test_networks_without_an_adapter_are_named(net, message):
    with pytest.raises(UserError, match=message):
        pt_graph.wrap(net(), "gpf", classes=2)


@pytest.mark.parametrize("method", ["relief", "all_in_one", "gppt", "graph_prompt"])
def test_methods_that_need_fit_say_so(method):
    with pytest.raises(UserError, match="train it with `fit`"):
        pt_graph.wrap(network(), method, classes=3)
