"""Soft prompts for frozen language models: prompt tuning, prefix tuning, P-tuning, IAPT, CPT.

import pt_language
run = pt_language.fit("prompt_tuning", data="reviews.csv", out="runs/pt")
pt_language.load("runs/pt").predict(["a fine film"])
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
    "load_text": "data",
    "DataOptions": "data",
    "Template": "templates",
    "PromptServer": "server",
    "export_peft": "interop",
    "import_peft": "interop",
    "PromptTuning": "methods.prompt_tuning",
    "PromptTuningConfig": "methods.prompt_tuning",
    "Prefix": "methods.prefix",
    "PrefixConfig": "methods.prefix",
    "PTuning": "methods.p_tuning",
    "PTuningConfig": "methods.p_tuning",
    "CPT": "methods.cpt",
    "CPTConfig": "methods.cpt",
    "IAPT": "methods.iapt",
    "IAPTConfig": "methods.iapt",
    "InContext": "methods.icl",
    "InContextConfig": "methods.icl",
    "LoRA": "methods.lora",
    "LoRAConfig": "methods.lora",
    "FullFineTuning": "methods.full",
    "FullConfig": "methods.full",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_language.api import Run, fit, load, load_many
    from pt_language.backbones import list_backbones, load_backbone
    from pt_language.data import DataOptions, load_text
    from pt_language.interop import export_peft, import_peft
    from pt_language.methods.cpt import CPT, CPTConfig
    from pt_language.methods.full import FullConfig, FullFineTuning
    from pt_language.methods.iapt import IAPT, IAPTConfig
    from pt_language.methods.icl import InContext, InContextConfig
    from pt_language.methods.lora import LoRA, LoRAConfig
    from pt_language.methods.p_tuning import PTuning, PTuningConfig
    from pt_language.methods.prefix import Prefix, PrefixConfig
    from pt_language.methods.prompt_tuning import PromptTuning, PromptTuningConfig
    from pt_language.server import PromptServer
    from pt_language.templates import Template


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_language.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_language' has no attribute {name!r}")
