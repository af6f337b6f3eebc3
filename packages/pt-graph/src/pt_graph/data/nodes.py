"""Node tasks: every node becomes the graph of the nodes from which edges lead to it in at most k steps, with the node's own label.

These are the nodes whose messages k layers bring to it (PyG's `k_hop_subgraph` in its default flow).
The node itself is node 0 of its graph. Only nodes whose graph has min_nodes to max_nodes nodes take part.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pt_core.data import generator
from pt_core.errors import DataError
from torch import Tensor

from pt_graph.data.dataset import GraphDataset
from pt_graph.data.division import by_role
from pt_graph.data.labels import class_labels
from pt_graph.graphs.batch import Graphs, single
from pt_graph.graphs.checks import edges_of, features_of, whole
from pt_graph.options import DataOptions

HELD = 500
"""Validation nodes, and test nodes, of the random division (at most a quarter of the nodes each)."""


def read_nodes(arrays: Mapping[str, Any], path: Path, options: DataOptions, seed: int) -> dict[str, GraphDataset]:
    """One graph: edge_index (2, E), y (n), and x (n, F) or its CSR parts x_indptr, x_indices, x_data, x_shape; train_idx, val_idx,
    test_idx or train_mask, val_mask, test_mask for --node-split file.

    Raises:
        DataError: missing arrays, or no node whose graph has a permitted size.
    """
    for name in ("edge_index", "y"):
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r} (nor node_ptr); it has: {', '.join(arrays)}")
    y = arrays["y"]
    if y.size != max(y.shape, default=0):
        raise DataError(f"{path}: y must have one label per node, it has shape {y.shape}")
    y = y.reshape(-1)
    nodes = len(y)
    edges = edges_of(arrays["edge_index"], nodes, str(path)).numpy()
    x = node_features(arrays, edges, nodes, options.svd_dim, path)
    labelled = np.flatnonzero(y >= 0) if y.dtype.kind in "if" else np.arange(nodes)
    ball = balls(edges, nodes, labelled.tolist(), options.hops, options.max_nodes)
    rows = [int(node) for node in labelled if ball[int(node)] is not None and len(ball[int(node)]) >= options.min_nodes]
    if not rows:
        raise DataError(
            f"{path}: no node has a {options.hops}-hop graph of {options.min_nodes} to {options.max_nodes} nodes; change --hops, "
            "--min-nodes or --max-nodes"
        )
    incident = _incident(edges[0], nodes)
    graphs = [induced(x, edges, incident, ball[node]) for node in rows]
    targets = class_labels(y[rows].tolist(), f"{path}: y", "node", rows)
    sizes = np.array([graph.nodes for graph in graphs])
    note = (
        f"{len(rows)} of {nodes} nodes have a {options.hops}-hop graph of {options.min_nodes} to {options.max_nodes} nodes "
        f"(mean {sizes.mean():.0f}, largest {sizes.max()})"
    )
    found = GraphDataset(graphs, [f"node-{node}" for node in rows], notes=(note,), **targets)
    return by_role(found, divide(arrays, rows, nodes, options, seed, path))


def node_features(arrays: Mapping[str, Any], edges: Any, nodes: int, dims: int | None, path: Path) -> Tensor:
    """(node, column) float32: the features, reduced by a truncated SVD (U S) where they are wider than `dims`; one-hot degrees where
    there are none."""
    if "x_indptr" in arrays:
        from scipy.sparse import csr_matrix

        try:
            indices, starts, shape = (
                whole(arrays[f"x_{name}"], f"{path}: x_{name}").numpy() for name in ("indices", "indptr", "shape")
            )
            sparse = csr_matrix((arrays["x_data"], indices, starts), shape=tuple(shape.tolist()))
            sparse.check_format()
            dense = np.asarray(sparse.todense(), dtype=np.float32)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}: x_indptr, x_indices, x_data and x_shape are no CSR matrix ({' '.join(str(error).split())[:100]})"
            ) from None
    elif "x" in arrays:
        dense = features_of(column(arrays["x"], nodes), str(path)).numpy()
    else:
        degrees = np.bincount(edges[1], minlength=nodes).clip(max=63)
        return torch.nn.functional.one_hot(torch.from_numpy(degrees), 64).float()
    if dense.shape[0] != nodes:
        raise DataError(f"{path}: the features have {dense.shape[0]} rows for {nodes} nodes")
    if dims is None or dense.shape[1] <= dims:
        return torch.from_numpy(dense)
    from sklearn.decomposition import TruncatedSVD

    if dims >= min(dense.shape):
        raise DataError(f"--svd-dim {dims} needs more than {dims} nodes and features; the data are {dense.shape}")
    reduced = TruncatedSVD(dims, algorithm="arpack", random_state=0).fit_transform(dense)
    return torch.from_numpy(reduced.astype(np.float32))


def column(x: Any, nodes: int) -> Any:
    """A single feature per node as one column."""
    return x[:, None] if x.shape == (nodes,) else x


def _incident(ends: Any, nodes: int) -> tuple[Any, Any]:
    """(order, start): edges sorted by one of their ends, and where each node's edges begin."""
    order = np.argsort(ends, kind="stable")
    return order, np.concatenate([[0], np.cumsum(np.bincount(ends, minlength=nodes))])


