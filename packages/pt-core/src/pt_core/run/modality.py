"""What a modality package plugs into the shared commands: its methods, backbones, data and tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt, Lt

from pt_core.run.registry import Registry

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from torch import Tensor

    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.task import Task


@dataclass(frozen=True)
class RunOptions:
    """What is tuned on what; the same in every package."""

    data: tuple[str, ...] = ()
    """Where the data are: a path or a `builtin:` name, or ROLE=PATH where a method needs several roles (repeatable)."""
    backbone: str | None = None
    """Pretrained network, such as `timm:vit_small_patch16_224` or `builtin:...` (default: the package's small built-in one)."""
    weights: str | None = None
    """Local weight file or folder for the backbone (safetensors, or .pth read without unpickling code)."""
    task: str = "classification"
    """What is predicted."""
    shots: Annotated[int, Ge(1)] | None = None
    """Train on this many samples per class, drawn with the sampling seed."""
    class_weights: bool = False
    """Weight the loss by inverse class frequency."""
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Label smoothing of the cross-entropy."""
    ordinal: bool = False
    """The classes are ordered grades: report quadratic-weighted kappa."""
    cache_limit: Annotated[float, Gt(0)] = 4.0
    """Upper bound of the feature cache, in GB."""
    init_from: str | None = None
    """Run folder of the same method whose tuned tensors this run starts from."""
    allow_backbone_mismatch: bool = False
    """Accept an artifact that was tuned on another backbone (recorded)."""


@dataclass(frozen=True)
class Demo:
    """A built-in demonstration: methods compared on built-in data."""

    name: str
    summary: str
    run: Any
    """Callable (out: Path, seeds: int, fast: bool) -> None."""


class Modality(ABC):
    """One package's side of the commands.

    Attributes:
        package: distribution and command name, such as `pt-vision`.
        registry: its methods.
        default_backbone: spec used without --backbone.
        input_name: what `predict` reads, for the help.
    """

    package: str
    registry: Registry
    default_backbone: str
    input_name: str = "INPUT"

    @property
    @abstractmethod
    def data_options(self) -> type:
        """Dataclass of the data flags."""

    @abstractmethod
    def version(self) -> str: ...

    @abstractmethod
    def backbones(self) -> Sequence[tuple[str, str]]:
        """(spec, one-line description) of what --backbone accepts."""

    @abstractmethod
    def load_backbone(self, spec: str, weights: str | None, options: Any | None) -> Backbone: ...

    @abstractmethod
    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        """Roles found behind a path (train, val, test), not yet prepared for a backbone."""

    @abstractmethod
    def bind(self, dataset: Dataset, backbone: Backbone, options: Any | None, training: bool) -> Dataset:
        """The dataset with the backbone's preprocessing, and augmentation where `training`."""

    @abstractmethod
    def make_task(self, run: RunOptions, data: Mapping[str, Dataset]) -> Task: ...

    @abstractmethod
    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        """The task stored in a card.

        Raises:
            ArtifactError: unknown or malformed.
        """

    @abstractmethod
    def inputs(self, items: Sequence[Any], backbone: Backbone) -> Dataset:
        """Unlabelled inputs for `predict`: paths, folders, or in-memory samples."""

    def example(self, run: RunOptions, options: Any, classes: int, batch_size: int) -> tuple[Backbone, Task, Batch]:
        """What `budget` counts with: the run's backbone without weights (built under `torch.device("meta")`), a task, and
        a labelled batch of zeros. Reads no data and no weights."""
        raise TypeError(f"{self.package} has no budget")

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        """Preprocessed inputs of zeros, shaped as the backbone reads them; `export` traces with them."""
        raise TypeError(f"{self.package} has no programs to export")

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        """PNG of a sample for the report, or None."""
        return None

    def demos(self) -> Sequence[Demo]:
        return ()

    def pretrain_options(self) -> type | None:
        """Dataclass of the `pretrain` command's flags, or None where the package has no pretraining."""
        return None

    def pretrain(self, options: Any, out: Path) -> str:
        """Pretrain a small backbone and write it to `out`; returns the spec that loads it."""
        raise TypeError(f"{self.package} has no pretraining")
