"""pt-timeseries' side of the shared commands: what there is, imported where it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pt_core.errors import ArtifactError
from pt_core.run.declare.modality import Demo, Modality
from pt_core.run.declare.registry import Registry

from pt_timeseries.options import DataOptions, PretrainOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.run.declare.spec import RunSpec
    from pt_core.task import Evaluation, Task
    from torch import Tensor

    from pt_timeseries.adapters.base import SeriesBackbone


class TimeSeries(Modality):
    """Windows of multivariate time series from several domains."""

    registry = Registry("pt_timeseries", Path(__file__).parent / "methods")
    input_name = "FILE"
    data_options = DataOptions
    task_options = TaskOptions

    def default_backbone(self, role: str) -> str:
        from pt_timeseries.backbones import DEFAULT

        return DEFAULT

    def backbone_problem(self, spec: str, role: str) -> str | None:
        from pt_timeseries.backbones import problem

        return problem(spec)

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_timeseries.backbones import load_backbone

        return load_backbone(spec, weights)

    def data_problem(self, spec: str) -> str | None:
        from pt_timeseries.data.sources import problem

        return problem(spec)

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_timeseries.data.scenario import load_windows

        return load_windows(spec, options, seed)

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        from pt_timeseries.adapters.base import check_data

        check_data(cast("SeriesBackbone", backbones["backbone"]), dataset)
        bound: Dataset = dataset.bind(task)  # type: ignore[attr-defined]
        return bound

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_timeseries.tasks.classification import DomainClassification

        return DomainClassification.of(options, data["train"])

    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        from pt_timeseries.tasks.classification import DomainClassification

        if spec.get("name") != DomainClassification.name:
            raise ArtifactError(f"the artifact's task {spec.get('name')!r} is unknown to this pt-timeseries")
        return DomainClassification.from_json(spec)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_timeseries.adapters.base import check_data
        from pt_timeseries.data.inputs import input_windows
        from pt_timeseries.tasks.classification import DomainClassification

        backbone, task = cast("SeriesBackbone", method.backbone), cast("DomainClassification", method.task)
        found = input_windows(list(items), backbone.length, task.normalise)
        check_data(backbone, found)
        return found.bind(task)

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        from pt_timeseries.example import example

        return example(spec, classes, batch_size)

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        import torch

        series = cast("SeriesBackbone", backbone)
        return torch.zeros(batch_size, series.channels, series.length)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_timeseries.tasks.panels import domain_panel

        return [domain_panel(data["test"], finals["test"].records)] if "test" in finals else []

    def demos(self) -> Sequence[Demo]:
        from pt_timeseries.demo import motion

        return (
            Demo(
                "motion",
                "activities of new subjects: POND against common prompt, source only, CORAL, CoDATS and full",
                motion,
            ),
        )

    def pretrain_options(self) -> type:
        return PretrainOptions

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        import click

        from pt_timeseries.pretrain import run

        report = run(options, out)
        score = (
            ""
            if report.val_macro_f1 is None
            else f", macro F1 {report.val_macro_f1:.3f} on the sources' validation windows"
        )
        click.echo(f"written: {out} ({report.seconds:.0f} s{score})")
        return f"file:{out}"
