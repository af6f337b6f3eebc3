"""Flags of the package's commands. The help reads them, so nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt
from pt_core.run.declare.fields import Depth, Heads, PeakRate, Seed, WeightDecay, Width
from pt_core.run.declare.options import ClassificationOptions

Unequal = Literal["error", "pad", "crop"]
Missing = Literal["error", "interpolate", "drop"]


@dataclass(frozen=True)
class ReadOptions:
    """How files of series are read, the same for training and for prediction."""

    domain_column: str | None = None
    """Column (npz: array) with the domain (default: domain, subject, user, load ...)."""
    group_column: str | None = None
    """Column (npz: array) with the recording; splits keep every recording on one side (default: group, recording, execution)."""
    series_column: str | None = None
    """Column with the series id of a table (default: series, series_id, id)."""
    time_column: str | None = None
    """Column with the time of a table (default: time, t, step; where there is none, rows stay in the order of the file)."""
    time_format: str | None = None
    """How times are written, as in `%d/%m/%Y %H:%M` (default: numbers, ISO dates, clock times, and dates that can be read in one way)."""
    drop_columns: tuple[str, ...] = ()
    """Columns of a table that are no channels and are left out."""
    channels: Annotated[int, Ge(1)] | None = None
    """Channels of AdaTime files and archives, where arrays may have to be transposed."""
    skip_files: bool = False
    """Leave out files of a folder that cannot be read, with a note, instead of stopping."""


@dataclass(frozen=True)
class DataOptions(ReadOptions):
    """How multi-domain series are read and which scenario is made of them."""

    target: tuple[str, ...] = ()
    """Target domain: a name, or patterns such as `watch:*` whose domains together are the target."""
    sources: tuple[str, ...] = ()
    """Source domains, names or patterns (default: all but the target, leave-one-domain-out)."""
    target_shots: Annotated[int, Ge(0)] = 5
    """k, labelled target windows per class (a class that has fewer gives all it has); 0 adapts without target labels."""
    exact_target_shots: bool = False
    """Refuse a target that has fewer than k windows of a class, instead of taking those it has with a note."""
    target_test_fraction: Annotated[float, Gt(0), Lt(1)] = 0.5
    """Share of the target that is kept for the test; shots and unlabelled windows come from the rest."""
    val_fraction: Annotated[float, Gt(0), Lt(1)] = 0.2
    """Share of every source that is kept for validation."""
    normalise: Literal["train", "domain", "none"] = "train"
    """`train`: z-scores by the statistics of the source training windows; `domain`: every part of a domain by its own (AdaTime's files;
    uses statistics of the target's test part); `none`: as they are."""
    window: Annotated[int, Ge(2)] = 128
    """Steps of a window cut from long recordings."""
    stride: Annotated[int, Ge(1)] = 64
    """Steps between the windows of a recording."""
    label_column: str | None = None
    """Column with the class of a table (default: label, class, y)."""
    unequal: Unequal = "error"
    """Series of different length: refuse; `pad` to the longest, behind a mask (the patch encoder reads nothing beyond a series' end);
    `crop` to the first steps of each, as many as the shortest has."""
    missing: Missing = "error"
    """Missing values (empty cells, NaN, ?): refuse; `interpolate` in time, channel by channel; `drop` the windows that have some."""
    shift: Annotated[float, Ge(0)] = 1.0
    """How far the subjects of builtin: data are from each other."""


@dataclass(frozen=True)
class PredictOptions(ReadOptions):
    """Flags of `pt-timeseries predict`; unequal lengths and missing values are treated as in the run's training."""


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["classification"] = "classification"
    """What is predicted."""


@dataclass(frozen=True)
class EncoderSizes:
    """Sizes that an encoder has, whatever series it reads."""

    patch: Annotated[int, Ge(1), Le(65_536)] = 16
    """p, steps of a patch."""
    dim: Annotated[Width, Le(65_536)] = 64
    depth: Annotated[Depth, Le(1024)] = 3
    heads: Heads = 4
    hidden: Annotated[int, Ge(1), Le(65_536)] = 128
    """Width of the feed-forward layers."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Dropout while the encoder itself is trained."""
    experts: Annotated[int, Ge(0), Le(1024)] = 0
    """E, experts per feed-forward layer (Mixture-of-Experts variant, top-1 routing); 0 is one plain layer."""


@dataclass(frozen=True)
class PretrainOptions(EncoderSizes, DataOptions):
    """Flags of `pt-timeseries pretrain`."""

    data: str | None = None
    """Labelled multi-domain series, as in `fit` (default: generated sensor data, the recipe of the built-in backbone)."""
    architecture: Literal["patch", "tsai:TST", "tsai:PatchTST", "tsai:InceptionTime"] = "patch"
    """Encoder: the card's patch Transformer, or one of tsai's architectures (extra `tsai`)."""
    patch_stride: Annotated[int, Ge(1), Le(65_536)] = 8
    """s, steps between patches."""
    epochs: Annotated[float, Gt(0)] = 40
    """Passes over the sources, supervised."""
    masked_epochs: Annotated[float, Ge(0)] = 0
    """Passes of masked-patch reconstruction before that."""
    mask_ratio: Annotated[float, Gt(0), Lt(1)] = 0.4
    """Share of masked patches."""
    batch_size: Annotated[int, Ge(2)] = 32
    """Windows per step."""
    lr: PeakRate = 1e-3
    """Peak learning rate of AdamW (cosine schedule)."""
    weight_decay: WeightDecay = 1e-4
    seed: Seed = 0
