"""Prompt tuning of frozen vision backbones.

import pt_vision
run = pt_vision.fit("vpt", data="photos/", shots=16, out="runs/vpt")
pt_vision.load("runs/vpt").predict(["photo.jpg"])
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
    "load_images": "data",
    "DataOptions": "data",
    "ImageDataset": "data",
    "VPT": "methods.vit.vpt",
    "VPTConfig": "methods.vit.vpt",
    "DVPT": "methods.vit.dvpt",
    "DVPTConfig": "methods.vit.dvpt",
    "VPTPixel": "methods.vit.vpt_pixel",
    "VPTPixelConfig": "methods.vit.vpt_pixel",
    "LinearProbe": "methods.vit.linear",
    "LinearConfig": "methods.vit.linear",
    "FullFineTuning": "methods.vit.full",
    "FullConfig": "methods.vit.full",
    "SegmentationDataset": "segmentation.data",
    "CoDA": "methods.segmentation.coda",
    "CoDAConfig": "methods.segmentation.coda",
    "DVPTSeg": "methods.segmentation.dvpt_seg",
    "DVPTSegConfig": "methods.segmentation.dvpt_seg",
    "SelfTraining": "methods.segmentation.self_training",
    "SelfTrainingConfig": "methods.segmentation.self_training",
    "SourceOnly": "methods.segmentation.source_only",
    "SourceOnlyConfig": "methods.segmentation.source_only",
    "LinearSegProbe": "methods.segmentation.linear_seg",
    "LinearSegConfig": "methods.segmentation.linear_seg",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_vision.api import fit, load, load_many
    from pt_vision.backbones import list_backbones, load_backbone
    from pt_vision.data import DataOptions, ImageDataset, load_images
    from pt_vision.methods.segmentation.coda import CoDA, CoDAConfig
    from pt_vision.methods.segmentation.dvpt_seg import DVPTSeg, DVPTSegConfig
    from pt_vision.methods.segmentation.linear_seg import LinearSegConfig, LinearSegProbe
    from pt_vision.methods.segmentation.self_training import SelfTraining, SelfTrainingConfig
    from pt_vision.methods.segmentation.source_only import SourceOnly, SourceOnlyConfig
    from pt_vision.methods.vit.dvpt import DVPT, DVPTConfig
    from pt_vision.methods.vit.full import FullConfig, FullFineTuning
    from pt_vision.methods.vit.linear import LinearConfig, LinearProbe
    from pt_vision.methods.vit.vpt import VPT, VPTConfig
    from pt_vision.methods.vit.vpt_pixel import VPTPixel, VPTPixelConfig
    from pt_vision.segmentation.data import SegmentationDataset


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_vision.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_vision' has no attribute {name!r}")
