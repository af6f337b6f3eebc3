"""Many tuned prompts over one frozen language model: in Python (`PromptServer`) and over HTTP (`pt-language serve`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pt_language.server.prompts import Completion, Limits, PromptServer, Request, Tenant, TooLong, UnknownPrompt

__all__ = ["Completion", "Limits", "PromptServer", "Request", "Tenant", "TooLong", "UnknownPrompt"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported when asked for: the command line's help must not wait for torch
        from pt_language.server import prompts

        return getattr(prompts, name)
    raise AttributeError(f"module 'pt_language.server' has no attribute {name!r}")
