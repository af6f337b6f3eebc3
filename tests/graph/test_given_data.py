"""Data as others write them: directed graphs, amounts instead of classes, empty cells, odd arrays, .smi files, molecules without rings."""

from __future__ import annotations

import numpy as np
import pt_graph
import pytest
import torch
from pt_core.errors import ConfigError, DataError, UserError
from pt_graph.data.arrays import save_graphs
from pt_graph.data.division import scaffold_split
from pt_graph.data.inputs import input_graphs
from pt_graph.data.labels import class_labels
from pt_graph.data.load import load_graphs
from pt_graph.data.nodes import balls
from pt_graph.data.pyg import from_pyg
from pt_graph.graphs.batch import Graphs, single
from pt_graph.options import DataOptions, TaskOptions
from pt_graph.tasks.build import task_of
from torch_geometric.data import Data
from torch_geometric.utils import k_hop_subgraph

from tests.graph.methods.common import batch, plain
from tests.graph.test_cli import refused, run

WHOLE = DataOptions(svd_dim=None, hops=2)


def written(path, text):
    path.write_text(text)
    return str(path)


def arrays(path, **values):
    np.savez(path, **values)
    return str(path)


# ---- directed graphs -----------------------------------------------------------------------------------------------------------------


def test_a_node_sees_the_nodes_that_lead_to_it():
    path = np.array([[0, 1, 2, 3], [1, 2, 3, 4]])
    assert {n: sorted(ball.tolist()) for n, ball in balls(path, 5, [0, 2, 4], 2, 9).items()} == {
        0: [0],
        2: [0, 1, 2],
        4: [2, 3, 4],
    }


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_graphs_around_nodes_are_pygs(hops, tmp_path):
    """A directed multigraph with loops: members, features and every edge (repeated ones too) as `k_hop_subgraph` finds them."""
    rng = np.random.default_rng(hops)
    nodes = 30
    edges = rng.integers(0, nodes, (2, 45))
    edges = np.concatenate([edges, edges[:, :5], np.array([[3, 4], [3, 4]])], 1)
    x = rng.normal(size=(nodes, 3)).astype("float32")
    spec = arrays(tmp_path / "n.npz", edge_index=edges, y=np.arange(nodes) % 3, x=x)
    parts = load_graphs(spec, DataOptions(hops=hops, svd_dim=None))
    found = {name: graph for part in parts.values() for name, graph in zip(part.ids, part.graphs, strict=True)}
    assert len(found) == nodes
    for node in range(nodes):
        members, inside, _, _ = k_hop_subgraph(node, hops, torch.from_numpy(edges), num_nodes=nodes)
        graph = found[f"node-{node}"]
        place = [int(np.flatnonzero((x == row.numpy()).all(1))[0]) for row in graph.x]
        assert place[0] == node
        assert sorted(place) == members.tolist()
        have = sorted((place[a], place[b]) for a, b in graph.edge_index.T.tolist())
        assert have == sorted(map(tuple, inside.T.tolist()))


def test_two_layers_give_a_node_in_its_graph_what_they_give_it_in_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    edges, x = rng.integers(0, 20, (2, 40)), rng.normal(size=(20, 5)).astype("float32")
    spec = arrays(tmp_path / "n.npz", edge_index=edges, y=np.arange(20) % 2, x=x)
    parts, backbone = load_graphs(spec, WHOLE), plain(1, "sage")
    with torch.no_grad():
        whole = backbone.nodes(single(x, edges))
        for part in parts.values():
            for name, graph in zip(part.ids, part.graphs, strict=True):
                torch.testing.assert_close(backbone.nodes(graph)[0], whole[int(name.removeprefix("node-"))])


def test_masks_of_pyg_have_a_column_per_division(tmp_path):
    edges = np.stack([np.arange(9), np.arange(1, 10)])
    masks = np.zeros((10, 3), dtype=bool)
    masks[4:6, 1] = True
    spec = arrays(
        tmp_path / "n.npz", edge_index=edges, y=np.arange(10) % 2, train_mask=masks, val_mask=masks, test_mask=masks
    )
    parts = load_graphs(spec, DataOptions(node_split="file", split_number=1))
    assert parts["train"].ids == ["node-4", "node-5"]


