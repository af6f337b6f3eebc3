"""Graphs in .npz or .mat arrays: many graphs (node_ptr, edge_ptr), or one graph with labelled nodes; and writing the former."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.errors import DataError

from pt_graph.data.dataset import GraphDataset
from pt_graph.data.division import by_role, random_split, roles_of
from pt_graph.data.labels import binary_targets, class_labels
from pt_graph.data.nodes import read_nodes
from pt_graph.graphs.batch import Graphs, single
from pt_graph.graphs.checks import atoms_of, bonds_of, edges_of, features_of, whole
from pt_graph.options import DataOptions

DEGREES = 32
"""One-hot degrees stand in for node features where a set has none; higher degrees share the last."""
LARGEST_LABEL = 10_000
"""Largest node label that becomes a one-hot feature."""
TABLES = ("x", "edge_index", "edge_attr", "train_mask", "val_mask", "test_mask")
"""Arrays with two axes, even where one has length 1."""
Arrays = Mapping[str, np.ndarray[Any, Any]]


def read_arrays(path: Path, options: DataOptions, seed: int) -> dict[str, GraphDataset]:
    """node_ptr (G+1), edge_ptr (G+1), edge_index (2, E) with node numbers local to each graph, x (n, F) or node_label (n), optionally
    edge_attr (E, 2), y, y_values or task_names, and split or scaffold_split. Without node_ptr: one graph with labelled nodes.

    Raises:
        DataError: a missing array, or arrays that do not fit together.
    """
    arrays = load(path)
    if "node_ptr" not in arrays:
        return read_nodes(arrays, path, options, seed)
    node_ptr, edge_ptr = (_pointer(arrays, name, path) for name in ("node_ptr", "edge_ptr"))
    edges = edges_of(_get(arrays, "edge_index", path), None, str(path)).numpy()
    graphs = len(node_ptr) - 1
    fits = len(edge_ptr) == graphs + 1 and edges.shape[1] == edge_ptr[-1]
    fits = fits and all(len(arrays[name]) == node_ptr[-1] for name in ("x", "node_label") if name in arrays)
    if not fits or (np.diff(node_ptr) < 1).any() or (np.diff(edge_ptr) < 0).any():
        raise DataError(
            f"{path}: node_ptr, edge_ptr, edge_index and node features do not fit together (or a graph has no nodes)"
        )
    spans = np.repeat(np.diff(node_ptr), np.diff(edge_ptr))
    if ((edges < 0) | (edges >= spans)).any():
        raise DataError(f"{path}: edge_index has node numbers outside their graph (they must be local to each graph)")
    x = features(arrays, node_ptr, edge_ptr, edges, path)
    bonds = bonds_of(arrays["edge_attr"], edges.shape[1], str(path)).numpy() if "edge_attr" in arrays else None
    if "edge_weight" in arrays:
        raise DataError(f"{path}: weights of edges (edge_weight) are not supported; leave the array out")
    samples = [
        single(
            x[node_ptr[i] : node_ptr[i + 1]],
            torch.from_numpy(edges[:, edge_ptr[i] : edge_ptr[i + 1]]),
            None if bonds is None else torch.from_numpy(bonds[edge_ptr[i] : edge_ptr[i + 1]]),
        )
        for i in range(graphs)
    ]
    every = GraphDataset(samples, [f"graph-{i}" for i in range(graphs)], **_labels(arrays, graphs, path))
    name = options.split_column or next((n for n in ("split", "scaffold_split") if n in arrays), None)
    if name is not None:
        division = _get(arrays, name, path)
        if division.shape != (graphs,):
            raise DataError(f"{path}: {name} has shape {division.shape} for {graphs} graphs")
        return by_role(every, roles_of(division.tolist(), str(path)))
    return by_role(every, random_split(graphs, seed)) if bonds is not None else {"train": every}


def load(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The numeric arrays of a file; nothing is unpickled.

    Raises:
        DataError: it cannot be read, or holds objects.
    """
    try:
        if path.suffix.lower() == ".mat":
            from scipy.io import loadmat

            found = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
            found = {name: _of_matlab(name, value) for name, value in found.items()}
        else:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in file.files}
    except Exception as error:  # damaged archives raise many kinds
        raise DataError(f"{path} is not readable ({' '.join(str(error).split())[:120]})") from None
    if not all(isinstance(value, np.ndarray) and value.dtype.kind in "biufU" for value in found.values()):
        raise DataError(f"{path} holds values that are no plain arrays")
    return {name: np.atleast_1d(value) for name, value in found.items()}


def _of_matlab(name: str, value: Any) -> Any:
    """MATLAB has no vectors, and its whole numbers are doubles."""
    if not isinstance(value, np.ndarray):
        return value
    if value.ndim == 2 and 1 in value.shape and name not in TABLES:
        value = value.reshape(-1)
    if name == "y" and value.dtype.kind == "f" and value.ndim == 1 and np.equal(np.mod(value, 1), 0).all():
        return value if np.isin(value, (-1, 0, 1)).all() else value.astype(np.int64)
    return value


