"""Prompt tuning of frozen time-series encoders for multi-source domain adaptation.

import pt_timeseries
run = pt_timeseries.fit("pond", data="sensors.npz", target="subject7", backbone="file:encoder.safetensors", out="runs/pond")
pt_timeseries.load("runs/pond").predict([window])  # (channel, step)
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
    "load_windows": "data",
    "DataOptions": "data",
    "WindowDataset": "data",
    "infonce": "information",
    "leave_one_out": "information",
    "POND": "methods.pond",
    "PONDConfig": "methods.pond",
    "CommonPrompt": "methods.common_prompt",
    "CommonPromptConfig": "methods.common_prompt",
    "SourceOnly": "methods.source_only",
    "SourceOnlyConfig": "methods.source_only",
    "DeepCoral": "methods.coral",
    "CoralConfig": "methods.coral",
    "Codats": "methods.codats",
    "CodatsConfig": "methods.codats",
    "FullOnShots": "methods.full",
    "FullConfig": "methods.full",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_timeseries.api import fit, load, load_many
    from pt_timeseries.backbones import list_backbones, load_backbone
    from pt_timeseries.data import DataOptions, WindowDataset, load_windows
    from pt_timeseries.information import infonce, leave_one_out
    from pt_timeseries.methods.codats import Codats, CodatsConfig
    from pt_timeseries.methods.common_prompt import CommonPrompt, CommonPromptConfig
    from pt_timeseries.methods.coral import CoralConfig, DeepCoral
    from pt_timeseries.methods.full import FullConfig, FullOnShots
    from pt_timeseries.methods.pond import POND, PONDConfig
    from pt_timeseries.methods.source_only import SourceOnly, SourceOnlyConfig


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_timeseries.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_timeseries' has no attribute {name!r}")