# ---- labels --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "doubtful"),
    [
        ([0, 1, 2, 0], False),
        ([1, 2, 3, 7], False),
        ([-1, 1, -1], False),
        (["01", "1", "2"], False),
        (["a", "b"], False),
        ([120, 45, 300], True),
        ([3, 7, 3, 7], True),
        ([5, 6, 7, 8], True),
        ([0, 1, 40], True),
        ([0.0, 2.0, 1.0], True),
        (list(range(60)) * 2, True),
        (list(range(60)) * 5, False),
    ],
)
def test_whole_numbers_that_look_like_amounts(values, doubtful):
    assert (class_labels(values, "y")["doubt"] is not None) is doubtful


def test_amounts_are_no_classes_unless_that_is_said(tmp_path):
    spec = written(tmp_path / "m.csv", "smiles,count\n" + "".join(f"{'C' * n},{10 * n}\n" for n in range(1, 21)))
    data = load_graphs(spec, DataOptions(split="random"))
    assert len(data["train"].classes) == 20
    with pytest.raises(
        ConfigError, match=r"column 'count': the labels 10, 20, 30, 40 \.\.\. are not numbered.*regression"
    ):
        task_of(TaskOptions(), data)
    assert task_of(TaskOptions(task="classification"), data).outputs == 20
    refused(
        "regression is not supported; give --task classification", "fit", "gpf", "--data", spec, "--split", "random"
    )


@pytest.mark.parametrize("y", [[2.5, 1.0], [1.0, 2.0]])
def test_float_targets_of_pyg(y):
    graphs = [Data(torch.ones(2, 3), torch.tensor([[0], [1]]), y=torch.tensor([value])) for value in y]
    if y[0] == 2.5:
        with pytest.raises(DataError, match="y: graph 0 has the value 2.5; regression is not supported"):
            from_pyg(graphs)
        return
    found = from_pyg(graphs)
    assert "written with decimals" in found.doubt
    assert list(found.classes) == ["1", "2"]


def test_names_of_classes_stay_as_they_are_written(tmp_path):
    rows = "".join(f"CCO,{name}\n" for name in ("1", "01", "2", "01"))
    part = load_graphs(written(tmp_path / "m.csv", f"smiles,kind\n{rows}"), DataOptions(split="random"))["train"]
    assert (list(part.classes), part.labels) == (["01", "1", "2"], [1, 0, 2, 0])


@pytest.mark.parametrize("cell", ["", "nan", "NA", " ", "null"])
def test_empty_cells_are_no_class(cell, tmp_path):
    spec = written(tmp_path / "m.csv", f"smiles,kind\nCCO,a\nCCN,{cell}\nCCC,b\n")
    with pytest.raises(DataError, match="row 3 has no class in column 'kind'"):
        load_graphs(spec)
    skipped = written(tmp_path / "s.csv", f"smiles,kind\nnonsense,a\nCCN,b\nCCC,{cell}\n")
    with pytest.raises(DataError, match="row 4 has no class"):
        load_graphs(skipped, DataOptions(skip_bad=True))
    binary = written(tmp_path / "b.csv", f"smiles,y,z\nCCO,1,0\nCCN,{cell},1\nCCC,0,0\n")
    part = load_graphs(binary, DataOptions(split="random"))["train"]
    assert part.targets.tolist() == [[1, -1], [0, 1], [-1, -1]]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([["pos", "x"], "neg"], r"graph 0 has \['pos', 'x'\] as its class"),
        (["a", ""], r"graph 1 has no class \(''\)"),
        ([0.0, float("nan")], r"graph 1 has no class \(nan\)"),
        (["a", None], "graph 1 has no class"),
    ],
)
def test_labels_that_are_no_name(values, message):
    with pytest.raises(DataError, match=message):
        class_labels(values, "y")


# ---- edges and their attributes ------------------------------------------------------------------------------------------------------


