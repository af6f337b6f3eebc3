"""pt-vision's side of the shared commands."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pt_core.errors import ArtifactError, ConfigError, UserError
from pt_core.run.declare.modality import Demo
from pt_core.run.declare.package import Package

from pt_vision.options import DataOptions, PretrainOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.task import Evaluation, Task
    from torch import Tensor, nn

    from pt_vision.adapters.base import VisionBackbone


MAX_SIDE = 8192
"""Pixels along a side of the images that a card may ask a network for."""


def image_part(backbone: Backbone) -> Backbone:
    """What reads the images: the backbone, or the image tower of two."""
    parts: Mapping[str, Backbone] = getattr(backbone, "parts", {})
    return parts.get("image", backbone)


class Vision(Package):
    """Images: classification on ViT and Swin backbones and by CLIP-type pairs of towers, segmentation on MiT."""

    input_name = "IMAGE"
    class_texts = True

    def default_backbone(self, role: str) -> str:
        return "builtin:mit_shapes" if role == "encoder" else "builtin:vit_glyphs"

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_vision.backbones import load_backbone

        return load_backbone(spec, weights, getattr(options, "image_size", None))

    def reload_backbone(self, spec: str, weights: str | None, preprocessing: Mapping[str, Any], role: str) -> Backbone:
        """A run may have given a ViT or Swin another --image-size."""
        from pt_core.dual import DualBackbone

        from pt_vision.backbones import load_backbone

        backbone = load_backbone(spec, weights)
        if isinstance(backbone, DualBackbone):
            return backbone
        recorded = preprocessing.get("input_size", ())
        size = tuple(recorded)[1:] if isinstance(recorded, (list, tuple)) else ()
        if len(size) != 2 or size == backbone.image_size:
            return backbone
        if not all(isinstance(side, int) and 0 < side <= MAX_SIDE for side in size):
            raise ArtifactError(
                f"the card's input_size {str(recorded)[:100]} is no size of images up to {MAX_SIDE:,} pixels"
            )
        try:
            return load_backbone(spec, weights, size)
        except UserError:  # one that takes no size: what does not fit is told by comparing
            return backbone

    def backbone_of(self, module: nn.Module) -> Backbone:
        from pt_vision.adapters import adapt
        from pt_vision.adapters.own import without_classifier

        return adapt(without_classifier(module), f"module:{type(module).__name__}")

    def plain_batch(self, method: Method, inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
        """One tensor of normalised images, in place or (as HF Trainer gives it) as `pixel_values`."""
        if not inputs and set(named) == {"pixel_values"}:
            inputs, named = (named["pixel_values"],), {}
        if len(inputs) != 1 or named:
            raise TypeError(
                "a wrapped network takes one tensor of images, in place or as pixel_values (HF Trainer: set remove_unused_columns=False)"
            )
        return super().plain_batch(method, inputs, named)

    def weights_problem(self, spec: str, role: str) -> str | None:
        from pt_vision.networks.names import MIT, weights_needed

        return weights_needed(spec) if spec.partition(":")[0] in MIT else None

    def data_problem(self, spec: str) -> str | None:
        from pt_vision.data.names import problem

        return problem(spec)

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_vision.data.load import load_images
        from pt_vision.segmentation.data.load import is_segmentation, load_segmentation

        if is_segmentation(spec):
            return cast("Mapping[str, Dataset]", load_segmentation(spec, options))
        return load_images(spec, options)

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        augment = options.augment if training and options is not None else "none"
        (backbone,) = backbones.values()
        if getattr(task, "unit", "image") == "pixel":
            from pt_vision.segmentation.data.dataset import bind_pixels

            low, high = getattr(options, "scale_min", None), getattr(options, "scale_max", None)
            return bind_pixels(dataset, backbone.preprocessing, augment, low, high)
        bound: Dataset = dataset.bind(image_part(backbone).preprocessing, augment)  # type: ignore[attr-defined]
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_core.run.tasks.classification import Classification

        from pt_vision.segmentation.task import Segmentation

        masks = hasattr(data["train"], "masks")
        if options.task == "segmentation":
            if not masks:
                raise ConfigError(
                    "task 'segmentation' needs a folder with images/ and masks/ (or train/images ...), or builtin:streets"
                )
            return Segmentation(data["train"].classes)  # type: ignore[attr-defined]
        if masks:
            raise ConfigError(
                "these data are images with masks: add --task segmentation, and choose a method for it (see `methods`)"
            )
        return Classification.from_options(options, data["train"])

    def task_kinds(self) -> Sequence[type[Task]]:
        from pt_core.run.tasks.classification import Classification

        from pt_vision.segmentation.task import Segmentation

        return Classification, Segmentation

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_vision.data.inputs import input_images

        found, (backbone,) = input_images(list(items)), method.backbones.values()
        if getattr(method.task, "unit", "image") == "pixel":
            from pt_vision.segmentation.data.dataset import SegmentationDataset

            names = method.task.class_names()
            return SegmentationDataset(found.sources, found.ids, None, names, background=found.background).bind(
                backbone.preprocessing
            )
        return found.bind(image_part(backbone).preprocessing)

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        import torch

        return torch.zeros(batch_size, 3, *cast("VisionBackbone", image_part(backbone)).image_size)

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        picture = dataset.picture(index)  # type: ignore[attr-defined]
        picture.thumbnail((96, 96))
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        if getattr(method.task, "unit", "image") != "pixel":
            return ()
        from pt_vision.segmentation.panels import mask_panels

        return mask_panels(method, data, finals)

    def history_panels(self, method: Method, metrics: Sequence[Mapping[str, Any]]) -> Sequence[Panel]:
        if getattr(method.task, "unit", "image") != "pixel":
            return ()
        from pt_vision.segmentation.panels import condition_panels

        return condition_panels(method, metrics)

    def demos(self) -> Sequence[Demo]:
        from pt_vision.classification import demo as classification
        from pt_vision.segmentation import demo as segmentation

        return *classification.DEMOS, *segmentation.DEMOS

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_vision.classification.pretrain.config import PretrainConfig
        from pt_vision.classification.pretrain.run import pretrain
        from pt_vision.data.load import load_images

        given = {
            name: getattr(options, name) for name in ("steps", "batch_size", "lr") if getattr(options, name) is not None
        }
        if options.kind == "segmenter":
            from pt_vision.segmentation.pretrain import SegmenterConfig, pretrain_segmenter

            if options.data is not None:
                raise ConfigError("kind='segmenter' draws its own data; leave out --data")
            pretrain_segmenter(SegmenterConfig(seed=options.seed, **given), out)
            return f"file:{out}"
        names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "seed")
        config = PretrainConfig(**{name: getattr(options, name) for name in names}, **given)
        if options.data is None:
            pretrain(config, out)
            return f"file:{out}"
        chosen = DataOptions(where=options.where, image_column=options.image_column)
        train = load_images(options.data, chosen)["train"]
        labels = train.labels or []
        pretrain(config, out, ((train.picture(i), labels[i]) for i in range(len(train))), train.classes)
        return f"file:{out}"
