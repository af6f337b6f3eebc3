"""Frozen networks: each layer by its formula, fast sums against the plain reference, weight files, and the sites of the backbone."""

from __future__ import annotations

import json
import math
import pickle

import pytest
import torch
from pt_core import Add, Replace
from pt_core.errors import UserError
from pt_core.kernels import reference_kernels
from pt_graph.backbones import list_backbones, load_backbone
from pt_graph.graphs.batch import collate, single
from pt_graph.networks.backbone import GraphBackbone
from pt_graph.networks.molecular import KINDS, MolecularGNN
from pt_graph.networks.plain import PlainGNN
from pt_graph.networks.saved import load_network, save_network
from safetensors.torch import save_file
from torch.nn import functional as F

from tests.graph.methods.common import batch, close, molecular, plain, randomise


def mol():
    """Two molecules with rings, a double bond and directions."""
    return batch("molecules", 0, 1).inputs


def neighbours(graphs, node):
    """(source, bond, direction) of the edges into a node, its self-loop last."""
    rows = (graphs.edge_index[1] == node).nonzero().flatten().tolist()
    found = [(int(graphs.edge_index[0, r]), int(graphs.edge_attr[r, 0]), int(graphs.edge_attr[r, 1])) for r in rows]
    return [*found, (node, 4, 0)]


