"""pt-pointcloud's side of the shared commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pt_core.errors import ConfigError
from pt_core.run.declare.package import Package

from pt_pointcloud.options import DataOptions, PredictOptions, PretrainOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    import click
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.task import Evaluation, Task
    from torch import Tensor, nn

    from pt_pointcloud.data.dataset import PointDataset
    from pt_pointcloud.networks.backbone import PointBackbone


class PointClouds(Package):
    """Point clouds: classification and part segmentation on Point-MAE and Point-BERT backbones."""

    input_name = "CLOUD"

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_pointcloud.backbones import load_backbone

        return load_backbone(spec, weights, getattr(options, "normalise", None))

    def backbone_of(self, module: nn.Module) -> Backbone:
        from pt_pointcloud.networks.adapt import adapt

        return adapt(module, f"module:{type(module).__name__}")

    def plain_batch(self, method: Method, inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
        if getattr(method.task, "unit", "cloud") == "cloud":
            return super().plain_batch(method, inputs, named)
        from pt_pointcloud.data.plain import labelled_points

        return labelled_points(inputs, named)

    def load_data(self, spec: str, options: DataOptions, seed: int) -> Mapping[str, Dataset]:
        from pt_pointcloud.data.load import load_clouds

        return load_clouds(spec, options, seed)

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        preprocessing, changes = (
            backbones["backbone"].preprocessing,
            {"parts": getattr(task, "unit", "cloud") == "point"},
        )
        if options is not None:
            if options.normalise not in (None, preprocessing["normalise"]):
                raise ConfigError(
                    f"normalise={options.normalise!r}, but backbone {backbones['backbone'].source!r} was loaded with "
                    f"{preprocessing['normalise']!r}; load it with ,normalise={options.normalise}"
                )
            corrupted = options.corrupt_roles in ("all", "train" if training else "eval")
            changes |= {
                "augment": options.augment if training else "none",
                "corrupt": options.corrupt if corrupted else (),
                "severity": options.severity,
                "corrupt_seed": options.corrupt_seed,
                "votes": 0 if training else options.votes,
            }
        bound: Dataset = dataset.bind(preprocessing, **changes)  # type: ignore[attr-defined]
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        if options.task == "parts":
            from pt_pointcloud.tasks.parts import PartSegmentation

            return PartSegmentation.from_data(data["train"])
        from pt_core.run.tasks.classification import Classification

        return Classification.from_options(options, data["train"])

    def task_kinds(self) -> Sequence[type[Task]]:
        from pt_core.run.tasks.classification import Classification

        from pt_pointcloud.tasks.parts import PartSegmentation

        return Classification, PartSegmentation

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_pointcloud.data.inputs import input_clouds

        return input_clouds(list(items), method, options or PredictOptions())

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        import torch

        return torch.rand(
            batch_size, cast("PointBackbone", backbone).config.points, 3, generator=torch.Generator().manual_seed(0)
        )

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        from pt_pointcloud.drawing.panels import thumbnail

        return thumbnail(cast("PointDataset", dataset), index)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_pointcloud.drawing.panels import cloud_panels

        return cloud_panels(method, data, finals)

    def commands(self) -> Sequence[click.Command]:
        from pt_pointcloud.episodes import episodes_command

        return (episodes_command(self),)

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_pointcloud.pretrain import pretrain, user_clouds

        pretrain(options, out, None if options.data is None else user_clouds(options.data, options.variant))
        return f"file:{out}"
