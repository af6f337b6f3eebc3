"""pt-graph's side of the shared commands: what there is, imported where it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError
from pt_core.run.declare.modality import Demo, Modality
from pt_core.run.declare.registry import Registry

from pt_graph.options import DataOptions, PredictOptions, PretrainOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.run.declare.spec import RunSpec
    from pt_core.task import Evaluation, Task
    from torch import Tensor


class Graph(Modality):
    """Graphs: molecules with yes/no properties, graph and node classification."""

    registry = Registry("pt_graph", Path(__file__).parent / "methods")
    input_name = "INPUT"
    data_options = DataOptions
    task_options = TaskOptions
    predict_options = PredictOptions

    def default_backbone(self, role: str) -> str:
        from pt_graph.backbones import DEFAULT

        return DEFAULT

    def backbone_problem(self, spec: str, role: str) -> str | None:
        from pt_graph.backbones import problem

        return problem(spec)

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_graph.backbones import load_backbone

        return load_backbone(spec, weights)

    def data_problem(self, spec: str) -> str | None:
        from pt_graph.data.sources import problem

        return problem(spec)

    def load_data(self, spec: str, options: DataOptions, seed: int) -> Mapping[str, Dataset]:
        from pt_graph.data.load import load_graphs

        return dict(load_graphs(spec, options, seed))

    def bind(
        self, dataset: Dataset, backbones: Mapping[str, Backbone], task: Task, options: Any | None, training: bool
    ) -> Dataset:
        """Graphs need no preparation; data of another kind than the backbone reads are refused here."""
        backbone: Any = backbones["backbone"]
        if len(dataset):
            backbone.check(dataset.sample(0, epoch=None, seed=0))
        return dataset

    def make_task(self, options: TaskOptions, data: Mapping[str, Dataset]) -> Task:
        from pt_graph.tasks.build import task_of

        return task_of(options, data)

    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        from pt_graph.tasks.build import task_from_json

        return task_from_json(spec)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_graph.data.inputs import input_graphs

        found = input_graphs(items, options)
        return self.bind(found, method.backbones, method.task, None, training=False)

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        from pt_graph.example import example

        return example(spec, classes, batch_size)

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        raise UserError("graphs vary in size, so pt-graph exports no programs; use --format artifact")

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        from pt_graph.drawing.picture import draw

        return draw(dataset.sample(index, epoch=None, seed=0), side=120)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_graph.drawing.panels import prompted_nodes

        return prompted_nodes(method, data)

    def demos(self) -> Sequence[Demo]:
        from pt_graph.demo import molecules

        return (
            Demo(
                "molecules",
                "generated molecules, 50 shots: feature prompts against a linear probe and full fine-tuning",
                molecules,
            ),
        )

    def pretrain_options(self) -> type:
        return PretrainOptions

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_graph.pretrain import PretrainConfig, pretrain, pretraining_graphs

        config = PretrainConfig(**{field.name: getattr(options, field.name) for field in fields(PretrainConfig)})
        how = DataOptions(
            hops=options.hops, min_nodes=options.min_nodes, max_nodes=options.max_nodes, svd_dim=options.svd_dim
        )
        graphs, source = pretraining_graphs(options.data, options.seed, how)
        pretrain(config, graphs, out, source)
        return f"file:{out}"
