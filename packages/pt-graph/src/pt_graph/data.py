"""Graph data sets with stable ids, targets and classes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from annotated_types import Ge, Gt, Lt
from pt_core.data import Batch, generator
from pt_core.errors import DataError, nearest
from torch import Tensor

from pt_graph.graphs import Graphs, collate


@dataclass(frozen=True)
class DataOptions:
    """How graph data are read."""

    smiles_column: str | None = None
    """Column with the molecules (default: smiles, SMILES, mol)."""
    label_columns: tuple[str, ...] = ()
    """Columns with the properties or the class (default: all other columns of a SMILES table; class, label or y elsewhere)."""
    split_column: str | None = None
    """Column (npz: array) with train/val/test or 0/1/2 (default: split or scaffold_split, where there is one)."""
    split: Literal["auto", "scaffold", "random"] = "auto"
    """How undivided molecules are divided 80/10/10: by Bemis-Murcko scaffold (auto), or at random like other data."""
    skip_bad: bool = False
    """Leave out molecules that cannot be read (counted) instead of stopping."""
    total_shots: Annotated[int, Ge(1)] | None = None
    """Train on this many graphs in all: the training part is shuffled with the sampling seed and the first ones are kept (k-shot)."""
    max_val: Annotated[int, Ge(1)] | None = None
    """Use at most this many validation graphs, drawn with the sampling seed."""
    max_test: Annotated[int, Ge(1)] | None = None
    """Use at most this many test graphs, drawn with the sampling seed."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    hops: Annotated[int, Ge(1)] = 2
    """k, node tasks: a node becomes the graph induced by the nodes within k hops (Cora 4, CiteSeer 3, PubMed 2)."""
    min_nodes: Annotated[int, Ge(1)] = 1
    """Node tasks: nodes with a smaller graph are left out."""
    max_nodes: Annotated[int, Ge(1)] = 300
    """Node tasks: nodes with a larger graph are left out."""
    svd_dim: Annotated[int, Ge(1)] | None = 100
    """Node tasks: reduce the features to this many dimensions by a truncated SVD (None: keep them)."""
    node_split: Literal["random", "file"] = "random"
    """Node tasks: 500 validation and 500 test nodes drawn with the sampling seed among those left, or the file's own division."""
    split_number: Annotated[int, Ge(0)] = 0
    """Node tasks: which of the file's own divisions, where it has several."""


