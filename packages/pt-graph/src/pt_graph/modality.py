"""pt-graph's side of the shared commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Lt
from pt_core.errors import ConfigError, UserError
from pt_core.run.declare.modality import Demo, Lazy, Modality
from pt_core.run.declare.options import ClassificationOptions
from pt_core.run.declare.registry import Registry

if TYPE_CHECKING:  # the command line's help must not wait for torch
    from pt_core.backbone import Backbone
    from pt_core.data import Batch, Dataset
    from pt_core.method import Method
    from pt_core.run.declare.panel import Panel
    from pt_core.run.declare.spec import RunSpec
    from pt_core.task import Evaluation, Task
    from torch import Tensor

DRAWN = 12
"""Graphs drawn in a report."""


@dataclass(frozen=True)
class TaskOptions(ClassificationOptions):
    """Flags of the task."""

    task: Literal["auto", "binary", "classification"] = "auto"  # type: ignore[assignment]
    """Yes/no properties with missing labels (binary), one of several classes (classification), or what the labels look like (auto)."""
    select_by: Literal["auto", "roc_auc", "accuracy", "macro_f1", "nll"] = "auto"
    """Validation metric that selects the weights (auto: roc_auc for binary, accuracy for classification; RELIEF's node tasks: macro_f1)."""


@dataclass(frozen=True)
class PretrainOptions:
    """Flags of `pt-graph pretrain`."""

    data: str | None = None
    """Graphs, as in `fit`; their labels are not used (default: 4,000 generated molecules, the recipe of the built-in backbone)."""
    objective: Literal["attribute_masking", "context_prediction", "masked_edge", "contrastive_edge"] = (
        "attribute_masking"
    )
    """Pre-training task; the first two need molecules."""
    network: Literal["gin", "gcn", "graphsage", "gat"] = "gin"
    """Kind of layers."""
    dim: Annotated[int, Ge(2)] = 64
    """Width (published: 300 for molecules, 128 for node tasks)."""
    layers: Annotated[int, Ge(1)] = 5
    """Layers (published: 5 for molecules, 2 for node tasks)."""
    epochs: Annotated[int, Ge(1)] = 40
    """Passes over the graphs."""
    batch_size: Annotated[int, Ge(2)] = 128
    """Graphs per step."""
    lr: Annotated[float, Gt(0)] = 1e-3
    """Adam learning rate."""
    weight_decay: Annotated[float, Ge(0)] = 5e-5
    """Weight decay."""
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.2
    """Dropout."""
    hops: Annotated[int, Ge(1)] = 2
    """Node data: hops of the graph around a node."""
    min_nodes: Annotated[int, Ge(1)] = 1
    """Node data: smallest graph around a node."""
    max_nodes: Annotated[int, Ge(1)] = 300
    """Node data: largest graph around a node."""
    svd_dim: Annotated[int, Ge(1)] | None = 100
    """Node data: reduce the features to this many dimensions."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed."""


class Graph(Modality):
    """Graphs: molecules with yes/no properties, graph and node classification."""

    registry = Registry("pt_graph", Path(__file__).parent / "methods")
    input_name = "INPUT"
    data_options = Lazy("pt_graph.data:DataOptions")
    task_options = TaskOptions
    predict_options = Lazy("pt_graph.inputs:PredictOptions")

    def default_backbone(self, role: str) -> str:
        return "builtin:gin_molecules"

    def load_backbone(self, spec: str, weights: str | None, options: Any | None, role: str) -> Backbone:
        from pt_graph.backbones import load_backbone

        return load_backbone(spec, weights)

    def load_data(self, spec: str, options: Any, seed: int) -> Mapping[str, Dataset]:
        from pt_graph.data import load_graphs

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
        from pt_graph.tasks import BinaryTasks, GraphClassification

        train: Any = data["train"]
        kind = options.task if options.task != "auto" else ("classification" if train.targets is None else "binary")
        task: BinaryTasks | GraphClassification
        if kind == "binary":
            if train.tasks is None:
                raise ConfigError(
                    "--task binary needs yes/no labels; these data have classes (or none): use --task classification"
                )
            task = BinaryTasks(train.tasks)
        else:
            if train.labels is None:
                raise ConfigError(
                    "--task classification needs one class per graph; these data have yes/no properties (or no labels)"
                )
            task = GraphClassification.from_options(options, train)  # type: ignore[assignment]
        known = ("roc_auc", "accuracy", "nll") if kind == "binary" else ("accuracy", "macro_f1", "nll")
        if options.select_by != "auto":
            if options.select_by not in known:
                raise ConfigError(
                    f"--select-by {options.select_by} is no metric of {kind} tasks; use {', '.join(known)}"
                )
            task.select = (options.select_by, "min" if options.select_by == "nll" else "max")
        sizes = (graph.nodes for part in data.values() for graph in getattr(part, "graphs", ()))
        task.largest = max(sizes, default=None)
        return task

    def task_from_json(self, spec: Mapping[str, Any]) -> Task:
        from pt_graph.tasks import task_from_json

        return task_from_json(spec)

    def inputs(self, items: Sequence[Any], method: Method, options: Any | None) -> Dataset:
        from pt_graph.inputs import input_graphs

        found = input_graphs(items, options)
        return self.bind(found, method.backbones, method.task, None, training=False)

    def example(self, spec: RunSpec, classes: int, batch_size: int) -> tuple[Mapping[str, Backbone], Task, Batch]:
        """Rings of 24 nodes, about the size of a drug-like molecule."""
        import torch
        from pt_core.data import Batch
        from pt_core.run.declare.roles import by_role

        from pt_graph.backbones import load_backbone
        from pt_graph.graphs import collate, single
        from pt_graph.tasks import BinaryTasks, GraphClassification

        source = by_role("--backbone", spec.run.backbone, ["backbone"]).get(
            "backbone", self.default_backbone("backbone")
        )
        weights = by_role("--weights", spec.run.weights, ["backbone"]).get("backbone")
        backbone = load_backbone(source, weights, device="meta")
        nodes = 24
        here = torch.arange(nodes)
        edges = torch.cat([torch.stack([here, (here + 1) % nodes]), torch.stack([(here + 1) % nodes, here])], 1)
        x = torch.zeros(nodes, 2, dtype=torch.long) if backbone.categorical else torch.zeros(nodes, backbone.prompt_dim)
        one = single(x, edges, torch.zeros(2 * nodes, 2) if backbone.categorical else None)
        binary = spec.task.task != "classification" and classes <= 2
        task: Task = (
            BinaryTasks(["property"]) if binary else GraphClassification([f"class {i}" for i in range(classes)])
        )
        target = torch.ones(batch_size, 1) if binary else torch.zeros(batch_size, dtype=torch.long)
        ids = [str(row) for row in range(batch_size)]
        return {"backbone": backbone}, task, Batch(collate([one] * batch_size), target, torch.arange(batch_size), ids)

    def blank_inputs(self, backbone: Backbone, batch_size: int) -> Tensor:
        raise UserError("graphs vary in size, so pt-graph exports no programs; use --format artifact")

    def thumbnail(self, dataset: Dataset, index: int) -> bytes | None:
        from pt_graph.drawing import draw

        return draw(dataset.sample(index, epoch=None, seed=0), side=120)

    def panels(self, method: Method, data: Mapping[str, Dataset], finals: Mapping[str, Evaluation]) -> Sequence[Panel]:
        """Graphs with their prompted nodes coloured by the size of the prompt."""
        import torch
        from pt_core.run.declare.panel import Panel

        from pt_graph.drawing import draw
        from pt_graph.method import GraphMethod

        role = "test" if "test" in data else "val" if "val" in data else "train"
        rows = list(range(min(DRAWN, len(data[role]))))
        if not rows or not isinstance(method, GraphMethod):
            return ()
        graphs = [data[role].sample(row, epoch=None, seed=0) for row in rows]
        batch = data[role].collate(rows, graphs).to(method.backbone.device)
        method.eval()
        if not hasattr(batch.inputs, "split"):  # features alone were kept
            return ()
        with torch.no_grad():
            prompts = method.node_prompts(batch.inputs, batch)
        if prompts is None:
            return ()
        norms = prompts.detach().norm(dim=1)
        top = float(norms.max())
        parts = norms.split(batch.inputs.sizes.tolist())
        items = [
            {
                "picture": draw(graph, part, top=top),
                "id": batch.ids[row],
                "predicted": f"{int((part > 0).sum())} of {len(part)}, largest {float(part.max()):.2g}",
            }
            for row, (graph, part) in enumerate(zip(graphs, parts, strict=True))
        ]
        note = f"Grey: no prompt; darkest: norm {top:.3g}. One colour scale for all."
        return (Panel(f"Prompted nodes ({role})", "images", {"items": items}, note),)

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
        from pt_graph.data import DataOptions
        from pt_graph.pretrain import PretrainConfig, pretrain, pretraining_graphs

        names = (
            "objective",
            "network",
            "dim",
            "layers",
            "epochs",
            "batch_size",
            "lr",
            "weight_decay",
            "dropout",
            "seed",
        )
        config = PretrainConfig(**{name: getattr(options, name) for name in names})
        how = DataOptions(
            hops=options.hops, min_nodes=options.min_nodes, max_nodes=options.max_nodes, svd_dim=options.svd_dim
        )
        graphs, source = pretraining_graphs(options.data, options.seed, how)
        pretrain(config, graphs, out, source)
        return f"file:{out}"
