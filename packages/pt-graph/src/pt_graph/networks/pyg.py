"""Any network of PyG's `nn.models` family (GCN, GraphSAGE, GIN, GAT, PNA, EdgeCNN) with its own norms and jumping knowledge."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from pt_core.errors import UserError, nearest
from pt_core.randomness import dropout
from torch import Tensor, nn

from pt_graph.graphs.structure import Structure


def families() -> dict[str, Any]:
    """Name -> class of PyG's models on (x, edge_index)."""
    from torch_geometric.nn import models
    from torch_geometric.nn.models.basic_gnn import BasicGNN

    found = ((name, getattr(models, name)) for name in dir(models))
    return {name: one for name, one in found if inspect.isclass(one) and issubclass(one, BasicGNN)}


class PyGModel(nn.Module):
    """PyG's own module behind the interface of pt-graph's networks.

    Args:
        net: an instance of one of `families`; it is used as it is.

    Shapes: (node, in) -> (node, out).
    """

    needs_bonds = False

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net: Any = net
        self.prompt_dim, self.dim, self.depth = net.in_channels, net.out_channels, net.num_layers
        self.dropout = float(net.dropout.p)
        self.active_dropout = 0.0

    def embed(self, x: Tensor) -> Tensor:
        """Float features are their own embedding."""
        return x

    def forward(self, hidden: Tensor, structure: Structure) -> Tensor:
        own = self.net.dropout
        if self.training or self.active_dropout > 0:
            self.net.dropout = NodeDropout(own.p)
        try:
            result: Tensor = self.net(hidden, structure.edge_index, batch=structure.graph)
        finally:
            self.net.dropout = own
        return result


class NodeDropout(nn.Module):
    """Stands in for the one dropout module that PyG calls behind every layer: each call is a draw of its own, keyed by node."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p, self.calls = p, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return dropout(x, self.p, True, f"nodes behind layer {self.calls}")


def arguments(text: str) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of `NAME,key=value,...`.

    Raises:
        UserError: unknown name, something that is no argument, or none for the widths.
    """
    name, *pairs = text.split(",")
    known = families()
    if name not in known:
        raise UserError(f"no PyG model {name!r}{nearest(name, known)}; known: {', '.join(known)}")
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"{pair!r} in pyg:{text} is not NAME=VALUE")
        settings[key] = _value(value)
    missing = sorted({"in_channels", "hidden_channels"} - set(settings))
    if missing:
        raise UserError(f"pyg:{text} needs {' and '.join(missing)}: give pyg:{name},{missing[0]}=N,...")
    return name, settings


def model_of(text: str, tensors: Mapping[str, Tensor]) -> PyGModel:
    """A network from `NAME,key=value,...`; `num_layers` is counted in the state dict where it is not given.

    Raises:
        UserError: see `arguments`, or arguments that PyG refuses.
    """
    name, settings = arguments(text)
    layers = {int(key.split(".")[1]) for key in tensors if key.startswith("convs.") and key.split(".")[1].isdigit()}
    settings.setdefault("num_layers", len(layers))
    if name == "PNA":  # the degrees of the data it was trained on are in its state dict
        settings.setdefault("deg", torch.ones(2, dtype=torch.long))
    try:
        model = PyGModel(families()[name](**settings))
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise UserError(f"PyG's {name} refuses {text!r}: {' '.join(str(error).split())[:160]}") from None
    check_model(model.net, f"pyg:{text}")
    return model


def check_model(net: Any, where: str) -> None:
    """Refuse a network whose embedding of a graph would depend on the others of its batch, or on attributes of edges.

    Raises:
        UserError: names what is supported.
    """
    name = type(net).__name__
    if any(getattr(conv, "edge_dim", None) is not None for conv in net.convs):
        raise UserError(
            f"{where}: it reads attributes of edges, which float features here come without; leave out edge_dim"
        )
    for module in net.convs.modules():
        if (
            type(module).__module__.startswith("torch_geometric.nn.norm")
            and "batch" in inspect.signature(module.forward).parameters
        ):
            raise UserError(
                f"{where}: inside its layers PyG's {name} normalises over all graphs of a batch together, so a graph's "
                f"embedding would depend on its neighbours; only norm=batch_norm is supported for {name}"
            )


def _value(text: str) -> Any:
    if "+" in text:
        return text.split("+")
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
