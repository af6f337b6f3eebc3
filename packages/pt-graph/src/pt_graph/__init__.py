"""Prompt tuning of frozen pretrained graph neural networks: RELIEF, GPF, GPF-plus, SUPT, All-in-One, GraphPrompt, GPPT.

import pt_graph
run = pt_graph.fit("relief", data="molecules.csv", total_shots=50, out="runs/relief")
pt_graph.load("runs/relief").predict(["CCO"])
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
