"""pt-graph's side of the shared commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pt_core.errors import UserError
from pt_core.run.declare.package import Package

from pt_graph.options import DataOptions, PretrainConfig, PretrainOptions, TaskOptions

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.task import Evaluation, Task
    from torch import Tensor, nn


class Graph(Package):
    """Graphs: molecules with yes/no properties, graph and node classification."""

    input_name = "INPUT"

    def backbone_of(self, module: nn.Module) -> Backbone:
        from pt_graph.networks.adapt import adapt

        return adapt(module, f"module:{type(module).__name__}")

    def plain_batch(self, method: Method, inputs: Sequence[Any], named: Mapping[str, Any]) -> Batch:
        from pt_graph.data.plain import plain_batch

        return plain_batch(inputs, named)

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

    def task_kinds(self) -> Sequence[type[Task]]:
        from pt_graph.tasks.binary import BinaryTasks
        from pt_graph.tasks.classification import GraphClassification

        return BinaryTasks, GraphClassification

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_graph.data.inputs import input_graphs

        found = input_graphs(items, options)
        return self.bind(found, method.backbones, method.task, None, training=False)

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        raise UserError("graphs vary in size, so pt-graph exports no programs; use --format artifact")

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        from pt_graph.drawing.picture import draw

        return draw(dataset.sample(index, epoch=None, seed=0), side=120)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        from pt_graph.drawing.panels import prompted_nodes

        return prompted_nodes(method, data)

    def pretrain(self, options: PretrainOptions, out: Path) -> str:
        from pt_graph.pretrain import pretrain, pretraining_graphs

        config = PretrainConfig(**{field.name: getattr(options, field.name) for field in fields(PretrainConfig)})
        how = DataOptions(
            hops=options.hops, min_nodes=options.min_nodes, max_nodes=options.max_nodes, svd_dim=options.svd_dim
        )
        graphs, source = pretraining_graphs(options.data, options.seed, how)
        pretrain(config, graphs, out, source)
        return f"file:{out}"
