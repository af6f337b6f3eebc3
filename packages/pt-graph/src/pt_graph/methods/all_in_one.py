"""All-in-One: a small prompt graph is joined to every graph (Sun et al., KDD 2023, arXiv 2307.01504)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt, Le
from pt_core import Add, Backbone, Batch, Optimiser, Stage, Task
from pt_core.errors import ConfigError, DataError
from pt_core.prompts import overlaid
from torch import Tensor, nn
from torch.nn import functional

from pt_graph.graphs.batch import Graphs
from pt_graph.graphs.structure import SELF_LOOP
from pt_graph.meta import adapted_loss
from pt_graph.method import GraphMethod
from pt_graph.networks.head import build_head

ID = "all_in_one"
TITLE = "All in One: Multi-Task Prompting for Graph Neural Networks"
TUNES = "prompt tokens that join each graph as nodes, and a head"
NEEDS = {"train": "labelled graphs"}


@dataclass(frozen=True)
class AllInOneConfig:
    mode: Literal["insert_nodes", "weighted_sum", "light"] = "insert_nodes"
    """Published code: tokens become nodes with edges to the graph's nodes. Paper: each node adds its weighted tokens. `light`: no head, one
    prompt graph per class."""
    tokens: Annotated[int, Ge(1)] | None = None
    """T (default: 10; light 100 per class)."""
    inner_prune: Annotated[float, Ge(0), Le(1.01)] | None = None
    """Tokens i -> j are linked where sigmoid(z_i . z_j) is at least this (default: 0.3; light 0.01). Above 1: no edges."""
    cross_prune: Annotated[float, Ge(0), Le(1.01)] = 0.1
    """Token k -> node v are linked (or added) where sigmoid(z_k . x_v) is at least this. Above 1: no edges."""
    double_softmax: bool = False
    """Softmax inside the head as published, before the cross-entropy applies its own (classes only)."""
    head_epochs: Annotated[int, Ge(1)] = 1
    """Epochs of the head before ..."""
    prompt_epochs: Annotated[int, Ge(1)] = 1
    """... epochs of the tokens, in turn."""
    head_lr: Annotated[float, Gt(0)] = 1e-2
    """Learning rate of the head; tokens use --lr."""
    meta_steps: Annotated[int, Ge(0)] = 0
    """Meta-learning before the training: steps of Adam on the tokens' start over tasks that each tell two classes of the training graphs
    apart. 0: none."""
    meta_pairs: Annotated[int, Ge(1)] = 4
    """Pairs of classes per step, drawn without repetition (all of them where there are fewer)."""
    meta_shots: Annotated[int, Ge(1)] = 5
    """Graphs per class in a task's support and, others, in its query (half of the class where it has fewer)."""
    meta_lr: Annotated[float, Gt(0)] = 1e-3
    """Learning rate of the meta-learning."""
    adapt_lr: Annotated[float, Gt(0)] = 0.01
    """Learning rate of the adaptation to one task."""
    adapt_steps: Annotated[int, Ge(1)] = 2
    """Steps of the adaptation to one task."""
    first_order: bool = False
    """Leave second derivatives out of the meta-learning."""


