"""Test support: a tiny backbone, data and task, and the conformance suite `check_method` (which needs `pt-core[run]`)."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["CHECKS", "SLOW_CHECKS", "BadInput", "MethodCase", "check_method"]

if TYPE_CHECKING:
    from pt_core.testing.conformance import CHECKS, SLOW_CHECKS, BadInput, MethodCase, check_method


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("pt_core.testing.conformance"), name)
    raise AttributeError(f"module 'pt_core.testing' has no attribute {name!r}")
