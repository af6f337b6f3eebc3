"""Checkpoints that others trained: the molecular family, PyG's networks, ProG's `conv_layers`; sizes come from the tensors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import torch
from pt_core.errors import UserError, nearest
from torch import Tensor, nn

from pt_graph.networks.molecular import KINDS, Kind, MolecularGNN
from pt_graph.networks.plain import ACTIVATIONS, PlainGNN
from pt_graph.networks.pyg import arguments, model_of
from pt_graph.networks.state import assign, read_state

PYG = {"GCN": "gcn", "GIN": "gin", "GraphSAGE": "sage", "GAT": "gat"}
"""PyG's name -> kind of `PlainGNN`."""


def molecular(kind: str, path: Path) -> MolecularGNN:
    """A checkpoint of the molecular family; width and depth are those of its tensors.

    Raises:
        UserError: not of this family or kind.
    """
    state, _ = read_state(path)
    if "x_embedding1.weight" not in state or "gnns.0.edge_embedding1.weight" not in state:
        raise UserError(
            f"{path} is no checkpoint of the molecular family (no x_embedding1, gnns.0.edge_embedding1); for plain "
            "GNNs use pyg:GCN and the like"
        )
    marks: dict[str, str] = {
        "gin": "mlp.0.weight",
        "gcn": "linear.weight",
        "graphsage": "linear.weight",
        "gat": "weight_linear.weight",
    }
    if f"gnns.0.{marks[kind]}" not in state:
        fits: list[str] = [k for k in KINDS if f"gnns.0.{marks[k]}" in state] or ["no kind of the family"]
        raise UserError(f"{path} does not hold chem:{kind} weights; its tensors are those of {' or '.join(fits)}")
    depth = 1 + max(int(m[1]) for name in state if (m := re.match(r"gnns\.(\d+)\.", name)))
    net = MolecularGNN(cast(Kind, kind), state["x_embedding1.weight"].shape[1], depth)
    assign(net, state, path)
    return net


def pyg_problem(name: str) -> str | None:
    """What is wrong with the NAME of `pyg:NAME`; no weights are read."""
    if "," in name:
        try:
            arguments(name)
        except UserError as error:
            return str(error)
        return None
    kind, _, activation = name.partition(":")
    if kind not in PYG:
        return f"pyg:{kind} is not supported{nearest(kind, PYG)}; use {', '.join(PYG)}"
    if activation and activation not in ACTIVATIONS:
        return f"activation {activation!r} is unknown{nearest(activation, ACTIVATIONS)}; {', '.join(ACTIVATIONS)}"
    return None


def pyg(kind: str, activation: str, path: Path) -> PlainGNN:
    """A state dict of a PyG `nn.models` network without norms and jumping knowledge (or of ProG's `conv_layers`).

    Raises:
        UserError: other layers than `convs.*`, or shapes that do not chain.
    """
    state, _ = read_state(path)
    state = {re.sub(r"^conv_layers\.", "convs.", name): value for name, value in state.items()}
    foreign = sorted(name for name in state if not name.startswith("convs."))
    if foreign or not state:
        raise UserError(
            f"{path} has {foreign[0] if foreign else 'no layers'}; only convs.* layers can be read by themselves; "
            f"for norms and jumping knowledge give the model's arguments, as in pyg:{kind},in_channels=N,hidden_channels=N,norm=batch_norm"
        )
    depth = 1 + max(int(name.split(".")[1]) for name in state)
    rename = {
        "gcn": {"lin.weight": "lin.weight", "bias": "bias.value"},
        "gin": {f"nn.lins.{i}.{part}": f"mlp.{2 * i}.{part}" for i in (0, 1) for part in ("weight", "bias")},
        "sage": {name: name for name in ("lin_l.weight", "lin_l.bias", "lin_r.weight")},
        "gat": {"lin.weight": "lin.weight", "bias": "bias.value", "att_src": "source.value", "att_dst": "target.value"},
    }[PYG[kind]]
    first = next(iter(rename))
    renamed: dict[str, Tensor] = {}
    widths: list[int] = []
    heads: list[int] = []
    eps: list[float] = []
    for layer in range(depth):
        own = {name.split(".", 2)[2]: value for name, value in state.items() if name.startswith(f"convs.{layer}.")}
        eps.append(float(own.pop("eps", torch.zeros(1)).reshape(-1)[0]))
        if set(own) != set(rename):
            wrong = sorted(set(own) ^ set(rename))
            raise UserError(f"{path}: layer {layer} is no plain pyg:{kind} layer (differs in {', '.join(wrong[:4])})")
        renamed |= {f"layers.{layer}.{rename[name]}": value for name, value in own.items()}
        widths += [own[first].shape[1], own[first].shape[0]] if layer == 0 else [own[first].shape[0]]
        heads.append(own["att_src"].shape[1] if "att_src" in own else 1)
    # PyG's GIN has its activation inside the layers too.
    named = cast(Any, activation)
    net = PlainGNN(cast(Any, PYG[kind]), widths, named, heads=heads, eps=eps, inner=named)
    assign(net, renamed, path)
    return net


def pyg_model(text: str, path: Path) -> nn.Module:
    """A state dict of any PyG `nn.models` network, with its arguments as `NAME,key=value,...`.

    Raises:
        UserError: unknown model or argument, or tensors that are not those of the model.
    """
    state, _ = read_state(path)
    net = model_of(text, state)
    assign(net.net, state, path)
    return net
