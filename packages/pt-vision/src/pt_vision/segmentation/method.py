"""The bases of the segmentation methods, and what they share: random crops, the published training options, statistics of norms."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from pt_core import Backbone, Batch, Method, Stage, Task
from pt_core.data import Dataset
from pt_core.errors import ConfigError
from pt_core.stage import Stream
from pt_core.task import Predictions
from torch import Tensor

from pt_vision.segmentation.data.crops import TrainingView
from pt_vision.segmentation.sliding import slide

if TYPE_CHECKING:
    from pt_vision.adapters.mit import MitBackbone

STATISTICS = ("*running_mean", "*running_var", "*num_batches_tracked")
HEAD_RATE = 10.0
RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 6e-5,
    "weight_decay": 0.01,
    "batch_size": 2,
    "schedule": "linear",
    "warmup_epochs": 1,
    "augment": "flip",
}
"""Training options of whole segmenters; how many steps they take is the method's."""


class SegmentationMethod(Method):
    """A `Method` whose backbone (role `encoder`) is a MiT and whose output is one logit per class and pixel."""

    coupled = True  # BatchNorm in the decoder

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        unit = getattr(task, "unit", "image")
        if unit != "pixel":
            raise ConfigError(
                f"{type(self).__name__} predicts a class per pixel, task {task.name!r} needs one per image: add --task segmentation (wrap: "
                "classes=pt_vision.Segmentation(NAMES))"
            )
        if not hasattr(self.backbone, "stage_dims"):
            raise ConfigError(
                f"backbone {self.backbone.source!r} is no MiT; segmentation takes mit:b0 ... b5, segformer:b0 ... b5, timm:pvt_v2_*, or "
                "builtin:mit_shapes"
            )

    @property
    def backbone(self) -> MitBackbone:
        return cast("MitBackbone", self.backbones["encoder"])

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        """Logits of every image; images that were padded to a common size are run at their own."""
        sizes = batch.extra.get("size")
        if sizes is None:
            return self.task.predict(self(batch))
        logits = []
        for n, (rows, columns) in enumerate(sizes.tolist()):
            own = Batch(batch.inputs[n : n + 1, :, :rows, :columns], None, batch.index[n : n + 1], batch.ids[n : n + 1])
            found = self(own)
            room = (0, batch.inputs.shape[3] - columns, 0, batch.inputs.shape[2] - rows)
            logits.append(torch.nn.functional.pad(found, room))
        return self.task.predict(torch.cat(logits))


class WindowMethod(SegmentationMethod):
    """A method that is trained on random crops and predicts by windows of their size.

    Attributes:
        crop: side of both, in pixels.
    """

    crop: int

    @abstractmethod
    def logits(self, images: Tensor) -> Tensor:
        """(batch, class, row, column) of one window."""

    def forward(self, batch: Batch) -> Tensor:
        """(batch, class, row, column) logits; images larger than a crop are covered by windows."""
        return slide(self.logits, batch.inputs, self.crop)

    def stages(self, ctx: Any) -> Iterator[Stage]:
        yield Stage("train", streams={"train": Stream("train", view=crops(self.crop))})


def crops(size: int, **options: Any) -> Callable[[Dataset], Dataset]:
    """The view of a stream that draws random crops; data that bring views of their own (`crops`) keep them."""

    def view(dataset: Dataset) -> Dataset:
        own = getattr(dataset, "crops", None)
        return own(size, **options) if own is not None else cast("Dataset", TrainingView(dataset, size, **options))

    return view


def parameter_groups(method: Method) -> list[dict[str, Any]]:
    """As released: decoder heads (names with "head" or "attention") learn 10 times as fast; tensors of norms do not decay."""
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            head = name.startswith(("network.head.", "network.attention."))
            groups.setdefault((HEAD_RATE if head else 1.0, "norm" in name), []).append(parameter)
    return [
        {"params": members, "lr_scale": rate, **({"weight_decay": 0.0} if norm else {})}
        for (rate, norm), members in groups.items()
    ]


def steps_of(ctx: Any, samples: int) -> int:
    """Steps that a stage takes whose first stream has so many samples."""
    options = ctx.options
    return int(options.steps or math.ceil(options.epochs * math.ceil(samples / min(options.batch_size, samples))))


def supervised(method: SegmentationMethod, size: int, max_share: float = 1.0) -> Iterator[Stage]:
    """One stage on labelled crops."""
    view = crops(size, max_share=max_share)
    yield Stage("train", tracks=STATISTICS, streams={"train": Stream("train", view=view)})