def slow(net: MolecularGNN, graphs):
    """The card's layers, node by node."""
    h = net.x_embedding1.weight[graphs.x[:, 0]] + net.x_embedding2.weight[graphs.x[:, 1]]
    near = [neighbours(graphs, node) for node in range(graphs.nodes)]
    degree = [len(one) for one in near]
    for number, (conv, norm) in enumerate(zip(net.gnns, net.batch_norms, strict=True)):
        e = lambda bond, way, conv=conv: conv.edge_embedding1.weight[bond] + conv.edge_embedding2.weight[way]  # noqa: E731
        rows = []
        if net.kind == "gin":
            rows = [conv.mlp(sum(h[j] + e(b, d) for j, b, d in near[i])) for i in range(graphs.nodes)]
        elif net.kind in ("gcn", "graphsage"):
            z = conv.linear(h)
            for i in range(graphs.nodes):
                weight = {
                    j: 1 / math.sqrt(degree[i] * degree[j]) if net.kind == "gcn" else 1 / degree[i]
                    for j, _, _ in near[i]
                }
                row = sum(weight[j] * (z[j] + e(b, d)) for j, b, d in near[i])
                rows.append(row if net.kind == "gcn" else row / row.norm())
        else:
            z = conv.weight_linear(h).view(-1, 2, net.dim)
            for i in range(graphs.nodes):
                values = [z[j] + e(b, d).view(2, net.dim) for j, b, d in near[i]]
                scores = torch.stack(
                    [F.leaky_relu((torch.cat([z[i], v], -1) * conv.att[0]).sum(-1), 0.2) for v in values]
                )
                rows.append((scores.softmax(0)[..., None] * torch.stack(values)).sum(0).mean(0) + conv.bias)
        h = (torch.stack(rows) - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
        h = F.relu(h) if number < net.depth - 1 else h
    return h


@pytest.mark.parametrize("kind", KINDS)
def test_layers_follow_the_formulas(kind):
    backbone = molecular(1, kind)
    with torch.no_grad():
        close(backbone.nodes(mol()), slow(backbone.module, mol()))


@pytest.mark.parametrize("kind", KINDS)
def test_fast_sums_equal_the_reference_with_gradients(kind):
    backbone, graphs = molecular(1, kind), mol()
    found = []
    for context in (None, reference_kernels()):
        prompt = torch.zeros(graphs.nodes, 8, requires_grad=True)
        fresh = graphs.select_rows([0, 1])
        if context is None:
            nodes = backbone.nodes(fresh, {"input": Add(lambda x, _, p=prompt: p)})
            nodes.square().sum().backward()
        else:
            with context:
                nodes = backbone.nodes(fresh, {"input": Add(lambda x, _, p=prompt: p)})
                nodes.square().sum().backward()
        found.append((nodes.detach(), prompt.grad))
    close(found[0][0], found[1][0])
    close(found[0][1], found[1][1])


def test_sums_have_second_derivatives():
    backbone, graphs = molecular(1, "gcn"), mol()
    backbone.to("cpu", torch.float64)

    def energy(x):
        return backbone.module(x, graphs.structure).sum(0).square()[:2]

    x = backbone.embed(graphs).x[:, :].detach().requires_grad_()
    (first,) = torch.autograd.grad(energy(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), x)
    step = 1e-5 * torch.randn(x.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = (x + step).detach().requires_grad_()
    (after,) = torch.autograd.grad(energy(moved).sum(), moved)
    assert float((after.square().sum() - first.square().sum()).detach()) == pytest.approx(
        float((second * step).sum()), rel=1e-2
    )


@pytest.mark.parametrize("kind", ["gin", "gcn", "sage", "gat"])
def test_plain_networks_are_pygs(kind, tmp_path):
    """The same state dict in PyG's own model gives the same embeddings."""
    from torch_geometric.nn import models

    names = {"gin": "GIN", "gcn": "GCN", "sage": "GraphSAGE", "gat": "GAT"}
    torch.manual_seed(0)
    theirs = getattr(models, names[kind])(5, 6, num_layers=3, out_channels=4, dropout=0.5).eval()
    torch.save(theirs.state_dict(), tmp_path / "w.pt")
    backbone = load_backbone(f"pyg:{names[kind]}", tmp_path / "w.pt")
    graphs = batch("shapes").inputs
    with torch.no_grad():
        close(backbone.nodes(graphs), theirs(graphs.x, graphs.edge_index))
    assert (backbone.prompt_dim, backbone.dim, backbone.depth) == (5, 4, 3)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("GCN,norm=batch_norm,jk=cat", {"norm": "batch_norm", "jk": "cat"}),
        ("GAT,heads=2,v2=true,act=elu,norm=layer_norm", {"heads": 2, "v2": True, "act": "elu", "norm": "layer_norm"}),
        ("GIN,norm=batch_norm,dropout=0.5", {"norm": "batch_norm", "dropout": 0.5}),
        ("GraphSAGE,jk=lstm,aggr=max", {"jk": "lstm", "aggr": "max"}),
        ("EdgeCNN", {}),
        (
            "PNA,aggregators=mean+max,scalers=identity+amplification",
            {"aggregators": ["mean", "max"], "scalers": ["identity", "amplification"]},
        ),
    ],
)
def test_any_model_of_pyg_loads_with_its_arguments(text, settings, tmp_path):
    """Norms, jumping knowledge and the rest are PyG's own; a graph's embedding does not depend on the batch it is in."""
    from torch_geometric.nn import models

    torch.manual_seed(0)
    name = text.split(",")[0]
    more = {"deg": torch.tensor([0, 3, 9, 4])} if name == "PNA" else {}
    theirs = randomise(getattr(models, name)(5, 6, num_layers=3, out_channels=4, **settings, **more), 1).eval()
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    spec = f"pyg:{name},in_channels=5,hidden_channels=6,out_channels=4" + text[len(name) :]
    backbone = load_backbone(spec, tmp_path / "w.safetensors")
    graphs = batch("shapes").inputs
    with torch.no_grad():
        together = backbone.nodes(graphs)
        close(together, theirs(graphs.x, graphs.edge_index, batch=graphs.graph))
        close(together[: graphs.sizes[0]], backbone.nodes(graphs.select_rows([0])))
    assert (backbone.prompt_dim, backbone.dim, backbone.depth) == (5, 4, 3)
    with pytest.raises(UserError, match="does not fit|has shape"):
        load_backbone(spec.replace("hidden_channels=6", "hidden_channels=8"), tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("pyg:GNN,in_channels=5", "no PyG model 'GNN'.*known: EdgeCNN, GAT"),
        ("pyg:GCN,in_channels=5", "needs hidden_channels"),
        ("pyg:GCN,5", "'5' in pyg:GCN,5 is not NAME=VALUE"),
        ("pyg:GCN,in_channels=5,hidden_channels=6,nrom=batch_norm", "PyG's GCN refuses"),
        ("pyg:GCN,in_channels=5,hidden_channels=6,norm=bath_norm", "PyG's GCN refuses"),
        ("pyg:GIN,in_channels=5,hidden_channels=6,norm=graph_norm", "would depend on its neighbours"),
    ],
)
def test_arguments_that_pyg_refuses_are_named(spec, message, tmp_path):
    save_file({"convs.0.bias": torch.zeros(6)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        load_backbone(spec, tmp_path / "w.safetensors")


def test_published_size():
    with torch.device("meta"):
        count = sum(p.numel() for name, p in MolecularGNN("gin").named_parameters())
    d = 300
    assert count == 120 * d + 3 * d + 5 * ((2 * d * d + 2 * d) + (2 * d * d + d) + 9 * d + 2 * d) == 1_857_900


def test_a_prefix_of_a_batch_is_its_first_graphs():
    backbone, graphs = molecular(2, "gcn"), batch().inputs
    graphs = graphs.select_rows(torch.argsort(graphs.sizes, descending=True).tolist())
    with torch.no_grad():
        whole = backbone.nodes(graphs)
        part = graphs.prefix(3)
        close(backbone.nodes(part), whole[: part.nodes])
        assert part.structure is not graphs.structure
        for name, own in part.structure.view("more")._sparse.items():
            fresh = graphs.select_rows([0, 1, 2]).structure.view("more")._matrix("symmetric_out", torch.float32)
            if name.startswith("symmetric_out") and name.endswith("False"):
                close(own.to_dense(), fresh.to_dense())


def test_graphs_split_and_join():
    graphs = batch().inputs
    again = collate(list(graphs.split()))
    for name in ("x", "edge_index", "edge_attr", "sizes", "edge_counts"):
        assert torch.equal(getattr(again, name), getattr(graphs, name))
    picked = graphs.select_rows([2, 0])
    assert picked.sizes.tolist() == [graphs.sizes[2], graphs.sizes[0]]
    close(graphs.mean(graphs.x.float())[2], next(iter(picked.split())).x.float().mean(0))


# ---- the backbone's sites and checks -----------------------------------------------------------------------------------------------


def test_sites():
    backbone, graphs = plain(1), batch("shapes").inputs
    with torch.no_grad():
        moved = backbone.nodes(graphs, {"input": Add(lambda x, _: torch.ones(5))})
        close(moved, backbone.nodes(graphs.with_x(graphs.x + 1)))
        doubled = backbone(graphs, {"features": Replace(lambda h, layout: 2 * h[:, : layout.count("node")])}).tokens
        close(doubled, 2 * backbone.nodes(graphs))
    with pytest.raises(UserError, match="has no site 'inputs'.*did you mean 'input'"):
        backbone(graphs, {"inputs": Add(lambda x, _: x)})


def test_inputs_of_another_kind():
    with pytest.raises(UserError, match="reads float node features"):
        plain().nodes(mol())
    with pytest.raises(UserError, match="node features have width 5, 'tiny:gin' reads width 8"):
        molecular().nodes(batch("shapes").inputs.with_x(batch("shapes").inputs.x))
    empty = single(torch.zeros(0, 5), torch.zeros(2, 0))
    with pytest.raises(UserError, match="has no nodes"):
        plain().nodes(empty)


def test_dropout_is_on_inside_its_context_only():
    backbone, graphs = molecular(1), mol()
    quiet = backbone.nodes(graphs)
    with backbone.dropout():
        assert not torch.equal(backbone.nodes(graphs), quiet)
        with backbone.dropout(False):
            assert torch.equal(backbone.nodes(graphs), quiet)
    assert torch.equal(backbone.nodes(graphs), quiet)


# ---- weight files ---------------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_of_the_family_in_every_form(tmp_path):
    net = randomise(MolecularGNN("gcn", 12, 3), 4)
    torch.save(net.state_dict(), tmp_path / "a.pth")
    save_file(net.state_dict(), tmp_path / "a.safetensors")
    torch.save({"state_dict": {f"gnn.{k}": v for k, v in net.state_dict().items()}}, tmp_path / "b.pth")
    want = GraphBackbone(net, "x").nodes(mol())
    for name in ("a.pth", "a.safetensors", "b.pth"):
        backbone = load_backbone("chem:gcn", tmp_path / name)
        assert (backbone.depth, backbone.dim) == (3, 12)
        assert torch.equal(backbone.nodes(mol()), want)


def test_weights_that_do_not_fit(tmp_path):
    state = MolecularGNN("gcn", 12, 2).state_dict()
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    with pytest.raises(UserError, match="does not hold chem:gin weights; its tensors are those of gcn or graphsage"):
        load_backbone("chem:gin", file)
    save_file({k: v for k, v in state.items() if k != "gnns.1.linear.bias"}, file)
    with pytest.raises(UserError, match="missing \\['gnns.1.linear.bias'\\]"):
        load_backbone("chem:gcn", file)
    save_file({**state, "gnns.0.linear.bias": torch.full((12,), torch.nan)}, file)
    with pytest.raises(UserError, match="gnns.0.linear.bias is not finite"):
        load_backbone("chem:gcn", file)
    save_file({**state, "gnns.0.linear.bias": torch.zeros(5)}, file)
    with pytest.raises(UserError, match=r"has shape \(5,\), the network has \(12,\)"):
        load_backbone("chem:gcn", file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(UserError, match="no checkpoint of the molecular family"):
        load_backbone("chem:gcn", file)
    with pytest.raises(UserError, match="only convs"):
        load_backbone("pyg:GCN", file)
    with pytest.raises(UserError, match="not written by `pt-graph pretrain`"):
        load_backbone(f"file:{file}")
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match="no readable weight file"):
        load_backbone("chem:gcn", file)


class Evil:
    def __reduce__(self):
        return (open, ("evil", "w"))


def test_pickled_code_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "w.pth").open("wb") as handle:
        pickle.dump({"x": Evil()}, handle)
    with pytest.raises(UserError, match="cannot be read as plain tensors|no readable weight file"):
        load_backbone("chem:gcn", tmp_path / "w.pth")
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("spec", "weights", "message"),
    [
        ("chem:gcm", None, "did you mean 'gcn'"),
        ("chem:gcn", None, "needs its pretrained weights"),
        ("chem:gcn", "missing.pth", "missing.pth does not exist"),
        ("pyg:GCN2", "x.pt", "did you mean 'GCN'"),
        ("pyg:GCN:rely", "x.pt", "did you mean 'relu'"),
        ("builtin:gin_molecule", None, "did you mean 'gin_molecules'"),
        ("builtin:gin_molecules", "w.pth", "brings its own weights"),
        ("timm:vit", None, "of no known kind"),
        ("chem:", None, "of no known kind"),
    ],
)
def test_specs(spec, weights, message):
    with pytest.raises(UserError, match=message):
        load_backbone(spec, weights)