class AllInOne(GraphMethod):
    """insert_nodes: per graph, nodes [Z; X] and edges inner (token -> token) + own + cross (token -> node), no edges back; logits =
    head( mean over tokens and nodes ).
    weighted_sum: x'_v = x_v + sum_k w_vk z_k, w_vk = sigmoid(z_k . x_v) where that reaches cross_prune, else 0.
    light: score_c = mean GNN(G) . mean GNN(prompt graph c).

    Z (T, D) starts kaiming-uniform (a = 0.01). Links follow the current tokens at every forward and carry no gradient. New edges of
    molecules have the bond type of self-loops. Parameters: T D (light C T D), + d C + C with a head.

    With `meta_steps`, tokens and a head for two classes first learn a start from which `adapt_steps` on a few graphs of two classes serve
    other graphs of these (second-order MAML). The paper's tasks come from other data; here they are pairs of the training classes.
    """

    Config = AllInOneConfig
    recipe: ClassVar[Mapping[str, Any]] = {
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 1e-5,
        "schedule": "constant",
        "batch_size": 10,
        "epochs": 100,
    }
    config: AllInOneConfig

    def __init__(self, config: AllInOneConfig, backbones: Mapping[str, Backbone], task: Task) -> None:
        super().__init__(config, backbones, task)
        light = config.mode == "light"
        if not task.class_names() and (light or config.double_softmax):
            raise ConfigError(
                "mode='light' and double_softmax need one of several classes; these data have yes/no properties"
            )
        if config.meta_steps and (light or not task.class_names()):
            raise ConfigError("meta_steps needs a head and one of several classes per graph; leave it out")
        sets, count = (task.outputs, config.tokens or 100) if light else (1, config.tokens or 10)
        self.inner = config.inner_prune if config.inner_prune is not None else (0.01 if light else 0.3)
        self.tokens = nn.Parameter(torch.empty(sets, count, self.backbone.prompt_dim))
        for one in self.tokens:
            nn.init.kaiming_uniform_(one, a=0.01, mode="fan_in", nonlinearity="leaky_relu")
        self.head = None if light else build_head(self.backbone.dim, task.outputs)
        if light:
            self.class_tensors = ("tokens",)

    def resized(self, name: str, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        """With more tokens the new ones are fresh."""
        return overlaid(tensor, self.tokens, axis=1) if name == "tokens" else None

    def joined(self, graphs: Graphs, tokens: Tensor) -> Graphs:
        """The graphs with the prompt graph of `tokens` (T, D) in front of each: nodes [T tokens, n_b nodes]."""
        x, device = graphs.x, graphs.x.device
        count, batch = len(tokens), len(graphs)
        shift = count * (graphs.graph + 1)  # every node moves behind its own tokens and those of earlier graphs
        with torch.no_grad():
            inner = links(tokens, tokens, self.inner)  # (2, inner)
            cross = links(tokens, x, self.config.cross_prune)  # (2, cross): token, node
        starts = graphs.starts + count * torch.arange(batch, device=device)  # (graph,) first token
        own = graphs.edge_index + shift[graphs.edge_index[0]] if graphs.edge_index.numel() else graphs.edge_index
        parts = [
            (
                (inner[:, None] + starts[None, :, None]).flatten(1),
                torch.arange(batch, device=device).repeat_interleave(inner.shape[1]),
            ),
            (own, graphs.graph[graphs.edge_index[0]]),
            (
                torch.stack([cross[0] + starts[graphs.graph[cross[1]]], cross[1] + shift[cross[1]]]),
                graphs.graph[cross[1]],
            ),
        ]
        edges, owner = torch.cat([p[0] for p in parts], 1), torch.cat([p[1] for p in parts])
        order = torch.argsort(owner, stable=True)
        attributes = None
        if graphs.edge_attr is not None:
            new = torch.tensor([SELF_LOOP, 0], device=device)
            attributes = torch.cat(
                [new.expand(parts[0][0].shape[1], 2), graphs.edge_attr, new.expand(cross.shape[1], 2)]
            )[order]
        place = torch.arange(len(x), device=device) + shift
        token_rows = (starts[:, None] + torch.arange(count, device=device)).flatten()
        features = torch.cat([tokens.repeat(batch, 1), x])[torch.argsort(torch.cat([token_rows, place]))]
        counts = torch.bincount(owner, minlength=batch)
        return Graphs(features, edges[:, order], attributes, graphs.sizes + count, counts, embedded=True)

    def weighted(self, x: Tensor, tokens: Tensor) -> Tensor:
        """(node, D): sum of each node's weighted tokens."""
        weight = torch.sigmoid(x @ tokens.T)
        return (weight * (weight >= self.config.cross_prune)) @ tokens

    def pooled(self, graphs: Graphs, tokens: Tensor) -> Tensor:
        """(graph, d) mean embedding of the graphs with their tokens (T, D), for the modes with a head."""
        if self.config.mode == "insert_nodes":
            graphs = self.joined(self.backbone.embed(graphs), tokens)
            return graphs.mean(self.nodes(graphs))
        return graphs.mean(self.nodes(graphs, {"input": Add(lambda x, _: self.weighted(x.float(), tokens))}))

    def prompt_graphs(self) -> Graphs:
        """One graph per class, tokens linked by `inner_prune` (light)."""
        sets, count, _ = self.tokens.shape
        with torch.no_grad():
            inner = [links(one, one, self.inner) + count * n for n, one in enumerate(self.tokens)]
        edges = torch.cat(inner, 1)
        bonds = (
            torch.tensor([SELF_LOOP, 0], device=edges.device).expand(edges.shape[1], 2)
            if self.backbone.categorical
            else None
        )
        sizes = torch.full((sets,), count, device=edges.device)
        counts = torch.tensor([part.shape[1] for part in inner], device=edges.device)
        return Graphs(self.tokens.flatten(0, 1), edges, bonds, sizes, counts, embedded=True)

    def forward(self, batch: Batch) -> Tensor:
        """(graph, output) logits."""
        if self.head is None:
            graphs, classes = batch.inputs, self.prompt_graphs()
            scores = self.own_precision(graphs.mean(self.nodes(graphs)) @ classes.mean(self.nodes(classes)).T)
        else:
            scores = self.head(self.pooled(batch.inputs, self.tokens[0]))
        return scores.softmax(-1) if self.config.double_softmax else scores

    def stages(self, ctx: Any) -> Iterator[Stage]:
        if self.head is None:
            yield Stage("train")
            return
        if self.config.meta_steps:
            yield Stage("meta", trains=("tokens", "head.*"), streams={}, run=self.meta_learn)
        per_epoch = math.ceil(len(ctx.data["train"]) / min(ctx.options.batch_size, len(ctx.data["train"])))
        optimisers = {"prompt": Optimiser(("tokens",)), "head": Optimiser(("head.*",), {"lr": self.config.head_lr})}
        yield Stage("train", optimisers=optimisers, step_parts=lambda step: self.alternate(step, per_epoch))

    def alternate(self, ctx: Any, per_epoch: int) -> dict[str, Any]:
        """`head_epochs` epochs of the head, `prompt_epochs` of the tokens, and again."""
        head, prompt = self.config.head_epochs, self.config.prompt_epochs
        turn = "head" if (ctx.step // per_epoch) % (head + prompt) < head else "prompt"
        self.tokens.requires_grad_(turn == "prompt")
        assert self.head is not None
        self.head.requires_grad_(turn == "head")

        def part(batches: Mapping[str, Batch]) -> Tensor:
            loss, count = self.task.loss(self(batches["train"]), batches["train"])
            ctx.backward(loss, count)
            return torch.stack([loss.detach() * count, torch.tensor(float(count), device=ctx.device)])

        # A process may have no sample in the draw; it still joins the update.
        totals = sum(ctx.each_part(part), torch.zeros(2, device=ctx.device))
        ctx.update(turn)
        loss, count = ctx.reduce(totals)
        return {"loss": loss / count.clamp(min=1)}

    def meta_learn(self, ctx: Any) -> None:
        """The same on every process. The head for two classes is what the training starts from where the data have two."""
        config, data = self.config, ctx.data["train"]
        head = nn.Linear(self.backbone.dim, 2)
        nn.init.normal_(head.weight, std=self.backbone.dim**-0.5, generator=ctx.rng("head"))
        nn.init.zeros_(head.bias)
        start = [
            value.detach().to(ctx.device, copy=True).requires_grad_() for value in (self.tokens, *head.parameters())
        ]
        optimiser = torch.optim.Adam(start, lr=config.meta_lr)
        rows: dict[int, list[int]] = {}
        for row, label in enumerate(data.labels):
            rows.setdefault(label, []).append(row)
        scarce = [self.task.class_names()[label] for label, found in rows.items() if len(found) < 2]
        if scarce:
            raise DataError(f"meta_steps needs 2 training graphs or more per class; {', '.join(scarce)} has 1")
        pairs = list(itertools.combinations(sorted(rows), 2))

        def loss_of(chosen: Sequence[Sequence[int]]) -> Callable[[Sequence[Tensor]], Tensor]:
            picked = [row for part in chosen for row in part]
            graphs = (
                data.collate(picked, [data.sample(row, epoch=None, seed=0) for row in picked]).to(ctx.device).inputs
            )
            target = torch.repeat_interleave(torch.arange(2), torch.tensor([len(part) for part in chosen])).to(
                ctx.device
            )

            def loss(own: Sequence[Tensor]) -> Tensor:
                tokens, weight, bias = own
                return functional.cross_entropy(functional.linear(self.pooled(graphs, tokens[0]), weight, bias), target)

            return loss

        losses = []
        for step in range(config.meta_steps):
            rng = ctx.rng("meta", step)
            tasks = [pairs[i] for i in torch.randperm(len(pairs), generator=rng)[: config.meta_pairs].tolist()]
            total = torch.zeros((), device=ctx.device)
            for pair in tasks:
                drawn = [[rows[c][i] for i in torch.randperm(len(rows[c]), generator=rng).tolist()] for c in pair]
                size = [min(config.meta_shots, len(one) // 2) for one in drawn]
                support = loss_of([one[:k] for one, k in zip(drawn, size, strict=True)])
                query = loss_of([one[k : 2 * k] for one, k in zip(drawn, size, strict=True)])
                how: dict[str, Any] = {
                    "lr": config.adapt_lr,
                    "steps": config.adapt_steps,
                    "first_order": config.first_order,
                }
                total = total + adapted_loss(start, support, query, **how)
            for value, gradient in zip(start, torch.autograd.grad(total / len(tasks), start), strict=True):
                value.grad = gradient
            optimiser.step()
            losses.append(float(total.detach()) / len(tasks))
        ctx.log({"first_query_loss": losses[0], "query_loss": losses[-1]})
        with torch.no_grad():
            self.tokens.copy_(start[0])
            if self.task.outputs == 2:
                for value, found in zip(self.get_submodule("head").parameters(), start[1:], strict=True):
                    value.copy_(found)


def links(tokens: Tensor, others: Tensor, threshold: float) -> Tensor:
    """(2, edge) token -> other wherever sigmoid(token . other) reaches the threshold."""
    return (torch.sigmoid(tokens @ others.T) >= threshold).nonzero().T
