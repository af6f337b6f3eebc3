"""pt-vision's side of the shared commands."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

from annotated_types import Ge
from pt_core.errors import ArtifactError
from pt_core.run.modality import Demo, Modality
from pt_core.run.options import ClassificationOptions
from pt_core.run.registry import Registry

from pt_vision import __version__

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.fit import RunSpec
    from pt_core.task import Task
    from torch import Tensor

    from pt_vision.adapters._common import VisionBackbone


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["classification"] = "classification"
    """What is predicted."""


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-vision pretrain`."""

    data: str | None = None
    """Labelled images, as in `fit` (default: drawn glyphs, the recipe of the built-in backbone)."""
    where: tuple[str, ...] = ()
    """Use only rows with COLUMN=VALUE of a table."""
    image_column: str | None = None
    """Table column with the image (default: path, image, img, jpeg ...)."""
    img_size: Annotated[int, Ge(8)] = 32
    """Input size in pixels."""
    patch_size: Annotated[int, Ge(2)] = 8
    """Patch size in pixels."""
    embed_dim: Annotated[int, Ge(8)] = 160
    """Width d."""
    depth: Annotated[int, Ge(1)] = 6
    """Number of blocks."""
    num_heads: Annotated[int, Ge(1)] = 5
    """Attention heads."""
    steps: Annotated[int, Ge(1)] = 2000
    """Optimiser steps."""
    batch_size: Annotated[int, Ge(2)] = 256
    """Images per step."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed."""


class Vision(Modality):
    """Images: classification on ViT and Swin backbones."""

    package = "pt-vision"
    registry = Registry("pt_vision", Path(__file__).parent / "methods")
    input_name = "IMAGE"

    @property
    def data_options(self) -> type:
        from pt_vision.data import DataOptions

        return DataOptions

    @property
    def task_options(self) -> type:
        return TaskOptions

    def version(self) -> str:
        return __version__

    def backbones(self) -> Sequence[tuple[str, str]]:
        from pt_vision.backbones import list_backbones

        return list_backbones()

    def default_backbone(self, role: str) -> str:
        return "builtin:vit_glyphs"

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_vision.backbones import load_backbone

        return load_backbone(spec, weights, getattr(options, "image_size", None))

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_vision.data import load_images

        return load_images(spec, options)

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        augment = options.augment if training and options is not None else "none"
        bound: Dataset = dataset.bind(backbones["backbone"].preprocessing, augment)  # type: ignore[attr-defined]
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_core.run.classification import Classification

        return Classification.from_options(options, data["train"])

    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        from pt_core.run.classification import Classification

        if spec.get("name") != Classification.name:
            raise ArtifactError(f"the artifact's task {spec.get('name')!r} is unknown to this pt-vision")
        return Classification.from_json(spec)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_vision.inputs import input_images

        return input_images(list(items)).bind(method.backbone.preprocessing)

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        import torch
        from pt_core.data import Batch
        from pt_core.run.classification import Classification
        from pt_core.run.fit import by_role

        from pt_vision.backbones import load_backbone

        source = by_role("--backbone", spec.run.backbone, ["backbone"]).get(
            "backbone", self.default_backbone("backbone")
        )
        weights = by_role("--weights", spec.run.weights, ["backbone"]).get("backbone")
        backbone = load_backbone(source, weights, spec.data.image_size, device="meta")
        images = torch.zeros(batch_size, 3, *backbone.image_size, device="meta")
        rows = torch.arange(batch_size)
        batch = Batch(images, torch.zeros(batch_size, dtype=torch.long), rows, [str(row) for row in range(batch_size)])
        return {"backbone": backbone}, Classification([f"class {i}" for i in range(classes)]), batch

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        import torch

        return torch.zeros(batch_size, 3, *cast("VisionBackbone", backbone).image_size)

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        picture = dataset.picture(index)  # type: ignore[attr-defined]
        picture.thumbnail((96, 96))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    def demos(self) -> Sequence[Demo]:
        from pt_vision.demo import digits

        return (
            Demo(
                "digits",
                "scanned digits, 16 shots per class: prompts against linear probing and full fine-tuning",
                digits,
            ),
        )

    def pretrain_options(self) -> type:
        return PretrainOptions

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_vision.data import DataOptions, load_images
        from pt_vision.pretrain import PretrainConfig, pretrain

        names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "steps", "batch_size", "lr", "seed")
        config = PretrainConfig(**{name: getattr(options, name) for name in names})
        if options.data is None:
            pretrain(config, out)
            return f"file:{out}"
        chosen = DataOptions(where=options.where, image_column=options.image_column)
        train = load_images(options.data, chosen)["train"]
        labels = train.labels or []
        pretrain(config, out, ((train.picture(i), labels[i]) for i in range(len(train))), train.classes)
        return f"file:{out}"