def balls(edges: Any, nodes: int, centres: list[int], hops: int, most: int) -> dict[int, Any]:
    """Node -> (members,): itself first, then in order the others that reach it within k edges; None where there are more than `most`."""
    order, start = _incident(edges[1], nodes)
    neighbours = edges[0][order]
    found: dict[int, Any] = {}
    for centre in centres:
        inside = np.zeros(nodes, dtype=bool)
        inside[centre] = True
        frontier, size = np.array([centre]), 1
        for _ in range(hops):
            reached = np.concatenate([neighbours[start[node] : start[node + 1]] for node in frontier])
            frontier = np.unique(reached[~inside[reached]])
            inside[frontier] = True
            size += len(frontier)
            if not len(frontier) or size > most:
                break
        members = np.flatnonzero(inside)
        found[centre] = None if size > most else np.concatenate([[centre], members[members != centre]])
    return found


def induced(x: Tensor, edges: Any, incident: tuple[Any, Any], members: Any) -> Graphs:
    """The graph on `members` with all edges among them."""
    order, start = incident
    chosen = np.concatenate([order[start[node] : start[node + 1]] for node in members])
    local = {int(node): number for number, node in enumerate(members)}
    pairs = [(local[s], local[t]) for s, t in zip(*edges[:, chosen].tolist(), strict=True) if t in local]
    return single(x[torch.from_numpy(members)], torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T)


def divide(
    arrays: Mapping[str, Any], rows: list[int], nodes: int, options: DataOptions, seed: int, path: Path
) -> dict[str, list[int]]:
    """Positions within `rows` by role."""
    if options.node_split == "random":
        order = torch.randperm(len(rows), generator=generator(seed, "split")).tolist()
        held = min(HELD, len(rows) // 4)
        return {"train": sorted(order[2 * held :]), "val": sorted(order[:held]), "test": sorted(order[held : 2 * held])}
    position = {node: number for number, node in enumerate(rows)}
    parts = {}
    for role in ("train", "val", "test"):
        if f"{role}_idx" in arrays:
            chosen = whole(arrays[f"{role}_idx"].reshape(-1), f"{path}: {role}_idx").numpy()
            if len(chosen) and (chosen.min() < 0 or chosen.max() >= nodes):
                raise DataError(f"{path}: {role}_idx has node numbers outside 0..{nodes - 1}")
        elif f"{role}_mask" in arrays:
            masks = np.atleast_2d(arrays[f"{role}_mask"])
            masks = masks.T if masks.shape[1] != nodes else masks  # PyG has (nodes, divisions)
            if masks.shape[1] != nodes:
                raise DataError(f"{path}: {role}_mask has shape {arrays[f'{role}_mask'].shape} for {nodes} nodes")
            if options.split_number >= len(masks):
                raise DataError(f"--split-number {options.split_number}: {path} has {len(masks)} divisions")
            chosen = np.flatnonzero(masks[options.split_number])
        else:
            raise DataError(f"{path} has no division of its own ({role}_idx or {role}_mask); use --node-split random")
        parts[role] = [position[int(node)] for node in chosen if int(node) in position]
    return parts
