"""Options of the package's own commands; imported before torch is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pt_core.run.declare.fields import Depth, Heads, PeakRate, Seed, Steps, Warmup, WeightDecay, Width
from pt_core.run.declare.options import ClassificationOptions

Points = Annotated[int, Ge(1), "N, points of a cloud."]
Groups = Annotated[int, Ge(1), "G, patches per cloud."]


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-pointcloud pretrain`; the defaults are the recipe of the built-in backbone."""

    data: str | None = None
    """Meshes or clouds, as in `fit`; labels are not read (default: generated shapes)."""
    variant: str | None = None
    """As in `fit`."""
    points: Annotated[Points, Ge(8)] = 512
    groups: Annotated[Groups, Ge(2)] = 32
    group_size: Annotated[int, Ge(2)] = 16
    """M, points per patch."""
    dim: Annotated[Width, Ge(8)] = 96
    """C, width (published: 384)."""
    depth: Depth = 6
    """Encoder blocks (published: 12)."""
    heads: Heads = 3
    """Attention heads (published: 6)."""
    first: Annotated[int, Ge(1)] = 32
    """First width of the patch encoder (published: 128)."""
    decoder_depth: Annotated[int, Ge(1)] = 2
    """Decoder blocks (published: 4)."""
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.6
    """Share of the patches that is masked."""
    steps: Steps = 600
    """Optimiser steps (published: 300 epochs of ShapeNet)."""
    batch_size: Annotated[int, Ge(2)] = 64
    """Clouds per step (published: 128)."""
    lr: PeakRate = 1e-3
    weight_decay: WeightDecay = 0.05
    """Weight decay of AdamW (none for vectors)."""
    warmup: Warmup = 0.03
    """Share of the steps with linear warm-up (published: 10 of 300 epochs)."""
    seed: Seed = 0
    """Seed of initial values, shapes, masks and augmentation."""


@dataclass(frozen=True)
class DataOptions:
    """How point clouds and meshes are read."""

    normalise: Literal["unit_sphere", "as_stored"] | None = None
    """`unit_sphere`: centred, largest norm 1 (ModelNet). `as_stored`: unchanged (ScanObjectNN). Default: the backbone's, unit_sphere."""
    mesh_points: Annotated[int, Ge(1)] = 4096
    """Points that are sampled from the surface of a mesh, uniformly by area."""
    mesh_seed: Annotated[int, Ge(0)] = 0
    """Seed of that sampling, per file."""
    label_column: str | None = None
    """Array (.npz, .h5) or table column with the class (default: y, label, labels, class)."""
    part_column: str | None = None
    """Where the part of every point is: an array of .npz or .h5 files (default: parts, seg, pid), or the number of a text column."""
    variant: str | None = None
    """Which published division or form, where a folder holds several: modelnet10, or ScanObjectNN's OBJ_BG, OBJ_ONLY, PB_T50_RS ..."""
    split_column: str | None = None
    """Table column with train, val or test (default: split, where there is one)."""
    val_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share of the training part that is split off where the data have no validation part (0: none)."""
    test_fraction: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Share that is split off as test part where the data have neither validation nor test part (0: none)."""
    augment: Literal["none", "resample", "rotate", "scale_translate"] = "none"
    """Training view: other points in every epoch (`resample`), and with them one rotation about y (ScanObjectNN) or a scale and shift
    per axis (ModelNet). `none` lets frozen tokens be cached."""
    corrupt: tuple[Literal["missing", "noise", "outliers", "rotation", "background"], ...] = ()
    """Corruptions, applied in this order; each sample has its own fixed draw."""
    severity: Annotated[float, Ge(0), Le(1)] = 0.5
    """How strong they are: the share of missing points, ten times the noise, ..."""
    corrupt_seed: Annotated[int, Ge(0)] = 0
    """Seed of the corruptions."""
    corrupt_roles: Literal["all", "eval", "train"] = "all"
    """Which parts are corrupted: all, validation and test, or training."""
    votes: Annotated[int, Ge(0)] = 0
    """Average the logits of this many random views of every evaluated cloud (published: 10); 0 evaluates the cloud once."""
    ways: Annotated[int, Ge(2)] | None = None
    """Few-shot episode: this many classes, drawn anew for every episode."""
    queries: Annotated[int, Ge(1)] = 20
    """Few-shot episode: test clouds per class."""
    episode: Annotated[int, Ge(0)] = 0
    """Few-shot episode: its number; keys the draw of classes and clouds."""


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """What is predicted."""

    task: Literal["classification", "parts"] = "classification"
    """One class per cloud, or one part per point."""


@dataclass(frozen=True)
class PredictOptions:
    """Further flags of `predict`."""

    mesh_points: Annotated[int, Ge(1)] = 4096
    """Points that are sampled from the surface of a mesh."""
    mesh_seed: Annotated[int, Ge(0)] = 0
    """Seed of that sampling."""
    category: str | None = None
    """Part segmentation: the category of the clouds (default: their folder's name)."""
    votes: Annotated[int, Ge(0)] = 0
    """Average the logits of this many random views of every cloud."""
