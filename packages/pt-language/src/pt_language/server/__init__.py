"""Many tuned prompts over one frozen language model: in Python (`PromptServer`) and over HTTP (`pt-language serve`)."""

from pt_language.server.prompts import Completion, Limits, PromptServer, Request, Tenant, TooLong, UnknownPrompt

__all__ = ["Completion", "Limits", "PromptServer", "Request", "Tenant", "TooLong", "UnknownPrompt"]