def molecule(**changes):
    values = {
        "x": torch.tensor([[5, 0], [7, 0], [5, 1]]),
        "edge_index": torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]]),
        "edge_attr": torch.tensor([[0, 0], [0, 0], [1, 2], [1, 2]]),
        "y": torch.tensor([1]),
    }
    return Data(**{**values, **changes})


def test_bonds_as_floats_are_read_where_they_are_whole():
    given = molecule()
    same = from_pyg([molecule(edge_attr=given.edge_attr.float())]).graphs[0]
    assert torch.equal(same.edge_attr, given.edge_attr)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"edge_attr": torch.full((4, 2), 0.5)}, r"must hold whole numbers, it has 0\.5"),
        ({"edge_attr": torch.eye(4)}, r"must be \(edges, 2\) .* not \(4, 4\)"),
        ({"edge_attr": torch.ones(4, dtype=torch.long)}, r"not \(4,\)"),
        ({"edge_attr": torch.full((4, 2), 7)}, r"bond types 0\.\.5"),
        ({"x": torch.ones(3, 9, dtype=torch.long)}, r"atoms must be \(nodes, 2\).*not \(3, 9\)"),
        ({"edge_index": torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1]])}, r"shape \(4, 2\); transpose it"),
        ({"edge_index": torch.tensor([[0, 1, 1, 3], [1, 0, 3, 1]])}, "node numbers below 3, it has 0 to 3"),
        ({"edge_weight": torch.ones(4)}, "weights of edges"),
    ],
)
def test_edges_that_are_no_bonds(changes, message):
    with pytest.raises(DataError, match=message):
        from_pyg([molecule(**changes)])


def test_attributes_of_edges_between_float_features_are_named_as_unread():
    found = from_pyg([molecule(x=torch.ones(3, 4), edge_attr=torch.rand(4, 3))])
    assert found.graphs[0].edge_attr is None
    assert found.notes == ("attributes of edges are not read (1 graphs have some)",)
    assert from_pyg([molecule(x=torch.ones(3, 4, dtype=torch.long), edge_attr=None)]).graphs[0].x.dtype == torch.float32


