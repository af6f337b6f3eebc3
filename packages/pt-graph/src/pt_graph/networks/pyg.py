"""Any network of PyG's `nn.models` family (GCN, GraphSAGE, GIN, GAT, PNA, EdgeCNN) with its own norms and jumping knowledge."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

import torch
from pt_core.errors import UserError, nearest
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
        name: a class of `families`.
        settings: its arguments.

    Shapes: (node, in) -> (node, out).
    """

    needs_bonds = False

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        super().__init__()
        self.net: Any = families()[name](**settings)
        self.prompt_dim, self.dim, self.depth = self.net.in_channels, self.net.out_channels, self.net.num_layers
        self.dropout = float(self.net.dropout.p)
        self.active_dropout = 0.0

    def embed(self, x: Tensor) -> Tensor:
        """Float features are their own embedding."""
        return x

    def forward(self, hidden: Tensor, structure: Structure) -> Tensor:
        before = self.net.dropout.training
        self.net.dropout.train(self.training or self.active_dropout > 0)
        try:
            result: Tensor = self.net(hidden, structure.edge_index, batch=structure.graph)
        finally:
            self.net.dropout.train(before)
        return result


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
        model = PyGModel(name, settings)
    except (TypeError, ValueError, KeyError, AttributeError, RuntimeError, AssertionError) as error:
        raise UserError(f"PyG's {name} refuses {text!r}: {' '.join(str(error).split())[:160]}") from None
    for module in model.net.convs.modules():
        if (
            type(module).__module__.startswith("torch_geometric.nn.norm")
            and "batch" in inspect.signature(module.forward).parameters
        ):
            raise UserError(
                f"pyg:{text}: inside its layers PyG's {name} normalises over all graphs of a batch together, so a graph's "
                f"embedding would depend on its neighbours; only norm=batch_norm is supported for {name}"
            )
    return model


def _value(text: str) -> Any:
    if "+" in text:
        return text.split("+")
    try:
        return json.loads(text.lower() if text in ("True", "False") else text)
    except ValueError:
        return text
