"""Prompt tuning of frozen point-cloud Transformers, and exact point operators.

import pt_pointcloud
run = pt_pointcloud.fit("idpt", data="shapes/", out="runs/idpt")
pt_pointcloud.load("runs/idpt").predict(["mug.off"])
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

# The public names and where they live are listed in __init__.pyi, which type checkers read too.
__getattr__, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)
__all__ = ["__version__", *_names]
