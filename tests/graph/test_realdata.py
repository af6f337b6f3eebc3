"""Real molecules, graphs and pretrained networks under $PT_REALDATA."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pt_graph
import pytest
import torch
from pt_graph.backbones import load_backbone
from pt_graph.data.chem import featurise, scaffolds
from pt_graph.data.division import scaffold_split
from pt_graph.data.load import load_graphs
from pt_graph.graphs.batch import collate
from pt_graph.options import DataOptions

pytestmark = pytest.mark.realdata
ROOT = Path(os.environ.get("PT_REALDATA", "."))
EXPECTED = json.loads((Path(__file__).parent / "expected_embeddings.json").read_text())
SETS = {"bbbp": (2039, 1), "bace": (1513, 1), "clintox": (1478, 2), "tox21": (7823, 12)}


@pytest.mark.parametrize("name", EXPECTED["embeddings"])
def test_pretrained_networks_give_the_stored_embeddings(name):
    """The numbers come from the layers written out node by node (tests/graph/test_networks.py), not from this loader."""
    kind = name.split("_")[1]
    backbone = load_backbone(f"chem:{kind}", ROOT / "gnn_weights" / name)
    graphs = collate([featurise(text) for text in EXPECTED["smiles"]])
    with torch.no_grad():
        found = graphs.mean(backbone.nodes(graphs))[:, EXPECTED["dimensions"]]
    want = torch.tensor(EXPECTED["embeddings"][name])
    assert torch.allclose(found, want, rtol=1e-4, atol=2e-4)


def test_networks_pretrained_on_proteins_load():
    backbone = load_backbone("pyg:GCN:leaky_relu", ROOT / "gnn_weights" / "prog_proteins_gcn_graphcl.safetensors")
    part = load_graphs(str(ROOT / "tudataset" / "proteins.npz"))["train"]
    assert (len(part), part.graphs[0].x.shape[1], backbone.dim) == (1113, 3, 128)
    assert bool(backbone.nodes(part.graphs[0]).isfinite().all())


@pytest.mark.parametrize("name", SETS)
def test_molecule_sets(name):
    size, tasks = SETS[name]
    parts = load_graphs(str(ROOT / "moleculenet" / f"{name}_graphs.npz"))
    assert sum(len(part) for part in parts.values()) == size
    assert parts["train"].targets.shape[1] == tasks
    assert abs(len(parts["train"]) - 0.8 * size) < 2


def test_smiles_give_the_stored_graphs_and_splits():
    arrays = load_graphs(str(ROOT / "moleculenet" / "bace_graphs.npz"))
    table = load_graphs(str(ROOT / "moleculenet" / "bace.csv"))
    for role, part in arrays.items():
        assert torch.equal(table[role].targets, part.targets)
        for left, right in zip(table[role].graphs, part.graphs, strict=True):  # atoms are in another order there
            assert sorted(left.x[:, 0].tolist()) == sorted(right.x[:, 0].tolist())
            assert sorted(left.edge_attr[:, 0].tolist()) == sorted(right.edge_attr[:, 0].tolist())
    frame = pd.read_csv(ROOT / "moleculenet" / "bace.csv")
    smiles = [text for number in range(3) for text in frame["smiles"][frame["scaffold_split"] == number]]
    parts, _ = scaffold_split(scaffolds(smiles))
    assert [len(parts[role]) for role in ("train", "val", "test")] == [
        len(table[role]) for role in ("train", "val", "test")
    ]


def test_nodes_of_cora():
    parts = load_graphs(str(ROOT / "planetoid" / "cora.npz"), DataOptions(hops=4, min_nodes=5, max_nodes=150))
    sizes = [graph.nodes for part in parts.values() for graph in part.graphs]
    assert min(sizes) >= 5
    assert max(sizes) <= 150
    assert parts["train"].graphs[0].x.shape[1] == 100


def test_other_graph_sets():
    for name, classes, width in (("mutag", 2, 7), ("imdb_binary", 2, 32)):
        part = load_graphs(str(ROOT / "tudataset" / f"{name}.npz"))["train"]
        assert (len(part.classes), part.graphs[0].x.shape[1]) == (classes, width)
    for name in ("wisconsin", "airports_brazil"):
        parts = load_graphs(str(ROOT / "node_graphs_heterophily" / f"{name}.npz"), DataOptions(hops=1))
        assert len(parts["train"]) > 50


@pytest.mark.slow
def test_a_pretrained_network_beats_a_random_one(tmp_path):
    """A probe on 50 BACE molecules: with a real pretrained GCN, and with one of random weights."""
    from pt_graph.networks.molecular import MolecularGNN
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(MolecularGNN("gcn").state_dict(), tmp_path / "random.safetensors")
    real = str(ROOT / "gnn_weights" / "chem_gcn_supervised_contextpred.safetensors")
    scores = []
    for weights in (real, str(tmp_path / "random.safetensors")):
        own = []
        for seed in range(3):
            options = {
                "total_shots": 200,
                "epochs": 40,
                "seed": seed,
                "quiet": True,
                "backbone": "chem:gcn",
                "weights": weights,
            }
            found = pt_graph.fit(
                "linear",
                data=str(ROOT / "moleculenet" / "bace_graphs.npz"),
                out=tmp_path / f"{len(scores)}-{seed}",
                **options,
            )
            own.append(found.metrics["roc_auc"])
        scores.append(sum(own) / 3)
    assert scores[0] > scores[1]