def many():
    return {
        "node_ptr": np.array([0, 3, 5]),
        "edge_ptr": np.array([0, 2, 4]),
        "edge_index": np.array([[0, 1, 0, 1], [1, 0, 1, 0]]),
        "node_label": np.array([0, 1, 2, 0, 0]),
        "y": np.array([1, 0]),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": np.zeros((4, 2), dtype=int)}, r"edge_index must be \(2, edges\), it has shape \(4, 2\)"),
        ({"edge_index": np.zeros(4, dtype=int)}, r"it has shape \(4,\)"),
        ({"edge_index": np.zeros((2, 2, 2), dtype=int)}, r"it has shape \(2, 2, 2\)"),
        ({"edge_index": np.array([[0, 0.5, 0, 1], [1, 0, 1, 0]])}, "must hold whole numbers, it has 0.5"),
        ({"edge_index": np.zeros((2, 3), dtype=int)}, "do not fit together"),
        ({"node_ptr": np.array([1, 3, 5])}, "node_ptr must start at 0"),
        ({"node_ptr": np.array([], dtype=int)}, "node_ptr must start at 0"),
        ({"node_label": np.array([0, -1, 2, 0, 0])}, "node_label must be"),
        ({"y": np.array(["a", ""])}, "graph 1 has no class"),
        ({"y_values": np.array(["a"])}, r"y must have numbers 0\.\.0 of the 1 classes"),
        ({"split": np.array(["train"] * 3)}, r"split has shape \(3,\) for 2 graphs"),
        ({"edge_attr": np.full((4, 2), 0.25)}, "must hold whole numbers, it has 0.25"),
        ({"edge_weight": np.ones(4)}, "edge_weight"),
        ({"y": np.zeros((2, 2)), "task_names": np.array(["a"])}, "2 columns of labels and 1 names"),
    ],
)
def test_arrays_of_another_shape(change, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_graphs(arrays(tmp_path / "g.npz", **{**many(), **change}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge_index": np.zeros((4, 2), dtype=int)}, "transpose it"),
        ({"edge_index": np.array([[0], [9]])}, "node numbers below 4, it has 0 to 9"),
        ({"y": np.zeros((4, 3), dtype=int)}, r"y must have one label per node, it has shape \(4, 3\)"),
        ({"y": np.array([0.5, 1, 0, 1])}, "node 0 has the value 0.5; regression"),
        ({"x": np.full((4, 2), np.nan)}, "not finite"),
        ({"x": np.full((4, 2), "a")}, "x holds no numbers"),
        ({"x_indptr": np.arange(5)}, "x_indptr, x_indices, x_data and x_shape are no CSR matrix"),
        ({"train_idx": np.array([7])}, r"train_idx has node numbers outside 0\.\.3"),
        ({"train_mask": np.ones(3, dtype=bool)}, r"train_mask has shape \(3,\) for 4 nodes"),
    ],
)
def test_nodes_of_another_shape(change, message, tmp_path):
    given = {"edge_index": np.array([[0, 1, 2], [1, 2, 3]]), "y": np.arange(4) % 2, "x": np.ones((4, 2)), **change}
    with pytest.raises(DataError, match=message):
        load_graphs(arrays(tmp_path / "n.npz", **given), DataOptions(svd_dim=None, node_split="file"))


def test_matlab_files_have_doubles_and_no_vectors(tmp_path):
    from scipy.io import savemat

    given = {**many(), "y": np.array([2.0, 5.0]), "x": np.arange(5.0)[:, None]}
    savemat(tmp_path / "g.mat", {name: np.asarray(value, dtype=float) for name, value in given.items()})
    part = load_graphs(str(tmp_path / "g.mat"))["train"]
    assert (list(part.classes), part.labels) == (["2", "5"], [0, 1])
    assert part.graphs[1].x.tolist() == [[3.0], [4.0]]


def test_tensors_with_gradients_are_read(tmp_path):
    x = torch.ones(3, 4, requires_grad=True)
    part = from_pyg([Data(2 * x, molecule().edge_index, y=torch.tensor([0])), molecule(x=x, edge_attr=None)])
    save_graphs({"train": part}, tmp_path / "g.npz")
    assert load_graphs(str(tmp_path / "g.npz"))["train"].graphs[0].x.tolist() == (2 * x).tolist()
    given = batch("shapes").inputs
    learned = Graphs(
        given.x.clone().requires_grad_(),
        *(getattr(given, n) for n in ("edge_index", "edge_attr", "sizes", "edge_counts")),
    )
    assert input_graphs([learned], None).identity() == input_graphs([given], None).identity()


# ---- tables of molecules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), [("m.csv", "smiles,y\n"), ("m.tsv", "smiles\ty\n"), ("m.smi", "smiles\n")])
def test_a_header_alone_is_no_data(name, text, tmp_path):
    refused(f"{name} has no rows below its header", "fit", "gpf", "--data", written(tmp_path / name, text))
    refused("has no rows|not a readable table", "fit", "gpf", "--data", written(tmp_path / f"e{name}", ""))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("CCO ethanol\nc1ccccc1 benzene ring\n", ["ethanol", "benzene"]),
        ("CCO\tethanol\nc1ccccc1\tbenzene ring\n", ["ethanol", "benzene ring"]),
        ("CCO\n\nc1ccccc1\n", ["CCO", "c1ccccc1"]),
        ("CCO first\nc1ccccc1\n", ["first", "c1ccccc1"]),
    ],
)
def test_smi_files_without_a_header(text, ids, tmp_path):
    spec = written(tmp_path / "m.smi", text)
    found = load_graphs(spec, DataOptions(split="random"))["train"]
    assert (list(found.ids), found.labels, found.targets) == (ids, None, None)
    assert [graph.nodes for graph in found.graphs] == [3, 6]
    assert input_graphs([spec], None).digests() == found.digests()


