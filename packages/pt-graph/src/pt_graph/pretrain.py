"""`pt-graph pretrain`: make a backbone from unlabelled graphs. Also the recipe of the built-in one.

masked_edge      dot product of the end points' embeddings, BCE against as many random pairs (RELIEF's node tasks (a))
contrastive_edge s_v = sum over v and its neighbours; -log( e^{cos(s_v, s_a)/tau} / (e^{cos(s_v, s_a)/tau} + e^{cos(s_v, s_b)/tau}) ) with a
                 linked to v, b not, tau 0.2 (RELIEF (b), GraphPrompt)
attribute_masking 15 % of the atoms become the mask token (and their bonds the mask bond); a linear layer predicts the atom, cross-entropy
                 (Hu et al. 2020; molecules only)
context_prediction does an atom's K-hop neighbourhood belong to this surrounding? Dot product of the main network's embedding of the
                 atom with the mean embedding, by a second network, of the atoms in the ring of K-1 to K+2 hops; BCE against the ring of
                 another molecule of the batch (Hu et al. 2020; molecules only)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from pt_core.data import generator
from pt_core.errors import ConfigError, DataError
from pt_core.randomness import seeded
from pt_core.run.pretrain.loop import descend
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from pt_graph.graphs.batch import Graphs, collate, single
from pt_graph.graphs.structure import Structure
from pt_graph.networks.molecular import MASK_ATOM, MolecularGNN
from pt_graph.networks.plain import PlainGNN
from pt_graph.networks.saved import save_network
from pt_graph.options import PretrainConfig

MASK_BOND = 5
MASKED = 0.15
TAU = 0.2
HOPS = 2
"""K of context prediction for small molecules (published: 5 layers, ring of 4 to 7 hops)."""
GENERATED = 4000
"""Molecules of the built-in recipe."""


def pretrain(config: PretrainConfig, graphs: Sequence[Graphs], out: Path, source: str) -> nn.Module:
    """Train, keep the weights of the epoch with the lowest training loss, and write them (half precision) with their recipe.

    Raises:
        ConfigError: the objective does not fit the graphs.
        NonFiniteError: the loss became nan or infinite; nothing is written.
    """
    if not graphs:
        raise DataError("there are no graphs to pre-train on")
    molecules = graphs[0].edge_attr is not None and not graphs[0].x.is_floating_point()
    if not molecules and config.objective in ("attribute_masking", "context_prediction"):
        raise ConfigError(f"objective {config.objective!r} needs molecules; use masked_edge or contrastive_edge")
    started = time.perf_counter()
    with seeded(config.seed, "pretrain"):
        net = build(config, graphs[0], molecules)
        loss_of, extra = OBJECTIVES[config.objective](config, net)
        optimiser = torch.optim.Adam([*net.parameters(), *extra], lr=config.lr, weight_decay=config.weight_decay)
        best, kept, history = math.inf, {k: v.clone() for k, v in net.state_dict().items()}, []
        rng = generator(config.seed, "pretrain")

        def epoch(parts: Sequence[Tensor]) -> list[float]:
            batches = [[graphs[row] for row in part.tolist()] for part in parts]
            return descend(lambda step: loss_of(collate(batches[step]), rng), optimiser, len(batches), title=None)

        for _ in tqdm(range(config.epochs), desc="pretrain", delay=2, disable=None):
            net.train()
            losses = epoch(torch.randperm(len(graphs), generator=rng).split(config.batch_size))
            if not losses:
                raise DataError("no batch has an edge to learn from")
            mean = sum(losses) / len(losses)
            history.append(round(mean, 5))
            if mean < best:
                best, kept = mean, {k: v.clone() for k, v in net.state_dict().items()}
        net.load_state_dict(kept)
    net.eval()
    card = {
        "recipe": asdict(config),
        "graphs": len(graphs),
        "source": source,
        "losses": history,
        "lowest_loss": round(best, 5),
        "seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__,
    }
    save_network(net, out, card)
    return net


def build(config: PretrainConfig, sample: Graphs, molecules: bool) -> nn.Module:
    if molecules:
        net: nn.Module = MolecularGNN(config.network, config.dim, config.layers, config.dropout)
    else:
        kind: Any = {"graphsage": "sage"}.get(config.network, config.network)
        net = PlainGNN(kind, [sample.x.shape[1], *[config.dim] * config.layers], "leaky_relu", config.dropout)
    return net


LossOf = Callable[[Graphs, torch.Generator], Tensor | None]
Objective = Callable[[PretrainConfig, Any], tuple[LossOf, list[nn.Parameter]]]


def masked_edge(config: PretrainConfig, net: Any) -> tuple[LossOf, list[nn.Parameter]]:
    def loss(batch: Graphs, rng: torch.Generator) -> Tensor | None:
        hidden = net(net.embed(batch.x), batch.structure)
        forward = batch.edge_index[:, batch.edge_index[0] < batch.edge_index[1]]
        if not forward.shape[1]:
            return None
        negative = unlinked(batch, forward[0], rng)
        pairs = torch.cat([forward, torch.stack([forward[0], negative])], 1)
        score = (hidden[pairs[0]] * hidden[pairs[1]]).sum(-1)
        linked = torch.cat([torch.ones(forward.shape[1]), torch.zeros(len(negative))])
        return F.binary_cross_entropy_with_logits(score, linked)

    return loss, []


def contrastive_edge(config: PretrainConfig, net: Any) -> tuple[LossOf, list[nn.Parameter]]:
    def loss(batch: Graphs, rng: torch.Generator) -> Tensor | None:
        if not batch.edge_index.shape[1]:
            return None
        hidden = net(net.embed(batch.x), batch.structure)
        readout = batch.structure.view("own").gather(hidden, "sum") + hidden
        anchor, near = batch.edge_index
        far = unlinked(batch, anchor, rng)
        positive, negative = (F.cosine_similarity(readout[anchor], readout[other]) / TAU for other in (near, far))
        return F.softplus(negative - positive).mean()

    return loss, []


def unlinked(batch: Graphs, anchors: Tensor, rng: torch.Generator) -> Tensor:
    """(anchor,) a random node that is not the anchor's neighbour, where a few tries find one: of the same molecule, and of any graph of
    the batch where graphs are parts of one large graph (float features), so that far nodes are told from near ones."""
    linked = batch.edge_index[0] * batch.nodes + batch.edge_index[1]
    first, size = batch.starts[batch.graph[anchors]], batch.sizes[batch.graph[anchors]]
    if batch.x.is_floating_point():
        first, size = torch.zeros_like(first), torch.full_like(size, batch.nodes)

    def draw() -> Tensor:
        return first + torch.minimum((torch.rand(len(anchors), generator=rng) * size).long(), size - 1)

    chosen = draw()
    for _ in range(4):
        bad = torch.isin(anchors * batch.nodes + chosen, linked) | (chosen == anchors)
        chosen = torch.where(bad, draw(), chosen)
    return chosen


def attribute_masking(config: PretrainConfig, net: Any) -> tuple[LossOf, list[nn.Parameter]]:
    head = nn.Linear(config.dim, MASK_ATOM)

    def loss(batch: Graphs, rng: torch.Generator) -> Tensor | None:
        hide = torch.rand(batch.nodes, generator=rng) < MASKED
        if not bool(hide.any()):
            return None
        atoms = torch.where(hide[:, None], torch.tensor([MASK_ATOM, 0]), batch.x)
        touched = hide[batch.edge_index[0]] | hide[batch.edge_index[1]]
        assert batch.edge_attr is not None
        bonds = torch.where(touched[:, None], torch.tensor([MASK_BOND, 0]), batch.edge_attr)
        masked = replace(batch, x=atoms, edge_attr=bonds)
        hidden = net(net.embed(masked.x), masked.structure)
        return F.cross_entropy(head(hidden[hide]), batch.x[hide, 0])

    return loss, list(head.parameters())


def context_prediction(config: PretrainConfig, net: Any) -> tuple[LossOf, list[nn.Parameter]]:
    other = build(replace(config, layers=3), single(torch.zeros(1, 2, dtype=torch.long), torch.zeros(2, 0)), True)

    def loss(batch: Graphs, rng: torch.Generator) -> Tensor | None:
        centre = batch.starts + (torch.rand(len(batch), generator=rng) * batch.sizes).long().clamp(max=batch.sizes - 1)
        hops = hop_distance(batch, centre, HOPS + 2)
        inside, ring = (hops >= 0) & (hops <= HOPS), hops >= HOPS - 1
        keep = torch.zeros(len(batch), dtype=torch.bool).index_fill(0, batch.graph[hops > HOPS], True)
        if int(keep.sum()) < 2:
            return None  # molecules within K hops have no surrounding
        near, far = (restrict(batch, chosen) for chosen in (inside, ring))
        here = net(net.embed(batch.x), near)[centre][keep]
        hidden = other(other.embed(batch.x), far)  # type: ignore[operator]
        around = batch.sum(hidden * ring[:, None]) / batch.sum(ring[:, None].float()).clamp(min=1)
        score = torch.cat([(here * around[keep]).sum(-1), (here * around[keep].roll(1, 0)).sum(-1)])
        truth = torch.cat([torch.ones(len(here)), torch.zeros(len(here))])
        return F.binary_cross_entropy_with_logits(score / math.sqrt(config.dim), truth)

    return loss, list(other.parameters())


def hop_distance(batch: Graphs, centre: Tensor, most: int) -> Tensor:
    """(node,) hops from the centre of its graph, -1 beyond `most`."""
    hops = torch.full((batch.nodes,), -1).index_fill(0, centre, 0)
    for step in range(1, most + 1):
        reached = batch.edge_index[1][hops[batch.edge_index[0]] == step - 1]
        hops[reached[hops[reached] < 0]] = step
    return hops


def restrict(batch: Graphs, chosen: Tensor) -> Any:
    """The structure with edges among the chosen nodes only."""
    keep = chosen[batch.edge_index[0]] & chosen[batch.edge_index[1]]
    assert batch.edge_attr is not None
    return Structure(batch.edge_index[:, keep], batch.edge_attr[keep], batch.nodes)


OBJECTIVES: dict[str, Objective] = {
    "masked_edge": masked_edge,
    "contrastive_edge": contrastive_edge,
    "attribute_masking": attribute_masking,
    "context_prediction": context_prediction,
}


def pretraining_graphs(data: str | None, seed: int, options: Any = None) -> tuple[list[Graphs], str]:
    """(graphs, where they come from): all parts of a data set without their labels, or generated molecules."""
    if data is None:
        from pt_graph.data.molecules import generate

        return [one.graph() for one in generate(GENERATED, 10_000 + seed)], f"{GENERATED} generated molecules"
    from pt_graph.data.load import load_graphs
    from pt_graph.options import DataOptions

    # All parts are used, so that none need be divided by scaffold.
    parts = load_graphs(data, replace(options or DataOptions(), split="random"), seed)
    return [graph for part in parts.values() for graph in part.graphs], data
