"""The base of the methods here: a backbone that reads point clouds, votes, and no weight decay of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from pt_core import Backbone, Batch, Method, Stage, Task
from pt_core.errors import ConfigError
from pt_core.task import Predictions
from torch import Tensor

from pt_pointcloud.networks.backbone import PointBackbone, Resume

RECIPE: Mapping[str, Any] = {
    "optimizer": "adamw",
    "lr": 5e-4,
    "weight_decay": 0.05,
    "epochs": 300,
    "warmup_epochs": 10,
    "batch_size": 32,
    "clip_norm": 10.0,
}
"""Point-MAE's fine-tuning, which IDPT and its baselines keep."""
BUFFERS = ("*running_mean", "*running_var", "*num_batches_tracked")


class PointMethod(Method):
    """A `Method` whose backbone reads point clouds.

    Attributes:
        predicts: `cloud` for one output per cloud, `point` for one per point; the task has to be of that kind.
    """

    predicts: ClassVar[Literal["cloud", "point"]] = "cloud"
    class_tensors: tuple[str, ...] | None = ("head.*",)
    exports_forward = True  # votes are averaged outside of it

    def __init__(self, config: Any, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        unit = getattr(task, "unit", "cloud")
        if unit != self.predicts:
            name = type(self).__name__
            raise ConfigError(
                f"{name} predicts one output per {self.predicts}, task {task.name!r} needs one per {unit}; choose another method"
            )

    @property
    def backbone(self) -> PointBackbone:
        return cast(PointBackbone, self.backbones["backbone"])

    def read(self, batch: Batch, layer: int = 0) -> Any:
        """What the backbone gets for a batch: its clouds, or their cached tokens that enter block `layer`."""
        frozen = batch.extra.get("frozen")
        return batch.inputs if frozen is None else Resume(frozen, layer)

    def predict_step(self, batch: Batch, rng: Callable[[str], torch.Generator]) -> Predictions:
        """Clouds with an axis of votes, points (batch, vote, N, 3), get the mean of their votes' logits."""
        points = batch.inputs["points"] if isinstance(batch.inputs, Mapping) else batch.inputs
        if not isinstance(points, Tensor) or points.ndim != 4:
            return super().predict_step(batch, rng)
        views = [
            self.task.predict(self(Batch({"points": points[:, vote]}, None, batch.index, batch.ids)))
            for vote in range(points.shape[1])
        ]
        return {name: torch.stack([view[name] for view in views]).mean(0) for name in views[0]}

    def param_groups(self, stage: Stage) -> list[dict[str, Any]]:
        """No decay of vectors, biases and names with "token" (official behaviour)."""
        named = [(name, p) for name, p in self.named_parameters() if p.requires_grad]
        plain = [p for name, p in named if p.ndim == 1 or name.endswith("bias") or "token" in name]
        decay = [p for _, p in named if all(p is not other for other in plain)]
        return [group for group in ({"params": decay}, {"params": plain, "weight_decay": 0.0}) if group["params"]]

    def stages(self, ctx: Any) -> Iterator[Stage]:
        if self.coupled and "train" in ctx.data:
            check_batches(len(ctx.data["train"]), ctx.options)
        yield Stage("train", tracks=BUFFERS)


def check_batches(samples: int, options: Any) -> None:
    """Refuse a batch size that leaves a single cloud in a batch: its BatchNorm has no variance.

    Raises:
        ConfigError: names a batch size that works.
    """
    size = min(options.batch_size, samples)
    parts = getattr(options, "accumulate", 1)

    def alone(size: int) -> bool:
        sizes = {size, samples % size or size}
        return any(number // parts < 2 and number % parts != number for number in sizes) or any(n == 1 for n in sizes)

    if alone(size):
        better = next((n for n in range(size + 1, samples + 1) if not alone(n)), None)
        hint = f"--batch-size {better} works" if better else "give at least 2 training samples"
        raise ConfigError(
            f"--batch-size {options.batch_size} with {samples} training samples leaves a batch or micro-batch of one cloud, which "
            f"BatchNorm cannot normalise; {hint}"
        )