def test_the_builtin_network_knows_how_it_was_made():
    backbone = load_backbone("builtin:gin_molecules")
    assert "builtin:gin_molecules" in dict(list_backbones())
    assert backbone.dim == 64
    from pt_graph.backbones import ASSETS

    card = json.loads((ASSETS / "gin_molecules.json").read_text())
    assert card["recipe"]["objective"] == "attribute_masking"
    assert card["losses"][0] > 2 * card["lowest_loss"]
    assert (ASSETS / "gin_molecules.safetensors").stat().st_size < 1_000_000
    assert bool(backbone.nodes(mol()).isfinite().all())


@pytest.mark.parametrize(
    "net", [MolecularGNN("gat", 6, 2), PlainGNN("sage", [5, 4, 3]), PlainGNN("gat", [5, 4], heads=[2])]
)
def test_written_networks_come_back(net, tmp_path):
    for p in net.parameters():
        p.data = p.data.half().float()
    save_network(net, tmp_path / "n.safetensors", {"note": 1})
    again = load_network(tmp_path / "n.safetensors")
    assert type(again) is type(net)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    "description",
    [{"family": "evil"}, {"family": "molecular", "kind": "gin", "dim": 10**9, "layers": 2, "dropout": 0.1}, {}, [1]],
)
def test_descriptions_are_checked(description, tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "n.safetensors", {"pt_graph": json.dumps(description)})
    with pytest.raises(UserError, match="names no network of pt-graph"):
        load_network(tmp_path / "n.safetensors")