def test_smi_files_with_labels_and_with_a_header(tmp_path):
    bare = written(tmp_path / "a.smi", "CCO m1 active\nCCN m2 inert\nCCC m3 active\n")
    part = load_graphs(bare, DataOptions(split="random", label_columns=("3",)))["train"]
    assert (part.labels, list(part.classes), list(part.ids)) == ([0, 1, 0], ["active", "inert"], ["m1", "m2", "m3"])
    for text in ("smiles,y\nCCO,1\nCCN,0\n", "y\tsmiles\n1\tCCO\n0\tCCN\n", "smiles y\nCCO 1\nCCN 0\n"):
        part = load_graphs(written(tmp_path / "b.smi", text), DataOptions(split="random"))["train"]
        assert part.targets.tolist() == [[1], [-1]]
    bad = written(tmp_path / "c.smi", "CCO a\nnonsense b\n")
    with pytest.raises(DataError, match=r"row 2 \('nonsense'\)"):
        load_graphs(bad)


def test_predict_reads_smi_files(tmp_path):
    graphs = tmp_path / "runs"
    assert run("fit", "gpf", "--data", "builtin:molecules", "--total-shots", "8", "--max-val", "4", "--max-test", "4",
               "--epochs", "1", "--out", graphs)[0] == 0  # fmt: skip
    spec = written(tmp_path / "m.smi", "CCO ethanol\nCCN amine\n")
    rows = pt_graph.load(str(graphs)).predict([spec])
    assert [row["id"] for row in rows] == ["ethanol", "amine"]


# ---- molecules without rings ---------------------------------------------------------------------------------------------------------


def disjoint(parts, count):
    rows = sorted(row for part in parts.values() for row in part)
    return rows == list(range(count)) and all(parts.values())


@pytest.mark.parametrize(
    "names",
    [
        [""] * 20,
        [""] * 18 + ["a", "b"],
        ["a"] * 19 + [""] * 2,
        ["a"] * 18 + ["b", "c"],
        ["", "", ""],
        ["a", "a", "b", ""],
    ],
)
def test_no_part_of_a_scaffold_split_is_empty(names):
    parts, _ = scaffold_split(names)
    assert disjoint(parts, len(names))
    assert len(parts["train"]) >= max(len(parts["val"]), len(parts["test"]))
    for name in set(names) - {""}:  # scaffolds are whole
        assert len({role for role, rows in parts.items() for row in rows if names[row] == name}) == 1


def test_chains_are_divided_as_wanted():
    parts, note = scaffold_split([""] * 100)
    assert {role: len(rows) for role, rows in parts.items()} == {"train": 80, "val": 10, "test": 10}
    assert "100 molecules without rings are scaffolds of their own" in note


def test_the_published_division_stays_where_it_fills_all_parts():
    """Molecules without rings are one scaffold there; the published benchmarks are divided so."""
    names = [""] * 30 + [f"s{n // 2}" for n in range(70)]
    parts, note = scaffold_split(names)
    assert set(range(30)) <= set(parts["train"])
    assert {role: len(rows) for role, rows in parts.items()} == {"train": 80, "val": 10, "test": 10}
    assert "of their own" not in note


def test_fewer_than_three_scaffolds_are_not_divided(tmp_path):
    spec = written(tmp_path / "m.csv", "smiles,y\n" + "c1ccccc1,1\nCc1ccccc1,0\n" * 3)
    parts = load_graphs(spec)
    assert {role: len(part) for role, part in parts.items()} == {"train": 6}
    assert parts["train"].notes[0] == "not divided: the molecules have 1 different scaffolds"


def test_a_table_of_chains_trains(tmp_path):
    spec = written(
        tmp_path / "m.csv", "smiles,y\n" + "".join(f"{'C' * (n + 1)}{'ON'[n % 2]},{n % 2}\n" for n in range(30))
    )
    status, out, err = run("fit", "linear", "--data", spec, "--epochs", "1", "--out", tmp_path / "run")
    assert status == 0, err[-800:]
    assert "30 molecules without rings are scaffolds of their own" in out + err


def test_a_single_user_error_type_reaches_the_command_line(tmp_path):
    spec = arrays(tmp_path / "g.npz", **{**many(), "edge_index": np.zeros((4, 2), dtype=int)})
    with pytest.raises(UserError):
        load_graphs(spec)
    refused("edge_index must be", "fit", "gpf", "--data", spec)
