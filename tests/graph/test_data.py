"""Data in: molecules from tables, arrays, PyG, nodes as graphs; targets with missing labels; splits and shots; what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pt_core.errors import DataError, UserError
from pt_core.run.data.sampling import SubsetDataset
from pt_graph.data.arrays import save_graphs
from pt_graph.data.chem import BadMolecule, featurise, scaffolds
from pt_graph.data.division import scaffold_split
from pt_graph.data.inputs import input_graphs
from pt_graph.data.load import load_graphs
from pt_graph.data.molecules import Molecule, generate, molecule_data
from pt_graph.data.nodes import balls
from pt_graph.data.pyg import from_pyg
from pt_graph.options import DataOptions, PredictOptions

from tests.graph.methods.common import batch, data

SMILES = [
    "CCO",
    "c1ccccc1C(=O)O",
    "C[C@H](N)O",
    "F/C=C/F",
    "CC(C)C#N",
    "c1ccncc1",
    "C1CCCCC1",
    "CCN",
    "OCC",
    "Clc1ccccc1",
]


def table(path, text):
    path.write_text(text)
    return str(path)


# ---- molecules -----------------------------------------------------------------------------------------------------------------------


def test_featurisation():
    graph = featurise("F/C=C/Cl")
    assert graph.x[:, 0].tolist() == [8, 5, 5, 16]  # atomic number - 1
    edges = list(zip(graph.edge_index.T.tolist(), graph.edge_attr.tolist(), strict=True))
    assert edges[0] == ([0, 1], [0, 1])  # single, up-right
    assert edges[1] == ([1, 0], [0, 1])
    assert edges[2] == ([1, 2], [1, 0])  # double
    assert featurise("c1ccccc1").edge_attr[:, 0].unique().tolist() == [3]
    assert featurise("CC#N").edge_attr[2:, 0].tolist() == [2, 2]
    assert sorted({int(featurise(s).x[1, 1]) for s in ("C[C@H](N)O", "C[C@@H](N)O")}) == [1, 2]
    assert featurise("[Na]").edge_index.shape == (2, 0)


@pytest.mark.parametrize(("text", "why"), [("C*C", "wildcard"), ("xyz", "no valid SMILES"), ("", "no valid SMILES")])
def test_molecules_that_cannot_be_read(text, why):
    with pytest.raises(BadMolecule, match=why):
        featurise(text)


def test_bad_rows_are_listed_or_left_out(tmp_path):
    spec = table(tmp_path / "m.csv", "smiles,y\nCCO,1\nnonsense,0\nCCN,0\nC*,1\n" + "".join(f"{s},0\n" for s in SMILES))
    with pytest.raises(
        DataError,
        match=r"2 of 14 molecules.*row 3 \('nonsense'\) is no valid SMILES; row 5 \('C\*'\) has a wildcard.*--skip-bad",
    ):
        load_graphs(spec)
    parts = load_graphs(spec, DataOptions(skip_bad=True))
    assert sum(len(part) for part in parts.values()) == 12
    assert "2 of 14 molecules cannot be read" in parts["train"].notes[0]


def test_missing_labels_are_zero(tmp_path):
    spec = table(tmp_path / "m.csv", "smiles,a,b,split\nCCO,1,,train\nCCN,0,1,train\nCCC,,,val\nCC,1.0,0.0,test\n")
    parts = load_graphs(spec)
    assert parts["train"].tasks == ["a", "b"]
    assert parts["train"].notes == ("train: a 1 yes, 1 no, 0 missing; b 1 yes, 0 no, 1 missing",)
    assert parts["train"].targets.tolist() == [[1, 0], [-1, 1]]
    assert parts["val"].targets.tolist() == [[0, 0]]
    assert {role: len(part) for role, part in parts.items()} == {"train": 2, "val": 1, "test": 1}
    one = load_graphs(spec, DataOptions(label_columns=("b",)))["train"]
    assert one.targets.tolist() == [[0], [1]]


def test_a_class_column(tmp_path):
    spec = table(tmp_path / "m.tsv", "mol\tkind\n" + "".join(f"{s}\t{'ab'[i % 2]}\n" for i, s in enumerate(SMILES)))
    part = load_graphs(spec, DataOptions(split="random"))["train"]
    assert (list(part.classes), part.labels[:2]) == (["a", "b"], [0, 1])


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("smiles,y\nCC,2.5\n", {}, "value 2.5.*regression is not supported"),
        ("molecule_smiles,y\nCC,1\n", {}, "no column smiles.*--smiles-column"),
        ("smiles,y\nCC,1\n", {"smiles_column": "smile"}, "did you mean 'smiles'"),
        ("smiles,tox\nCC,1\n", {"label_columns": ("toxx",)}, "did you mean 'tox'"),
        ("smiles,y,split\nCC,1,trian\n", {}, "division of row 1 is 'trian'"),
        ("smiles,a,b\nCC,x,y\n", {}, "choose one with --label-columns"),
    ],
)
def test_tables_that_do_not_fit(text, options, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_graphs(table(tmp_path / "m.csv", text), DataOptions(**options))


def test_scaffold_split_is_by_size_and_order():
    names = ["a", "b", "a", "c", "d", "a", "b", "e", "f", "g"]
    parts, _ = scaffold_split(names)
    assert parts["train"] == [0, 2, 5, 1, 6, 9, 8, 7]  # size, then first index, largest first
    assert parts["val"] == [4]
    assert parts["test"] == [3]
    assert scaffold_split(names)[0] == parts
    assert scaffolds(["CCO", "Cc1ccccc1"]) == ["", "c1ccccc1"]


def test_undivided_molecules_are_divided_by_scaffold(tmp_path):
    spec = table(tmp_path / "m.csv", "smiles,y\n" + "".join(f"{s},{i % 2}\n" for i, s in enumerate(SMILES)))
    parts = load_graphs(spec)
    assert [len(parts[role]) for role in ("train", "val", "test")] == [8, 1, 1]
    assert "Bemis-Murcko" in parts["train"].notes[0]
    assert list(load_graphs(spec, DataOptions(split="random"))) == ["train"]


# ---- shots, subsets, identity -----------------------------------------------------------------------------------------------------------


def test_total_shots_follow_the_seed():
    first, again, other = (
        load_graphs("builtin:molecules", DataOptions(total_shots=20), seed)["train"] for seed in (0, 0, 1)
    )
    assert first.ids == again.ids != other.ids
    assert len(first) == 20
    more = load_graphs("builtin:molecules", DataOptions(total_shots=30), 0)["train"]
    assert set(first.ids) < set(more.ids)
    with pytest.raises(DataError, match="--total-shots 1000 is more than the training part has"):
        load_graphs("builtin:molecules", DataOptions(total_shots=1000))
    assert len(load_graphs("builtin:molecules", DataOptions(max_test=7, max_val=5))["test"]) == 7


def test_subsets_keep_targets_and_content():
    part = data("molecules")["train"]
    subset = SubsetDataset(part, [3, 1])
    assert torch.equal(subset.target([1]), part.targets[[1]])
    assert subset.digests() == [part.digests()[3], part.digests()[1]]
    assert part.identity() == replace(part, notes=("other",)).identity()
    assert part.identity() != part.subset([0, 1]).identity()
    assert torch.equal(batch().target, data("molecules")["val"].targets)


def test_classes_are_renamed():
    part = data("shapes")["train"]
    renamed = part.relabel(["star", "path", "ring"])
    assert [renamed.classes[label] for label in renamed.labels] == [part.classes[label] for label in part.labels]
    with pytest.raises(DataError, match="'star'"):
        part.relabel(["path", "ring"])


# ---- arrays -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["molecules", "shapes"])
def test_saved_graphs_come_back(kind, tmp_path):
    save_graphs(data(kind), tmp_path / "g.npz")
    parts = load_graphs(str(tmp_path / "g.npz"))
    for role, part in data(kind).items():
        again = parts[role]
        assert again.digests() == part.digests()
        assert again.tasks is None if part.tasks is None else list(again.tasks) == list(part.tasks)
        assert again.labels == part.labels
        assert part.targets is None or torch.equal(again.targets, part.targets)


def small():
    return {
        "node_ptr": np.array([0, 3, 5]),
        "edge_ptr": np.array([0, 2, 4]),
        "edge_index": np.array([[0, 1, 0, 1], [1, 0, 1, 0]]),
        "node_label": np.array([0, 1, 2, 0, 0]),
        "y": np.array([1, 0]),
    }


def test_mat_files_and_missing_features(tmp_path):
    from scipy.io import savemat

    savemat(tmp_path / "g.mat", small())
    part = load_graphs(str(tmp_path / "g.mat"))["train"]
    assert part.graphs[0].x.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert (part.labels, part.classes) == ([1, 0], ["0", "1"])
    np.savez(tmp_path / "g.npz", **{**small(), "node_label": np.zeros(5, dtype=int)})
    degrees = load_graphs(str(tmp_path / "g.npz"))["train"].graphs[0].x
    assert degrees.argmax(1).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": np.array([[0, 4, 0, 1], [1, 0, 1, 0]])}, "outside their graph"),
        ({"node_ptr": np.array([0, 3, 3])}, "do not fit together"),
        ({"edge_ptr": np.array([0, 2])}, "do not fit together"),
        ({"y": np.array([1, 0, 1])}, "y has 3 rows for 2 graphs"),
        ({"y": np.array([0.5, 1.0])}, "value 0.5"),
        ({"x": np.array([[0.0], [np.nan], [0], [0], [0]])}, "not finite"),
        ({"edge_attr": np.full((4, 2), 9), "x": np.zeros((5, 2), dtype=int)}, "bond types 0..5"),
        ({"edge_attr": np.zeros((4, 2), dtype=int), "x": np.full((5, 2), 500)}, "atomic number - 1 in 0..119"),
    ],
)
def test_arrays_that_do_not_fit(change, message, tmp_path):
    np.savez(tmp_path / "g.npz", **{**small(), **change})
    with pytest.raises(DataError, match=message):
        load_graphs(str(tmp_path / "g.npz"))


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "g.npz", node_ptr=np.array([object()], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not readable|no plain arrays"):
        load_graphs(str(tmp_path / "g.npz"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("missing.csv", "does not exist"),
        ("builtin:molecule", "did you mean 'molecules'"),
        ("pyg:TUDatasets/MUTAG", "did you mean 'TUDataset'"),
        ("pyg:TUDataset/../x", "is unknown"),
    ],
)
def test_sources_that_are_not_there(spec, message):
    with pytest.raises(UserError, match=message):
        load_graphs(spec)


def test_files_of_another_kind(tmp_path):
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(UserError, match="of no known kind"):
        load_graphs(str(tmp_path / "a.txt"))


# ---- nodes -------------------------------------------------------------------------------------------------------------------------------


def path_graph(nodes=40):
    here = np.arange(nodes - 1)
    edges = np.concatenate([np.stack([here, here + 1]), np.stack([here + 1, here])], 1)
    return {
        "edge_index": edges,
        "y": np.arange(nodes) % 3,
        "x": np.random.default_rng(0).normal(size=(nodes, 12)).astype("float32"),
    }


def test_a_node_is_the_graph_around_it(tmp_path):
    np.savez(tmp_path / "n.npz", **path_graph())
    parts = load_graphs(str(tmp_path / "n.npz"), DataOptions(hops=2, min_nodes=5, svd_dim=None))
    everything = {name: graph for part in parts.values() for name, graph in zip(part.ids, part.graphs, strict=True)}
    assert len(everything) == 36  # the two at each end have fewer than 5 nodes around them
    graph = everything["node-7"]
    x = torch.from_numpy(path_graph()["x"])
    assert torch.equal(graph.x, x[[7, 5, 6, 8, 9]])  # itself first
    assert sorted(map(tuple, graph.edge_index.T.tolist())) == sorted(
        [(1, 2), (2, 1), (2, 0), (0, 2), (0, 3), (3, 0), (3, 4), (4, 3)]
    )
    assert [len(parts[role]) for role in ("train", "val", "test")] == [18, 9, 9]
    reduced = load_graphs(str(tmp_path / "n.npz"), DataOptions(hops=1, svd_dim=4))["train"]
    assert reduced.graphs[0].x.shape[1] == 4


def test_balls_stop_where_they_grow_too_large():
    edges = path_graph()["edge_index"]
    found = balls(edges, 40, [0, 20], 4, 6)
    assert found[0].tolist() == [0, 1, 2, 3, 4]
    assert found[20] is None


def test_divisions_of_the_file(tmp_path):
    masks = {role: np.zeros((2, 40), dtype=bool) for role in ("train", "val", "test")}
    for number in range(2):
        for role, rows in (("train", range(3, 9)), ("val", range(10, 13)), ("test", range(20, 24))):
            masks[role][number, [row + number for row in rows]] = True
    np.savez(tmp_path / "n.npz", **path_graph(), **{f"{role}_mask": mask for role, mask in masks.items()})
    parts = load_graphs(str(tmp_path / "n.npz"), DataOptions(node_split="file", split_number=1, svd_dim=None))
    assert parts["val"].ids == ["node-11", "node-12", "node-13"]
    with pytest.raises(DataError, match="has 2 divisions"):
        load_graphs(str(tmp_path / "n.npz"), DataOptions(node_split="file", split_number=2, svd_dim=None))
    with pytest.raises(DataError, match="no node has a 2-hop graph of 50 to 300"):
        load_graphs(str(tmp_path / "n.npz"), DataOptions(min_nodes=50, svd_dim=None))
    np.savez(tmp_path / "m.npz", **path_graph())
    with pytest.raises(DataError, match="no division of its own"):
        load_graphs(str(tmp_path / "m.npz"), DataOptions(node_split="file", svd_dim=None))
    np.savez(tmp_path / "w.npz", **{**path_graph(), "x": np.ones((40, 200), dtype="float32")})
    with pytest.raises(DataError, match="--svd-dim 100 needs more than 100 nodes"):
        load_graphs(str(tmp_path / "w.npz"))


# ---- PyG, generated molecules, inputs ----------------------------------------------------------------------------------------------


def test_pyg_data_sets_in_memory():
    from torch_geometric.datasets import FakeDataset

    found = from_pyg(FakeDataset(num_graphs=6, avg_num_nodes=8, num_channels=4, num_classes=3, task="graph"))
    assert len(found) == 6
    assert found.graphs[0].x.shape[1] == 4
    assert set(found.labels) <= set(range(len(found.classes)))


def test_generated_molecules_are_molecules():
    from rdkit import Chem

    for molecule in generate(60, 5):
        made = Chem.RWMol()
        for element in molecule.atoms:
            made.AddAtom(Chem.Atom(element))
        kinds = {"-": "SINGLE", "=": "DOUBLE", "#": "TRIPLE", ":": "AROMATIC"}
        for i, j, kind in molecule.bonds:
            made.AddBond(i, j, getattr(Chem.BondType, kinds[kind]))
            if kind == ":":
                made.GetAtomWithIdx(i).SetIsAromatic(True)
                made.GetAtomWithIdx(j).SetIsAromatic(True)
        Chem.SanitizeMol(made)  # raises where a valence is wrong
        assert molecule.graph().nodes == made.GetNumAtoms()


def test_properties_of_molecules():
    acid = Molecule(
        ["C"] * 6 + ["C", "O", "O"], [(i, (i + 1) % 6, ":") for i in range(6)] + [(0, 6, "-"), (6, 7, "="), (6, 8, "-")]
    )
    acid.owner, acid.part = ["benzene"] * 6 + ["carboxyl"] * 3, [0] * 6 + [1] * 3
    assert acid.properties() == (True, False)
    halide = Molecule(["C", "C", "F"], [(0, 1, "-"), (1, 2, "-")], ["ethyl", "ethyl", "fluorine"], [0, 0, 1])
    assert halide.properties() == (False, True)
    target = molecule_data((300, 10, 10))["train"].targets
    assert (target == 0).float().mean() == pytest.approx(0.1, abs=0.03)
    assert (target > 0).float().mean(0).min() > 0.1


def test_inputs_of_predict(tmp_path):
    spec = table(tmp_path / "m.csv", "smiles\nCCO\nCCN\n")
    found = input_graphs(["CC/C=C/C", spec, batch().inputs], None)
    assert found.ids[:3] == ["CC/C=C/C", "CCO", "CCN"]
    assert len(found) == 3 + len(batch())
    assert found.labels is None
    assert found.targets is None
    with pytest.raises(DataError, match="'hello' is no valid SMILES"):
        input_graphs(["hello"], None)
    with pytest.raises(UserError, match="does not exist"):
        input_graphs(["missing.csv"], PredictOptions())
