"""A network of the user's own as a backbone."""

from __future__ import annotations

import sys
from typing import Any

from pt_core.errors import UserError
from torch import nn

from pt_graph.networks.backbone import GraphBackbone
from pt_graph.networks.molecular import MolecularGNN
from pt_graph.networks.plain import PlainGNN
from pt_graph.networks.pyg import PyGModel, check_model


def adapt(module: nn.Module, source: str) -> GraphBackbone:
    """The backbone around a module; it is used as it is, frozen and in eval mode.

    Raises:
        UserError: a kind of network without an adapter, or one whose sizes are not known yet.
    """
    net = module if isinstance(module, (MolecularGNN, PlainGNN, PyGModel)) else PyGModel(_pyg(module))
    return GraphBackbone(net, source, {"inputs": "atoms and bonds" if net.needs_bonds else "float features"})


def _pyg(module: Any) -> nn.Module:
    library = sys.modules.get("torch_geometric.nn.models.basic_gnn")  # what was never imported has no instances
    name = type(module).__name__
    if library is None or not isinstance(module, library.BasicGNN):
        raise UserError(
            f"pt-graph has no adapter for a {name}; it takes PyG's GCN, GraphSAGE, GIN, GAT, PNA and EdgeCNN (torch_geometric.nn.models), "
            "and its own MolecularGNN and PlainGNN"
        )
    if not isinstance(module.in_channels, int) or module.in_channels < 0:
        raise UserError(
            f"in_channels={module.in_channels} of this {name} is no width; build it with the number of node features"
        )
    check_model(module, f"this {name}")
    net: nn.Module = module
    return net
