"""Prompt tensors, kernels and the contracts that the pt packages share.

Names are loaded on first use, so that `import pt_core` is quick and command-line help does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "Add": "backbone",
    "Backbone": "backbone",
    "Claim": "backbone",
    "Edit": "backbone",
    "Edits": "backbone",
    "Features": "backbone",
    "Insert": "backbone",
    "KeyValue": "backbone",
    "Layout": "backbone",
    "LoweredEdits": "backbone",
    "Replace": "backbone",
    "Batch": "data",
    "Dataset": "data",
    "UserError": "errors",
    "Fingerprint": "fingerprint",
    "prompt_attention": "kernels",
    "reference_kernels": "kernels",
    "Method": "method",
    "Optimiser": "method",
    "Stage": "method",
    "StepOutput": "method",
    "Stream": "method",
    "PromptBank": "prompts",
    "PromptTokens": "prompts",
    "Evaluator": "task",
    "Task": "task",
}
__all__ = ["__version__", *sorted(_EXPORTS)]

if TYPE_CHECKING:
    from pt_core.backbone import (
        Add,
        Backbone,
        Claim,
        Edit,
        Edits,
        Features,
        Insert,
        KeyValue,
        Layout,
        LoweredEdits,
        Replace,
    )
    from pt_core.data import Batch, Dataset
    from pt_core.errors import UserError
    from pt_core.fingerprint import Fingerprint
    from pt_core.kernels import prompt_attention, reference_kernels
    from pt_core.method import Method, Optimiser, Stage, StepOutput, Stream
    from pt_core.prompts import PromptBank, PromptTokens
    from pt_core.task import Evaluator, Task


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"pt_core.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module 'pt_core' has no attribute {name!r}")
