"""Prompt tuning of frozen point-cloud Transformers, and exact point operators.

import pt_pointcloud
run = pt_pointcloud.fit("idpt", data="shapes/", out="runs/idpt")
pt_pointcloud.load("runs/idpt").predict(["mug.off"])
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
    "load_clouds": "data",
    "PointDataset": "data",
    "DataOptions": "options",
    "IDPT": "methods.idpt",
    "IDPTConfig": "methods.idpt",
    "IDPTSeg": "methods.idpt_seg",
    "IDPTSegConfig": "methods.idpt_seg",
    "VPT": "methods.vpt",
    "VPTConfig": "methods.vpt",
    "LinearProbe": "methods.linear",
    "LinearConfig": "methods.linear",
    "LinearSegProbe": "methods.linear_seg",
    "LinearSegConfig": "methods.linear_seg",
    "FullFineTuning": "methods.full",
    "FullConfig": "methods.full",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_pointcloud.api import fit, load, load_many
    from pt_pointcloud.backbones import list_backbones, load_backbone
    from pt_pointcloud.data import PointDataset, load_clouds
    from pt_pointcloud.methods.full import FullConfig, FullFineTuning
    from pt_pointcloud.methods.idpt import IDPT, IDPTConfig
    from pt_pointcloud.methods.idpt_seg import IDPTSeg, IDPTSegConfig
    from pt_pointcloud.methods.linear import LinearConfig, LinearProbe
    from pt_pointcloud.methods.linear_seg import LinearSegConfig, LinearSegProbe
    from pt_pointcloud.methods.vpt import VPT, VPTConfig
    from pt_pointcloud.options import DataOptions


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_pointcloud.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_pointcloud' has no attribute {name!r}")