@dataclass(eq=False)
class GraphDataset:
    """Graphs with class indices, with binary targets, or without labels.

    Attributes:
        graphs: one graph each.
        ids: their names.
        labels: one class index per graph, or None.
        classes: names of the classes.
        targets: (graph, task) in {-1, 0, +1}, or None.
        tasks: names of the binary properties.
        notes: sentences on how the data were read.
    """

    graphs: Sequence[Graphs]
    ids: Sequence[str]
    labels: Sequence[int] | None = None
    classes: Sequence[str] = ()
    targets: Tensor | None = None
    tasks: Sequence[str] | None = None
    notes: tuple[str, ...] = ()
    augmented: bool = field(default=False, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def sample(self, index: int, *, epoch: int | None, seed: int) -> Graphs:
        return self.graphs[index]

    def target(self, rows: Sequence[int]) -> Tensor | None:
        """Class indices (graph,), binary targets (graph, task), or None."""
        chosen = list(rows)
        if self.targets is not None:
            return self.targets[chosen]
        return None if self.labels is None else torch.tensor([self.labels[row] for row in chosen])

    def collate(self, index: Sequence[int], samples: Sequence[Any]) -> Batch:
        rows = torch.as_tensor(list(index), dtype=torch.long)
        return Batch(collate(list(samples)), self.target(index), rows, [self.ids[i] for i in index])

    def relabel(self, classes: Sequence[str]) -> GraphDataset:
        """The same graphs with class indices into another list of names.

        Raises:
            DataError: a graph's class is not in the list.
        """
        if self.labels is None:
            return replace(self, classes=list(classes))
        position = {name: index for index, name in enumerate(classes)}
        present = [self.classes[label] for label in sorted(set(self.labels))]
        unknown = [f"{name!r}{nearest(name, classes)}" for name in present if name not in position]
        if unknown:
            raise DataError(f"the data have classes that are not among the known ones: {', '.join(unknown[:8])}")
        return replace(self, classes=list(classes), labels=[position[self.classes[label]] for label in self.labels])

    def subset(self, rows: Sequence[int]) -> GraphDataset:
        """Some of the graphs, renumbered."""
        return replace(
            self,
            graphs=[self.graphs[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            labels=None if self.labels is None else [self.labels[row] for row in rows],
            targets=None if self.targets is None else self.targets[list(rows)],
            notes=(),
        )

    def digests(self) -> list[str]:
        """One digest per graph, over features and edges."""
        return [_digest(graph) for graph in self.graphs]

    def identity(self) -> str:
        total = hashlib.sha256(repr((list(self.classes), self.tasks, self.labels)).encode())
        if self.targets is not None:
            total.update(self.targets.numpy().tobytes())
        for digest in self.digests():
            total.update(digest.encode())
        return total.hexdigest()


def _digest(graph: Graphs) -> str:
    parts = [graph.x, graph.edge_index, *([] if graph.edge_attr is None else [graph.edge_attr])]
    content = b"".join(part.contiguous().numpy().tobytes() for part in parts)
    return hashlib.blake2b(repr([tuple(part.shape) for part in parts]).encode() + content, digest_size=12).hexdigest()


def load_graphs(spec: str, options: DataOptions | None = None, seed: int = 0) -> dict[str, GraphDataset]:
    """The parts train, val and test (where there are such) behind a path or a `builtin:` name.

    Args:
        spec: SMILES table (.csv, .tsv), .npz or .mat, a saved PyG data set (.pt), or builtin:molecules, builtin:communities.
        options: how to read.
        seed: sampling seed of random divisions and of `total_shots`.

    Raises:
        UserError: the path does not exist or is of no known kind.
        DataError: unreadable molecules (listed by row), missing columns or arrays.
    """
    from pt_graph.sources import read

    options = options or DataOptions()
    parts = read(spec, options, seed)
    for role, limit in (("train", options.total_shots), ("val", options.max_val), ("test", options.max_test)):
        if limit is None or role not in parts:
            continue
        part = parts[role]
        if role == "train" and limit > len(part):
            raise DataError(f"--total-shots {limit} is more than the training part has ({len(part)} graphs)")
        if limit < len(part):
            order = torch.randperm(len(part), generator=generator(seed, "shots" if role == "train" else role))
            chosen = order[:limit].tolist()
            note = (f"{role}: {limit} of {len(part)} graphs (drawn with seed {seed})",)
            parts[role] = replace(part.subset(chosen), notes=(*part.notes, *note))
    for role, part in parts.items():
        if part.targets is not None:
            parts[role] = replace(part, notes=(*part.notes, f"{role}: {label_summary(part)}"))
    return parts


def label_summary(part: GraphDataset, most: int = 3) -> str:
    """How many graphs have which property, for the user; further properties are counted only."""
    assert part.targets is not None
    names = list(part.tasks or ())
    counts = [((part.targets == sign).sum(0)).tolist() for sign in (1, -1, 0)]
    shown = [f"{name} {yes} yes, {no} no, {none} missing" for name, yes, no, none in zip(names, *counts, strict=True)]
    return "; ".join(shown[:most]) + (f"; and {len(shown) - most} more properties" if len(shown) > most else "")


def by_role(whole: GraphDataset, rows: Mapping[str, Sequence[int]]) -> dict[str, GraphDataset]:
    """Parts of a data set; the notes go with the first."""
    parts = {role: whole.subset(chosen) for role, chosen in rows.items() if len(chosen)}
    first = next(iter(parts))
    parts[first] = replace(parts[first], notes=whole.notes)
    return parts
