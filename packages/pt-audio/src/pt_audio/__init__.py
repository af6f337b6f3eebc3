"""Acoustic prompt tuning: audio as soft prompts for a frozen language model.

import pt_audio
run = pt_audio.fit("acoustic_apt", data="clips/", out="runs/apt")
pt_audio.load("runs/apt").predict(["clip.wav"], ask=("what are the sound events?",))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Run": "api",
    "fit": "api",
    "load": "api",
    "load_many": "api",
    "load_backbone": "backbones",
    "list_backbones": "backbones",
    "load_audio": "data",
    "DataOptions": "data",
    "LogMel": "logmel",
    "AcousticAPT": "methods.acoustic_apt",
    "AcousticAPTConfig": "methods.acoustic_apt",
    "Projector": "methods.projector",
    "ProjectorConfig": "methods.projector",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_audio.api import Run, fit, load, load_many
    from pt_audio.backbones import list_backbones, load_backbone
    from pt_audio.data import DataOptions, load_audio
    from pt_audio.logmel import LogMel
    from pt_audio.methods.acoustic_apt import AcousticAPT, AcousticAPTConfig
    from pt_audio.methods.projector import Projector, ProjectorConfig


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_audio.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_audio' has no attribute {name!r}")
