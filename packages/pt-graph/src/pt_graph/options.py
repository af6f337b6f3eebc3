"""Flags of the package's commands. The help reads them, so nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pt_core.run.declare.fields import PeakRate, Seed, WeightDecay, Width
from pt_core.run.declare.options import ClassificationOptions


@dataclass(frozen=True)
class DataOptions:
    """How graph data are read."""

    smiles_column: str | None = None
    """Column with the molecules (default: smiles, SMILES, mol)."""
    label_columns: tuple[str, ...] = ()
    """Columns with the properties or the class (default: all other columns of a SMILES table, none of a .smi file without a header, whose
    columns are smiles, 2, 3 ...)."""
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
    """k, node tasks: a node becomes the graph of the nodes that reach it within k edges (Cora 4, CiteSeer 3, PubMed 2)."""
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


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["auto", "binary", "classification"] = "auto"  # type: ignore[assignment]
    """Yes/no properties with missing labels (binary), one of several classes (classification; whole numbers of any kind too), or what the
    labels look like (auto)."""
    select_by: Literal["auto", "roc_auc", "accuracy", "macro_f1", "nll"] = "auto"
    """Validation metric that selects the weights (auto: roc_auc for binary, accuracy for classification; RELIEF's node tasks: macro_f1)."""


@dataclass(frozen=True)
class PredictOptions:
    """How inputs are read."""

    smiles_column: str | None = None
    """Column with the molecules of a table (default: smiles, SMILES, mol)."""
    hops: Annotated[int, Ge(1)] = 2
    """Node tasks: as the run was trained."""
    max_nodes: Annotated[int, Ge(1)] = 300
    """Node tasks: as the run was trained."""
    svd_dim: Annotated[int, Ge(1)] | None = 100
    """Node tasks: as the run was trained."""


@dataclass(frozen=True)
class PretrainConfig:
    """What `pretrain` trains, how and for how long; the defaults made the built-in backbone."""

    objective: Literal["attribute_masking", "context_prediction", "masked_edge", "contrastive_edge"] = (
        "attribute_masking"
    )
    """Pre-training task; the first two need molecules."""
    network: Literal["gin", "gcn", "graphsage", "gat"] = "gin"
    """Kind of layers. Molecules: the molecular family; float features: layers on the features (sum GIN by default)."""
    dim: Annotated[Width, Ge(2)] = 64
    """Width d (RELIEF: 300 for molecules, 128 for node tasks)."""
    layers: Annotated[int, Ge(1)] = 5
    """Layers (RELIEF: 5 for molecules, 2 for node tasks)."""
    epochs: Annotated[int, Ge(1)] = 40
    """Passes over the graphs (RELIEF's node tasks: 100)."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Graphs per step."""
    lr: PeakRate = 1e-3
    """Adam learning rate (RELIEF's node tasks: 1e-2 to 1e-4)."""
    weight_decay: WeightDecay = 5e-5
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Dropout while pre-training."""
    seed: Seed = 0


@dataclass(frozen=True)
class PretrainOptions(PretrainConfig):
    """Flags of `pt-graph pretrain`."""

    data: str | None = None
    """Graphs, as in `fit`; their labels are not used (default: 4,000 generated molecules, the recipe of the built-in backbone)."""
    hops: Annotated[int, Ge(1)] = 2
    """Node data: hops of the graph around a node."""
    min_nodes: Annotated[int, Ge(1)] = 1
    """Node data: smallest graph around a node."""
    max_nodes: Annotated[int, Ge(1)] = 300
    """Node data: largest graph around a node."""
    svd_dim: Annotated[int, Ge(1)] | None = 100
    """Node data: reduce the features to this many dimensions."""
