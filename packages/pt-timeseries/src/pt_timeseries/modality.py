"""pt-timeseries' side of the shared commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pt_core.run.declare.package import Package

from pt_timeseries.options import PretrainOptions, ReadOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.task import Evaluation, Task
    from torch import Tensor, nn

    from pt_timeseries.adapters.base import SeriesBackbone


class TimeSeries(Package):
    """Windows of multivariate time series from several domains."""

    input_name = "FILE"

    def backbone_of(self, module: nn.Module) -> Backbone:
        from pt_timeseries.adapters.adapt import adapt

        return adapt(module, f"module:{type(module).__name__}")

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

    def task_kinds(self) -> Sequence[type[Task]]:
        from pt_timeseries.tasks.classification import DomainClassification

        return (DomainClassification,)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_core.run.command.runs import say

        from pt_timeseries.adapters.base import check_data
        from pt_timeseries.data.inputs import input_windows
        from pt_timeseries.tasks.classification import DomainClassification

        backbone, task = cast("SeriesBackbone", method.backbone), cast("DomainClassification", method.task)
        reading = options if isinstance(options, ReadOptions) else None
        found = input_windows(list(items), backbone.length, task.normalise, reading, task.unequal, task.missing)
        for note in found.notes:
            say(note)
        check_data(backbone, found)
        return found.bind(task)

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        import torch

        from pt_timeseries.adapters.base import PROBE

        series = cast("SeriesBackbone", backbone)
        return torch.zeros(batch_size, series.channels, series.length or PROBE)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_timeseries.tasks.panels import domain_panel

        return [domain_panel(data["test"], finals["test"].records)] if "test" in finals else []

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
