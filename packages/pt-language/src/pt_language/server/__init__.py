"""Many tuned prompts over one frozen language model: in Python (`PromptServer`) and over HTTP (`pt-language serve`)."""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
