"""Prompt tuning of frozen pretrained graph neural networks: RELIEF, GPF, GPF-plus, SUPT, All-in-One, GraphPrompt, GPPT.

import pt_graph
run = pt_graph.fit("relief", data="molecules.csv", total_shots=50, out="runs/relief")
pt_graph.load("runs/relief").predict(["CCO"])
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "fit": "api",
    "load": "api",
    "load_many": "api",
    "load_backbone": "backbones",
    "list_backbones": "backbones",
    "load_graphs": "data",
    "DataOptions": "data",
    "GraphDataset": "data",
    "Graphs": "graphs",
    "from_pyg": "sources.pyg",
    "save_graphs": "sources.arrays",
    "RELIEF": "methods.relief",
    "RELIEFConfig": "methods.relief",
    "GPF": "methods.gpf",
    "GPFConfig": "methods.gpf",
    "GPFPlus": "methods.gpf_plus",
    "GPFPlusConfig": "methods.gpf_plus",
    "SUPT": "methods.supt",
    "SUPTConfig": "methods.supt",
    "AllInOne": "methods.all_in_one",
    "AllInOneConfig": "methods.all_in_one",
    "GraphPrompt": "methods.graph_prompt",
    "GraphPromptConfig": "methods.graph_prompt",
    "GPPT": "methods.gppt",
    "GPPTConfig": "methods.gppt",
    "LinearProbe": "methods.linear",
    "LinearConfig": "methods.linear",
    "FullFineTuning": "methods.full",
    "FullConfig": "methods.full",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_graph.api import fit, load, load_many
    from pt_graph.backbones import list_backbones, load_backbone
    from pt_graph.data import DataOptions, GraphDataset, load_graphs
    from pt_graph.graphs import Graphs
    from pt_graph.methods.all_in_one import AllInOne, AllInOneConfig
    from pt_graph.methods.full import FullConfig, FullFineTuning
    from pt_graph.methods.gpf import GPF, GPFConfig
    from pt_graph.methods.gpf_plus import GPFPlus, GPFPlusConfig
    from pt_graph.methods.gppt import GPPT, GPPTConfig
    from pt_graph.methods.graph_prompt import GraphPrompt, GraphPromptConfig
    from pt_graph.methods.linear import LinearConfig, LinearProbe
    from pt_graph.methods.relief import RELIEF, RELIEFConfig
    from pt_graph.methods.supt import SUPT, SUPTConfig
    from pt_graph.sources.arrays import save_graphs
    from pt_graph.sources.pyg import from_pyg


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_graph.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_graph' has no attribute {name!r}")