def _pointer(arrays: Arrays, name: str, path: Path) -> np.ndarray[Any, Any]:
    found = whole(_get(arrays, name, path), f"{path}: {name}").numpy()
    if found.ndim != 1 or len(found) < 2 or found[0] != 0:
        raise DataError(f"{path}: {name} must start at 0 and have one entry more than there are graphs")
    return found


def _get(arrays: Arrays, name: str, path: Path) -> np.ndarray[Any, Any]:
    if name not in arrays:
        raise DataError(f"{path} has no array {name!r}; it has: {', '.join(arrays)}")
    return arrays[name]


def features(arrays: Arrays, node_ptr: Any, edge_ptr: Any, edges: Any, path: Path) -> torch.Tensor:
    """(node, column): atoms as int64, other features as float32; one-hot node labels, or one-hot degrees, where there are none."""
    if "x" in arrays:
        x = arrays["x"]
        if x.dtype.kind in "iu" and "edge_attr" in arrays:
            return atoms_of(torch.from_numpy(x.astype(np.int64)), str(path))
        return features_of(x, str(path))
    if "node_label" in arrays:
        labels = whole(arrays["node_label"], f"{path}: node_label")
        if labels.ndim != 1 or int(labels.min()) < 0 or int(labels.max()) > LARGEST_LABEL:
            raise DataError(f"{path}: node_label must be (nodes,) with numbers from 0 to {LARGEST_LABEL}")
        if int(labels.max()) > 0:
            return torch.nn.functional.one_hot(labels).float()
    starts = np.repeat(node_ptr[:-1], np.diff(edge_ptr))
    degrees = np.bincount(edges[1] + starts, minlength=int(node_ptr[-1])).clip(max=DEGREES - 1)
    return torch.nn.functional.one_hot(torch.from_numpy(degrees), DEGREES).float()


def _labels(arrays: Arrays, graphs: int, path: Path) -> dict[str, Any]:
    if "y" not in arrays:
        return {}
    y = arrays["y"]
    if len(y) != graphs:
        raise DataError(f"{path}: y has {len(y)} rows for {graphs} graphs")
    if y.ndim > 2:
        raise DataError(f"{path}: y must be (graphs,) or (graphs, tasks), it has shape {y.shape}")
    if y.dtype.kind == "f":
        width = 1 if y.ndim == 1 else y.shape[1]
        names = [str(name) for name in arrays.get("task_names", [])] or [f"property {n + 1}" for n in range(width)]
        return {"targets": binary_targets(y, names, str(path)), "tasks": names}
    if y.ndim != 1:
        raise DataError(f"{path}: y must be (graphs,) classes, or (graphs, tasks) floats with nan for missing")
    names = [str(name) for name in arrays.get("y_values", [])]
    if names:
        labels = whole(y, f"{path}: y") if y.dtype.kind in "biu" else torch.full((1,), -1)
        if int(labels.min()) < 0 or int(labels.max()) >= len(names):
            raise DataError(f"{path}: y must have numbers 0..{len(names) - 1} of the {len(names)} classes in y_values")
        return {"labels": labels.tolist(), "classes": names}
    return class_labels(y.tolist(), f"{path}: y")


def save_graphs(parts: Mapping[str, GraphDataset], path: Path) -> None:
    """Write parts as one .npz that `fit --data` reads."""
    graphs: list[Graphs] = [graph for part in parts.values() for graph in part.graphs]
    first = next(iter(parts.values()))
    arrays: dict[str, Any] = {
        "node_ptr": np.cumsum([0, *(graph.nodes for graph in graphs)]),
        "edge_ptr": np.cumsum([0, *(graph.edge_index.shape[1] for graph in graphs)]),
        "x": torch.cat([graph.x for graph in graphs]).numpy(),
        "edge_index": torch.cat([graph.edge_index for graph in graphs], 1).numpy(),
    }
    if graphs[0].edge_attr is not None:
        arrays["edge_attr"] = torch.cat([graph.edge_attr for graph in graphs]).numpy()  # type: ignore[misc]
    if first.targets is not None:
        y = torch.cat([part.targets for part in parts.values()]).numpy()  # type: ignore[misc]
        arrays["y"] = np.where(y == 0, np.nan, (y + 1) / 2).astype(np.float32)
        arrays["task_names"] = np.array(list(first.tasks or ()))
    elif first.labels is not None:
        arrays["y"] = np.array([label for part in parts.values() for label in part.labels or ()])
        arrays["y_values"] = np.array(list(first.classes))
    if len(parts) > 1:
        arrays["split"] = np.array([role for role, part in parts.items() for _ in range(len(part))])
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
