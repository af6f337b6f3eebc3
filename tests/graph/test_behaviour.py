"""Graph networks of equal tensors that compute something else are told apart, and an artifact refuses them saying so."""

from __future__ import annotations

import copy

import pt_graph
import pytest
import torch
from pt_core.errors import BackboneMismatch
from pt_graph.graphs.batch import collate
from pt_graph.networks.adapt import adapt
from pt_graph.networks.backbone import GraphBackbone
from pt_graph.networks.molecular import KINDS, MolecularGNN
from pt_graph.networks.plain import PlainGNN
from pt_graph.networks.probe import probe_graphs
from torch_geometric.nn import models

from tests.graph.methods.common import close, molecular, plain, randomise

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

PNA = {"aggregators": ["mean", "max"], "scalers": ["identity", "amplification"], "deg": torch.tensor([1, 3, 2])}


def of_pyg(name, **settings):
    return adapt(randomise(getattr(models, name)(5, 8, 2, **settings), 0), f"pyg:{name}")


def of_plain(**settings):
    return GraphBackbone(randomise(PlainGNN("gin", [5, 8, 8], **settings), 0), "plain")


def of_molecular(eps=1e-5, kind="gin"):
    backbone = molecular(kind=kind)
    for norm in backbone.module.batch_norms:
        norm.eps = eps
    return backbone


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda: of_plain(), lambda: of_plain(activation="relu")),
        (lambda: of_plain(), lambda: of_plain(eps=0.1)),
        (lambda: of_molecular(), lambda: of_molecular(eps=1e-2)),
        (lambda: of_pyg("GCN"), lambda: of_pyg("GCN", act="elu")),
        (lambda: of_pyg("GCN"), lambda: of_pyg("GCN", add_self_loops=False)),
        (lambda: of_pyg("GCN"), lambda: of_pyg("GCN", normalize=False)),
        (lambda: of_pyg("GraphSAGE"), lambda: of_pyg("GraphSAGE", aggr="max")),
        (lambda: of_pyg("GraphSAGE"), lambda: of_pyg("GraphSAGE", aggr="sum")),
        (lambda: of_pyg("GraphSAGE"), lambda: of_pyg("GraphSAGE", flow="target_to_source")),
        (lambda: of_pyg("GAT"), lambda: of_pyg("GAT", negative_slope=0.3)),
        (
            lambda: of_pyg("GCN", norm="batch_norm"),
            lambda: of_pyg("GCN", norm="batch_norm", norm_kwargs={"eps": 0.01}),
        ),
        (lambda: of_pyg("GCN", norm="batch_norm"), lambda: of_pyg("GCN", norm="batch_norm", act_first=True)),
        (lambda: of_pyg("GCN", jk="last"), lambda: of_pyg("GCN", jk="max")),
    ],
)
def test_equal_tensors_in_another_network_are_told_apart(one, other, tmp_path):
    first, second = one(), other()
    assert first.fingerprint().exact == second.fingerprint().exact
    assert first.fingerprint().compare(second.fingerprint()) == "behaviour"
    assert one().fingerprint().compare(first.fingerprint()) == "same"
    pt_graph.wrap(first, "gpf", classes=2).save(tmp_path / "tuned")
    assert pt_graph.load(tmp_path / "tuned", backbone=one(), device="cpu").notes == []
    with pytest.raises(BackboneMismatch, match="in another network: features of a fixed probe differ by"):
        pt_graph.load(tmp_path / "tuned", backbone=second)


@pytest.mark.parametrize("kind", KINDS)
def test_a_molecular_network_is_not_one_of_another_kind(kind):
    low = molecular(kind=kind).to("cpu", torch.bfloat16)
    assert molecular(kind=kind).fingerprint().compare(low.fingerprint()) == "recast"
    for other in KINDS:
        found = molecular(kind=kind).fingerprint().compare(molecular(kind=other).fingerprint())
        shared = {kind, other} == {"gcn", "graphsage"}  # whose tensors are the same
        assert found == ("same" if kind == other else "behaviour" if shared else "different")


@pytest.mark.parametrize("make", [plain, lambda: of_pyg("GAT"), lambda: of_pyg("PNA", **PNA), of_molecular])
def test_a_copy_in_another_precision_is_a_copy(make):
    for dtype in (torch.bfloat16, torch.float16):
        assert make().fingerprint().compare(make().to("cpu", dtype).fingerprint()) == "recast"


def test_the_built_in_network_behaves_as_when_it_was_loaded_first():
    one, other = (pt_graph.load_backbone("builtin:gin_molecules").fingerprint() for _ in range(2))
    assert one.behaviour == other.behaviour
    assert len(one.behaviour) == 64


def test_meta_networks_and_the_generators_are_left_alone():
    with torch.device("meta"):
        assert GraphBackbone(MolecularGNN("gin", 8, 2), "meta").behaviour() is None
    state = torch.get_rng_state()
    plain().fingerprint()
    assert torch.equal(torch.get_rng_state(), state)


def test_the_probe_is_asymmetric_with_a_loop_a_repeated_edge_and_a_node_without_neighbours():
    graphs = probe_graphs(4)
    pairs = list(map(tuple, graphs.edge_index.T.tolist()))
    assert any(a == b for a, b in pairs)
    assert len(set(pairs)) == len(pairs) - 1
    assert any((b, a) not in pairs for a, b in pairs)
    assert set(range(graphs.nodes)) - {b for _, b in pairs} == {7}
    assert bool((graphs.x > 0).any())
    assert bool((graphs.x < 0).any())
    atoms = probe_graphs(None)
    assert atoms.x.dtype == torch.int64
    assert atoms.edge_attr[:, 0].max() == 3


def test_rounding_of_another_order_is_no_other_behaviour():
    """As another processor or kernel would add it up."""
    backbone = copy.deepcopy(of_molecular())
    graphs = backbone.probe()
    parts = [backbone.probe_features(one) for one in graphs.split()]
    close(torch.cat(parts), backbone.probe_features(collate(list(graphs.split()))))
